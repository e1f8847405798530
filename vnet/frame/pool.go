package frame

import (
	"fmt"
	"sync"
)

// Memory is where buffers for devices come from: contiguous, never moved,
// aligned to align, zeroed.
type Memory interface {
	Alloc(size, align uint64) (bus uint64, data []byte, err error)
	Free(bus, size uint64)
}

// A Pool is a fixed number of frames, each with one buffer that devices reach.
type Pool struct {
	mem   Memory
	slabs []slab
	size  int

	mu     sync.Mutex
	free   []*Frame
	total  int
	closed bool
}

type slab struct{ bus, size uint64 }

// slabSize is how much a pool allocates at a time: contiguous memory is easier
// found in smaller pieces.
const slabSize = 1 << 18

// NewPool makes n frames with buffers of size bytes, a power of two of at least 64, so
// that none up to a page crosses a page, and larger ones begin on one.
func NewPool(mem Memory, n, size int) (*Pool, error) {
	if n <= 0 || size < 64 || size&(size-1) != 0 {
		return nil, fmt.Errorf("frame: a pool of %d buffers of %d bytes cannot be", n, size)
	}
	p := &Pool{mem: mem, size: size, free: make([]*Frame, 0, n)}
	per := max(slabSize/size, 1)
	for p.total < n {
		count := min(per, n-p.total)
		bytes := uint64(count) * uint64(size)
		bus, data, err := mem.Alloc(bytes, uint64(min(size, 4096)))
		if err != nil {
			p.freeSlabs()
			return nil, fmt.Errorf("frame: buffers: %w", err)
		}
		p.slabs = append(p.slabs, slab{bus, bytes})
		for i := range count {
			at := i * size
			f := New(p)
			f.segments[0] = Segment{data[at : at+size : at+size], bus + uint64(at)}
			p.free = append(p.free, f)
			p.total++
		}
	}
	return p, nil
}

// Size is the size of each frame's buffer.
func (p *Pool) Size() int { return p.size }

// Get returns a frame whose one segment is its whole buffer, or nil when all are
// in use.
func (p *Pool) Get() *Frame {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 || p.closed {
		p.mu.Unlock()
		return nil
	}
	f := p.free[n-1]
	p.free = p.free[:n-1]
	p.mu.Unlock()
	return f.whole()
}

// whole makes the frame's segment its buffer again.
func (f *Frame) whole() *Frame {
	s := &f.segments[0]
	s.Data = s.Data[:cap(s.Data)]
	f.Segments = f.segments[:1]
	f.Length = uint32(len(s.Data))
	f.Offload = Offload{}
	f.Notify = false
	return f
}

// Trim shortens a frame of one segment to its first n bytes.
func (f *Frame) Trim(n int) {
	f.Segments[0].Data = f.Segments[0].Data[:n]
	f.Length = uint32(n)
}

// Recycle is how a frame comes back.
func (p *Pool) Recycle(f *Frame) {
	p.mu.Lock()
	if len(p.free) == p.total {
		p.mu.Unlock()
		panic("frame: released twice")
	}
	p.free = append(p.free, f)
	if p.closed && len(p.free) == p.total {
		p.freeSlabs()
	}
	p.mu.Unlock()
}

// Close gives the buffers' memory back, once all frames are back.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed && len(p.free) == p.total {
		p.freeSlabs()
	}
	p.closed = true
	p.mu.Unlock()
}

func (p *Pool) freeSlabs() {
	for _, s := range p.slabs {
		p.mem.Free(s.bus, s.size)
	}
	p.slabs = nil
}

// InUse is how many frames are out.
func (p *Pool) InUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total - len(p.free)
}
