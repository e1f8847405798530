package vdisk

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// A Kind is what a request asks for.
type Kind uint8

const (
	Read Kind = iota + 1
	Write
	WriteFUA // durable when done, itself and no other
	FlushAll // every request done before it was submitted is durable
	Discard
	WriteZeroes
)

func (k Kind) String() string {
	switch k {
	case Read:
		return "read"
	case Write:
		return "write"
	case WriteFUA:
		return "write with FUA"
	case FlushAll:
		return "flush"
	case Discard:
		return "discard"
	case WriteZeroes:
		return "write zeroes"
	}
	return fmt.Sprintf("request of kind %d", uint8(k))
}

// Status of a request. The last three are final, and reached exactly once.
//
//	Idle ──Submit──> Queued ──worker──> Running ──> Done
//	                   │                   └──────> Failed
//	                   └──Cancel, Quiesce──> Cancelled
type Status uint32

const (
	Idle Status = iota
	Queued
	Running
	Done
	Failed
	Cancelled
)

func (s Status) String() string {
	switch s {
	case Idle:
		return "idle"
	case Queued:
		return "queued"
	case Running:
		return "running"
	case Done:
		return "done"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// A Request is one transfer. Its owner fills it in, submits it, and has it back,
// to use again, when Complete is called.
type Request struct {
	Kind   Kind
	Offset int64
	// Buffers are what Read fills and the writes send, one after the other;
	// each is whole sectors.
	Buffers [][]byte
	Length  int64 // of Discard and WriteZeroes
	// Complete is called exactly once for each submission, by a worker or by
	// whoever cancels. A cancelled request has not touched the medium, and
	// will not. It must not block.
	Complete func(*Request)

	err    error
	status atomic.Uint32
	queue  *Queue
	in     *requests // of queue; nil if no longer there
	next   *Request
	prev   *Request
}

// requests are a list. The queue's mu guards it.
type requests struct {
	first, last *Request
	n           int
}

func (l *requests) add(r *Request) {
	r.in, r.next, r.prev = l, nil, l.last
	if l.last != nil {
		l.last.next = r
	} else {
		l.first = r
	}
	l.last = r
	l.n++
}

func (l *requests) remove(r *Request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		l.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		l.last = r.prev
	}
	r.in, r.next, r.prev = nil, nil, nil
	l.n--
}

// Status now; Done, Failed and Cancelled are final.
func (r *Request) Status() Status { return Status(r.status.Load()) }

// Err is why a request failed, ErrCancelled if it was cancelled.
func (r *Request) Err() error { return r.err }

// Errors of Submit.
var (
	ErrQuiesced = errors.New("the queue is quiesced")
	ErrBusy     = errors.New("the request is in a queue already")
)

// A Disk is what requests are run on: an Image, a LiveDisk, or a Raw.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	SectorSize() int
	Flush() error
	Trim(off, n int64) error
	WriteZeroes(off, n int64) error
}

// A Queue runs requests of one disk, several at a time and in no order: who needs
// one waits for completions. A disk may have many queues; they share nothing but
// the disk.
type Queue struct {
	disk Disk

	mu       sync.Mutex
	work     sync.Cond // a request came, or the queue closes
	idle     sync.Cond // nothing is queued or running
	queued   requests
	flushes  requests // wait for flushing, to share the next
	flushing bool     // a worker is at it: one at a time, so flushes hold no others up
	sleeping int      // workers without work
	waking   int      // of them, called and not yet awake
	running  int
	stopped  int // Quiesce calls not resumed
	closed   bool
	finished sync.WaitGroup

	// Workers inside Complete: each looks for work as soon as it returns, so
	// nobody is woken for what they will take.
	coming atomic.Int32
}

// NewQueue makes a queue with that many workers; zero means 4 times the CPUs.
func (im *Image) NewQueue(workers int) *Queue { return NewQueue(im, workers) }

// NewQueue makes a queue with that many workers; zero means 4 times the CPUs.
func NewQueue(d Disk, workers int) *Queue {
	if workers <= 0 {
		workers = 4 * runtime.NumCPU()
	}
	q := &Queue{disk: d}
	q.work.L, q.idle.L = &q.mu, &q.mu
	q.finished.Add(workers)
	for range workers {
		go q.worker()
	}
	return q
}

// Submit queues a request. If it returns an error the request was not taken, and
// Complete will not be called.
func (q *Queue) Submit(r *Request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return ErrClosed
	case q.stopped > 0:
		return ErrQuiesced
	case r.Complete == nil:
		return errors.New("vdisk: a request without Complete")
	}
	switch s := r.Status(); s {
	case Idle, Done, Failed, Cancelled:
		if !r.status.CompareAndSwap(uint32(s), uint32(Queued)) {
			return ErrBusy
		}
	default:
		return ErrBusy
	}
	r.err, r.queue = nil, q
	if r.Kind == FlushAll && q.flushing {
		q.flushes.add(r)
		return nil
	}
	q.queued.add(r)
	q.wake(int(q.coming.Load()))
	return nil
}

// wake calls a worker if there is more to do than those awake, and coming more, will
// take. mu is held.
func (q *Queue) wake(coming int) {
	if q.queued.n > q.waking+coming && q.sleeping > q.waking {
		q.waking++
		q.work.Signal()
	}
}

// empty tells that all has ended that was submitted. mu is held.
func (q *Queue) empty() bool { return q.running == 0 && q.queued.n == 0 && q.flushes.n == 0 }

// finish is the only way to a final status.
func (r *Request) finish(s Status, err error) {
	r.err = err
	if !r.status.CompareAndSwap(uint32(Queued), uint32(s)) && !r.status.CompareAndSwap(uint32(Running), uint32(s)) {
		panic(fmt.Sprintf("vdisk: a request became %v while it was %v", s, r.Status()))
	}
	r.Complete(r)
}

// Cancel takes a request back that no worker has begun; cancelled says whether it
// did. Otherwise the request runs to its end, and says how it ended.
func (q *Queue) Cancel(r *Request) (cancelled bool) {
	q.mu.Lock()
	if r.queue != q || r.Status() != Queued {
		q.mu.Unlock()
		return false
	}
	r.in.remove(r)
	q.running++ // Quiesce waits until Complete has returned
	q.mu.Unlock()
	r.finish(Cancelled, ErrCancelled)
	q.ended()
	return true
}

func (q *Queue) ended() {
	q.mu.Lock()
	if q.running--; q.empty() {
		q.idle.Broadcast()
	}
	q.mu.Unlock()
}

func (q *Queue) worker() {
	defer q.finished.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for q.queued.n == 0 && (q.flushes.n == 0 || q.flushing) && !q.closed {
			q.sleeping++
			q.work.Wait()
			q.sleeping--
			if q.waking > 0 { // Close wakes all without counting
				q.waking--
			}
		}
		r := q.queued.first
		switch {
		case q.flushes.n > 0 && !q.flushing:
			q.wake(0) // for what Submit left to this worker
			q.flush()
			continue
		case r == nil:
			return
		}
		q.queued.remove(r)
		if r.Kind == FlushAll {
			q.flushes.add(r)
			if !q.flushing {
				q.flush()
			}
			continue
		}
		r.status.Store(uint32(Running))
		q.running++
		q.mu.Unlock()
		err := run(q.disk, r)
		q.coming.Add(1)
		r.end(err)
		q.mu.Lock()
		q.coming.Add(-1)
		if q.running--; q.empty() {
			q.idle.Broadcast()
		}
	}
}

// flush runs the flushes that wait, as one: it begins after each was submitted. mu is
// held, but not meanwhile.
func (q *Queue) flush() {
	var all requests
	for r := q.flushes.first; r != nil; r = q.flushes.first {
		q.flushes.remove(r)
		all.add(r)
		r.status.Store(uint32(Running))
	}
	n := all.n
	q.running += n
	q.flushing = true
	q.mu.Unlock()
	err := run(q.disk, all.first)
	q.coming.Add(1)
	for r := all.first; r != nil; r = all.first {
		all.remove(r)
		r.end(err)
	}
	q.mu.Lock()
	q.coming.Add(-1)
	q.flushing = false
	if q.running -= n; q.empty() {
		q.idle.Broadcast()
	}
}

// end is finish of a request that ran.
func (r *Request) end(err error) {
	if err != nil {
		r.finish(Failed, err)
	} else {
		r.finish(Done, nil)
	}
}

// Drain lets no new request in and waits until all that were submitted have ended.
// Resume lets requests in again.
func (q *Queue) Drain() {
	q.mu.Lock()
	q.stopped++
	for !q.empty() {
		q.idle.Wait()
	}
	q.mu.Unlock()
}

// CancelAll lets no new request in, cancels what no worker has begun, waits for the
// rest, and returns the cancelled requests, in the order they came but for flushes that
// waited for another, to be submitted elsewhere or after Resume. Complete has been called for each.
func (q *Queue) CancelAll() []*Request {
	q.mu.Lock()
	q.stopped++
	var back []*Request
	for _, l := range []*requests{&q.queued, &q.flushes} {
		for r := l.first; r != nil; r = l.first {
			l.remove(r)
			back = append(back, r)
			q.running++
			q.mu.Unlock()
			r.finish(Cancelled, ErrCancelled)
			q.mu.Lock()
			q.running--
		}
	}
	for !q.empty() {
		q.idle.Wait()
	}
	q.idle.Broadcast()
	q.mu.Unlock()
	return back
}

// Resume undoes one Drain or CancelAll.
func (q *Queue) Resume() {
	q.mu.Lock()
	if q.stopped--; q.stopped < 0 {
		q.mu.Unlock()
		panic("vdisk: Resume of a queue that is not quiesced")
	}
	q.mu.Unlock()
}

// Close drains the queue and ends its workers. The image stays open.
func (q *Queue) Close() {
	q.Drain()
	q.mu.Lock()
	q.closed = true
	q.work.Broadcast()
	q.mu.Unlock()
	q.finished.Wait()
}

// run does what a request asks for.
func run(d Disk, r *Request) error {
	if l, ok := d.(*LiveDisk); ok { // no request is split by a snapshot
		l.mu.RLock()
		defer l.mu.RUnlock()
		d = l.top
	}
	switch r.Kind {
	case FlushAll:
		return d.Flush()
	case Discard:
		return d.Trim(r.Offset, r.Length)
	case WriteZeroes:
		return d.WriteZeroes(r.Offset, r.Length)
	case Read, Write, WriteFUA:
	default:
		return fmt.Errorf("vdisk: a %v", r.Kind)
	}
	if f, ok := d.(interface {
		writeFUA(bufs [][]byte, off int64) (bool, error)
	}); ok && r.Kind == WriteFUA {
		if done, err := f.writeFUA(r.Buffers, r.Offset); done || err != nil {
			return err
		}
	}
	if t, ok := d.(interface {
		transfer(bufs [][]byte, off int64, write bool) error
	}); ok && len(r.Buffers) > 1 {
		if err := t.transfer(r.Buffers, r.Offset, r.Kind != Read); err != nil {
			return err
		}
	} else {
		off := r.Offset
		for _, b := range r.Buffers {
			var err error
			if r.Kind == Read {
				_, err = d.ReadAt(b, off)
			} else {
				_, err = d.WriteAt(b, off)
			}
			if err != nil {
				return err
			}
			off += int64(len(b))
		}
	}
	if r.Kind == WriteFUA {
		return d.Flush()
	}
	return nil
}
