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
	// OneBuffer gives all requests the same buffer, as qemu-img bench does: it
	// stays in a processor's cache, where one for each request does not. What
	// reads leave in it means nothing.
	OneBuffer bool
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
	offset   int64
	err      error
	ended    time.Time
	done     chan struct{}

	// serial: one goroutine at a time is in turn, and settles what ends
	// meanwhile. So begin all loads, and so go on those that drain.
	serial   bool
	inTurn   bool
	came     int // ended, not settled
	flush    vdisk.Request
	flushing bool
	flushed  bool // and not settled

	beside []*vdisk.Request // flushes beside the requests, not under way
}

// Run puts the load on q's disk of that many bytes. As in qemu-img, a flush after the
// last request is not part of the time.
func Run(q *vdisk.Queue, size int64, l Load) (time.Duration, error) {
	if l.Size <= 0 || l.Size > size || l.Depth <= 0 || l.Count <= 0 || l.Step < 0 || l.FlushEvery < 0 {
		return 0, fmt.Errorf("load: %+v makes no sense on a disk of %d bytes", l, size)
	}
	r := &runner{q: q, l: l, size: size, left: l.Count, done: make(chan struct{}), serial: true}
	var b []byte
	for range min(l.Depth, l.Count) {
		rq := &vdisk.Request{Kind: l.Kind, Complete: r.complete}
		switch l.Kind {
		case vdisk.Discard, vdisk.WriteZeroes:
			rq.Length = l.Size
		default:
			if b == nil || !l.OneBuffer {
				b = Buffer(int(l.Size))
				for i := range b {
					b[i] = l.Fill
				}
			}
			rq.Buffers = [][]byte{b}
		}
		r.free = append(r.free, rq)
	}
	r.flush = vdisk.Request{Kind: vdisk.FlushAll, Complete: r.complete}
	start := time.Now()
	r.mu.Lock()
	r.turn()
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

// stop keeps the first error. mu is held.
func (r *runner) stop(err error) {
	if err != nil && r.err == nil {
		r.err = err
	}
}

func (r *runner) complete(rq *vdisk.Request) {
	r.mu.Lock()
	r.stop(rq.Err())
	if rq == &r.flush {
		r.flushed = true
	} else {
		r.free = append(r.free, rq)
		r.came++
	}
	r.turn()
}

// turn settles what has ended and submits what that makes place for. qemu-img has one
// thread, so what ends while it submits is settled after that: or requests would slip
// in where the queue is to be drained, and some flushes never be due. It is called
// with mu held, and leaves it.
func (r *runner) turn() {
	if r.serial && r.inTurn {
		r.mu.Unlock()
		return
	}
	r.inTurn = true
	for again := true; again; again = r.came > 0 || r.flushed {
		due := false
		if r.flushed {
			r.flushed, r.flushing = false, false
		} else if r.came > 0 {
			r.came--
			r.inFlight--
			f := r.l.FlushEvery
			due = f > 0 && r.left > 0 && r.left%f == 0 && r.err == nil
		}
		switch {
		case due && r.l.NoDrain:
			r.flushBeside()
		case due && r.inFlight == 0:
			r.flushing = true
			if err := r.q.Submit(&r.flush); err != nil {
				r.flushing = false
				r.stop(err)
			}
		case due: // when the last has ended
			continue
		}
		r.submit()
	}
	r.inTurn, r.serial = false, r.l.FlushEvery > 0 && !r.l.NoDrain
	if r.inFlight == 0 && !r.flushing && (r.left == 0 || r.err != nil) && r.ended.IsZero() {
		r.ended = time.Now()
		close(r.done)
	}
	r.mu.Unlock()
}

// submit fills the queue up. mu is held, but not while a request is handed over.
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
}

// flushBeside submits a flush that holds nothing back. mu is held.
func (r *runner) flushBeside() {
	var rq *vdisk.Request
	if n := len(r.beside) - 1; n >= 0 {
		rq, r.beside = r.beside[n], r.beside[:n]
	} else {
		rq = &vdisk.Request{Kind: vdisk.FlushAll, Complete: func(rq *vdisk.Request) {
			r.mu.Lock()
			r.stop(rq.Err())
			r.beside = append(r.beside, rq)
			r.mu.Unlock()
		}}
	}
	r.stop(r.q.Submit(rq))
}
