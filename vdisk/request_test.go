package vdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// Many queues, each with its own part of the disk, cancel and quiesce at random;
// every request completes once and a cancelled write leaves no trace.
func TestRequestsCompleteExactlyOnce(t *testing.T) {
	const queues, part, bufs = 4, 3*mib + 512*7, 8192
	im := memImage(t, CreateOptions{Size: queues * part, BlockSize: mib})
	var wg sync.WaitGroup
	for qi := range int64(queues) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(qi), 11))
			q := im.NewQueue(3)
			defer q.Close()
			want := make([]byte, part)
			type slot struct {
				r     Request
				times atomic.Int32
				busy  bool
				at    int64
				data  [2][]byte
			}
			slots := make([]slot, 16) // each with its own place, so that order does not matter
			ended := make(chan *slot, len(slots))
			for i := range slots {
				s := &slots[i]
				s.at = int64(i) * (part / 16) / 512 * 512
				s.data = [2][]byte{make([]byte, bufs/2), make([]byte, bufs/2)}
				s.r.Complete = func(*Request) { s.times.Add(1); ended <- s }
			}
			reap := func(s *slot) {
				if n := s.times.Swap(0); n != 1 || !s.busy {
					t.Errorf("a request completed %d times", n)
				}
				s.busy = false
				switch s.r.Status() {
				case Done:
					switch s.r.Kind {
					case Write, WriteFUA:
						copy(want[s.at:], s.data[0])
						copy(want[s.at+bufs/2:], s.data[1])
					case WriteZeroes:
						clear(want[s.at : s.at+bufs])
					case Read:
						if !bytes.Equal(s.data[0], want[s.at:][:bufs/2]) || !bytes.Equal(s.data[1], want[s.at+bufs/2:][:bufs/2]) {
							t.Errorf("queue %d read at %d what was not written", qi, s.at)
						}
					}
				case Cancelled:
					if !errors.Is(s.r.Err(), ErrCancelled) {
						t.Errorf("a cancelled request says %v", s.r.Err())
					}
				default:
					t.Errorf("a request ended %v: %v", s.r.Status(), s.r.Err())
				}
			}
			for range 400 {
				for len(ended) > 0 {
					reap(<-ended)
				}
				s := &slots[rng.IntN(len(slots))]
				if s.busy {
					q.Cancel(&s.r)
					continue
				}
				s.r.Kind = []Kind{Read, Write, Write, WriteFUA, WriteZeroes, FlushAll}[rng.IntN(6)]
				s.r.Offset, s.r.Length, s.r.Buffers = qi*part+s.at, bufs, s.data[:]
				if s.r.Kind == Write || s.r.Kind == WriteFUA {
					fill(rng, s.data[0])
					fill(rng, s.data[1])
				}
				s.busy = true
				if err := q.Submit(&s.r); err != nil {
					t.Error(err)
				}
				switch rng.IntN(40) {
				case 0:
					q.Drain()
					for i := range slots {
						if st := slots[i].r.Status(); st == Queued || st == Running {
							t.Errorf("after Drain a request is %v", st)
						}
					}
					if err := q.Submit(&Request{Kind: FlushAll, Complete: func(*Request) {}}); !errors.Is(err, ErrQuiesced) {
						t.Errorf("a drained queue answered %v", err)
					}
					q.Resume()
				case 1:
					back := q.CancelAll()
					q.Resume()
					for range len(ended) {
						reap(<-ended)
					}
					for _, r := range back {
						if r.Status() != Cancelled {
							t.Errorf("CancelAll returned a request that is %v", r.Status())
						}
						for i := range slots {
							if &slots[i].r == r {
								slots[i].busy = true
							}
						}
						if err := q.Submit(r); err != nil {
							t.Error(err)
						}
					}
				}
			}
			q.Drain()
			for len(ended) > 0 {
				reap(<-ended)
			}
			for i := range slots {
				if slots[i].busy {
					t.Error("a request never completed")
				}
			}
			got := make([]byte, part)
			if _, err := im.ReadAt(got, qi*part); err != nil || !bytes.Equal(got, want) {
				t.Errorf("queue %d does not hold what its done requests wrote (%v)", qi, err)
			}
		}()
	}
	wg.Wait()
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

func memImage(t testing.TB, c CreateOptions) *Image {
	t.Helper()
	m := NewMemory()
	if err := Create(m, c); err != nil {
		t.Fatal(err)
	}
	im, err := Open(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// With its worker held up, what waits behind it is cancelled without a trace.
func TestCancelledWriteNeverReachesTheMedium(t *testing.T) {
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: 2 * mib, BlockSize: mib, Fixed: true}); err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{}, 8)
	var written atomic.Int32
	f := &Faulty{m, func(op Op, off, n int64) error {
		if op == OpWrite && n == 512 {
			written.Add(1)
			held <- struct{}{}
			<-hold
		}
		return nil
	}}
	im, err := Open(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	q := im.NewQueue(1)
	done := make(chan *Request, 3)
	rs := make([]Request, 3)
	for i := range rs {
		rs[i] = Request{Kind: Write, Offset: int64(i) * 512, Buffers: [][]byte{make([]byte, 512)}, Complete: func(r *Request) { done <- r }}
		if err := q.Submit(&rs[i]); err != nil {
			t.Fatal(err)
		}
	}
	<-held
	for i := range rs {
		if err := q.Submit(&rs[i]); !errors.Is(err, ErrBusy) {
			t.Errorf("a request submitted twice was answered %v", err)
		}
	}
	if q.Cancel(&rs[0]) {
		t.Error("a running request was cancelled")
	}
	if !q.Cancel(&rs[1]) || q.Cancel(&rs[1]) {
		t.Error("a waiting request must be cancelled, once")
	}
	close(hold)
	q.Close()
	if written.Load() != 2 || rs[0].Status() != Done || rs[1].Status() != Cancelled || rs[2].Status() != Done {
		t.Errorf("%d writes; %v, %v, %v", written.Load(), rs[0].Status(), rs[1].Status(), rs[2].Status())
	}
	if err := q.Submit(&rs[0]); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed queue answered %v", err)
	}
	im.Close()
}

func TestRequestsAllocateNothing(t *testing.T) {
	im := memImage(t, CreateOptions{Size: 2 * mib, BlockSize: mib, Fixed: true})
	defer im.Close()
	done := make(chan struct{}, 1)
	for _, k := range []Kind{Write, Read} {
		r := &Request{Kind: k, Buffers: [][]byte{make([]byte, 4096)}, Complete: func(*Request) { done <- struct{}{} }}
		q := im.NewQueue(1)
		one := func() {
			if err := q.Submit(r); err != nil {
				t.Fatal(err)
			}
			<-done
		}
		one()
		if n := testing.AllocsPerRun(200, one); n != 0 {
			t.Errorf("a %v allocates %v times", k, n)
		}
		q.Close()
	}
}

func BenchmarkQueue(b *testing.B) {
	im := memImage(b, CreateOptions{Size: 64 * mib, BlockSize: mib, Fixed: true})
	defer im.Close()
	q := im.NewQueue(4)
	defer q.Close()
	done := make(chan struct{}, 1)
	r := &Request{Kind: Write, Buffers: [][]byte{make([]byte, 4096)}, Complete: func(*Request) { done <- struct{}{} }}
	b.ReportAllocs()
	for i := range b.N {
		r.Offset = int64(i*4096) % (64 * mib)
		q.Submit(r)
		<-done
	}
}

// heldFlushes is a disk whose flushes wait to be let go.
type heldFlushes struct {
	Disk
	began, let chan struct{}
}

func (d *heldFlushes) Flush() error {
	d.began <- struct{}{}
	<-d.let
	return d.Disk.Flush()
}

// Many flushes at a time are two for the disk, and hold up neither writes nor their
// own cancellation, though there are only two workers.
func TestFlushesOfAQueueShareOne(t *testing.T) {
	m := NewMemory()
	m.Truncate(mib)
	raw, err := OpenRaw(m, 512)
	if err != nil {
		t.Fatal(err)
	}
	d := &heldFlushes{raw, make(chan struct{}), make(chan struct{})}
	q := NewQueue(d, 2)
	defer q.Close()
	done := make(chan *Request, 20)
	submit := func(k Kind) *Request {
		r := &Request{Kind: k, Buffers: [][]byte{make([]byte, 512)}, Complete: func(r *Request) { done <- r }}
		if err := q.Submit(r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := submit(FlushAll)
	<-d.began
	var others []*Request
	for range 10 {
		others = append(others, submit(FlushAll))
	}
	w := submit(Write)
	if r := <-done; r != w || r.Status() != Done {
		t.Errorf("a %v was %v before a write that flushes should not hold up", r.Kind, r.Status())
	}
	if !q.Cancel(others[3]) || <-done != others[3] || others[3].Status() != Cancelled {
		t.Error("a flush that waits for another can not be cancelled")
	}
	if q.Cancel(first) {
		t.Error("a flush under way was cancelled")
	}
	d.let <- struct{}{}
	if r := <-done; r != first || r.Status() != Done {
		t.Errorf("a %v was %v first", r.Kind, r.Status())
	}
	<-d.began
	for _, r := range others {
		if r.Status() == Done {
			t.Error("a flush was done before one began that covers it")
		}
	}
	d.let <- struct{}{}
	for range 9 {
		if r := <-done; r.Status() != Done {
			t.Error(r.Status(), r.Err())
		}
	}
	// Those that wait when a queue is emptied come back.
	submit(FlushAll)
	<-d.began
	again := submit(FlushAll)
	back := make(chan []*Request)
	go func() { back <- q.CancelAll() }()
	if r := <-done; r != again || r.Status() != Cancelled {
		t.Errorf("a flush that waited was %v", r.Status())
	}
	d.let <- struct{}{}
	if l := <-back; len(l) != 1 || l[0] != again {
		t.Errorf("%d requests came back", len(l))
	}
	q.Resume()
}
