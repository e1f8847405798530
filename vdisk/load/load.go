// Package load puts a steady load on a disk and says how long it took. It does what
// qemu-img bench does, in the same order, so that the two can stand side by side:
// requests of one size at Offset, Offset+Step, Offset+2*Step and so on, modulo the
// disk's size, Depth of them at a time; each one that completes makes place for the
// next.
package load

import (
	"fmt"
	"sync"
	"time"
	"unsafe"

	"godwit/vdisk"
)

// A Load says what to do. Sizes and offsets are in bytes.
type Load struct {
	Kind  vdisk.Kind // Read, Write, WriteFUA, Discard or WriteZeroes
	Size  int64      // of a request
	Step  int64      // from one request to the next
	Depth int        // requests at a time
	Count int        // requests in all
	Fill  byte       // what is written
	// FlushEvery asks for a flush whenever the requests not yet submitted are a
	// multiple of it; 0 never. Nothing new is submitted until those under way
	// have ended and the flush after them, unless NoDrain is set: then the
	// flush runs beside them.
	FlushEvery int
	NoDrain    bool
}

type runner struct {
	q    *vdisk.Queue
	l    Load
	size int64

	mu       sync.Mutex
	free     []*vdisk.Request
	left     int // not yet submitted
	inFlight int
	flushing bool // and drained
	offset   int64
	err      error
	ended    time.Time
	done     chan struct{}

	flush vdisk.Request
	later *vdisk.Request // a flush beside the writes
	busy  bool           // later is under way
	again bool           // and another was asked for meanwhile
}

// Run puts the load on q's disk of that many bytes. As in qemu-img, a flush after the
// last request is not part of the time.
func Run(q *vdisk.Queue, size int64, l Load) (time.Duration, error) {
	if l.Size <= 0 || l.Size > size || l.Depth <= 0 || l.Count <= 0 || l.Step < 0 || l.FlushEvery < 0 {
		return 0, fmt.Errorf("load: %+v makes no sense on a disk of %d bytes", l, size)
	}
	r := &runner{q: q, l: l, size: size, left: l.Count, done: make(chan struct{})}
	for range min(l.Depth, l.Count) {
		rq := &vdisk.Request{Kind: l.Kind, Complete: r.complete}
		switch l.Kind {
		case vdisk.Discard, vdisk.WriteZeroes:
			rq.Length = l.Size
		default:
			b := Buffer(int(l.Size))
			for i := range b {
				b[i] = l.Fill
			}
			rq.Buffers = [][]byte{b}
		}
		r.free = append(r.free, rq)
	}
	r.flush = vdisk.Request{Kind: vdisk.FlushAll, Complete: r.flushed}
	r.later = &vdisk.Request{Kind: vdisk.FlushAll, Complete: r.flushedBeside}
	start := time.Now()
	r.mu.Lock()
	r.submit()
	<-r.done
	q.Drain() // flushes not counted
	q.Resume()
	return r.ended.Sub(start), r.err
}

// Buffer is memory that direct I/O can use.
func Buffer(n int) []byte {
	const align = 4096
	b := make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % align)
	return b[skip:][:n:n]
}

// submit fills the queue up. It is called with mu held, and leaves it.
func (r *runner) submit() {
	for r.left > 0 && r.inFlight < r.l.Depth && !r.flushing && r.err == nil {
		n := len(r.free) - 1
		rq := r.free[n]
		r.free = r.free[:n]
		rq.Offset = r.offset
		if r.offset += r.l.Step; r.offset+r.l.Size > r.size {
			r.offset %= r.size
			if r.offset+r.l.Size > r.size {
				r.offset = 0
			}
		}
		r.left--
		r.inFlight++
		r.mu.Unlock()
		err := r.q.Submit(rq)
		r.mu.Lock()
		if err != nil {
			r.inFlight--
			r.stop(err)
		}
	}
	if r.inFlight == 0 && !r.flushing && (r.left == 0 || r.err != nil) && r.ended.IsZero() {
		r.ended = time.Now()
		close(r.done)
	}
	r.mu.Unlock()
}

// stop keeps the first error. mu is held.
func (r *runner) stop(err error) {
	if err != nil && r.err == nil {
		r.err = err
	}
}

func (r *runner) complete(rq *vdisk.Request) {
	r.mu.Lock()
	r.stop(rq.Err())
	r.inFlight--
	r.free = append(r.free, rq)
	if f := r.l.FlushEvery; f > 0 && r.left > 0 && r.left%f == 0 && r.err == nil {
		if r.l.NoDrain {
			if r.busy {
				r.again = true
			} else {
				r.busy = true
				r.stop(r.q.Submit(r.later))
			}
		} else {
			if r.inFlight == 0 {
				r.flushing = true
				if err := r.q.Submit(&r.flush); err != nil {
					r.flushing = false
					r.stop(err)
					r.submit()
					return
				}
			}
			r.mu.Unlock()
			return
		}
	}
	r.submit()
}

func (r *runner) flushed(rq *vdisk.Request) {
	r.mu.Lock()
	r.flushing = false
	r.stop(rq.Err())
	r.submit()
}

func (r *runner) flushedBeside(rq *vdisk.Request) {
	r.mu.Lock()
	r.stop(rq.Err())
	r.busy = false
	if r.again && r.left > 0 && r.err == nil {
		r.again, r.busy = false, true
		r.stop(r.q.Submit(rq))
	}
	r.mu.Unlock()
}
