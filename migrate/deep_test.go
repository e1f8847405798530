package migrate

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// deep is a slow line behind a deep queue: what is written is taken at once while there
// is room, and is on its way for long. That is how send buffers, cards and switches look
// to who writes to them.
type deep struct {
	net.Conn
	rate   float64
	queue  chan []byte
	closed chan struct{}
	close  func()
}

const deepPiece = 4 << 10

func newDeep(c net.Conn, rate float64, room int) *deep {
	d := &deep{Conn: c, rate: rate, queue: make(chan []byte, room/deepPiece), closed: make(chan struct{})}
	d.close = sync.OnceFunc(func() { close(d.closed); c.Close() })
	go func() {
		for {
			select {
			case b := <-d.queue:
				time.Sleep(time.Duration(float64(len(b)) / d.rate * 1e9))
				if _, err := d.Conn.Write(b); err != nil {
					return
				}
			case <-d.closed:
				return
			}
		}
	}()
	return d
}

func (d *deep) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		k := min(len(b), deepPiece)
		select {
		case d.queue <- append([]byte(nil), b[:k]...):
			b, n = b[k:], n+k
		case <-d.closed:
			return n, net.ErrClosed
		}
	}
	return n, nil
}

func (d *deep) Close() error { d.close(); return nil }

// What a queue has taken has not arrived. It must count as still to be sent, or the
// guest waits for it.
func TestBehindADeepQueueTheDowntimeKeepsItsLimit(t *testing.T) {
	for _, mbit := range []float64{10, 100, 1000} {
		for _, room := range []int{256 << 10, 8 << 20} {
			for _, writes := range []int{0, 300} { // a second
				t.Run(fmt.Sprintf("%vMbit/%dKiB/%dwrites", mbit, room>>10, writes), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						rate := mbit * 1e6 / 8
						p := &pipes{wrap: func(c net.Conn) net.Conn { return newDeep(c, rate, room) }}
						hs := p.add(w, "a", "b")
						hs[0].m.cfg.Timing, hs[1].m.cfg.Timing = DefaultTiming, DefaultTiming
						l := load{cpus: 1, burst: 1, pause: time.Second}
						if writes > 0 {
							l.burst, l.pause = max(writes/100, 1), 10*time.Millisecond
						}
						hs[0].addGuest("g", l, Region{0, 16 << 20})
						const limit = 300 * time.Millisecond
						r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Downtime: limit, NonConvergent: GiveUp})
						if err != nil || w.where("g") != hs[1] {
							t.Fatal(err)
						}
						if r.Downtime.Total > limit {
							t.Errorf("it stood still for %v, foretold %v: %+v", r.Downtime.Total, r.Estimate, r.Downtime)
						}
						if r.Bandwidth < rate*0.7 || r.Bandwidth > rate*1.05 {
							t.Errorf("bandwidth %.0f, not %.0f", r.Bandwidth, rate)
						}
						t.Logf("rounds %d, %d bytes, total %v, downtime %v, estimate %v", len(r.Rounds), r.Bytes, r.Total, r.Downtime, r.Estimate)
						p.end(w)
					})
				})
			}
		}
	}
}

// Most of memory did not compress, what is written again and again does: what is left
// at the end is of the latter kind.
func TestTheEstimateGoesByHowTheLastPagesWent(t *testing.T) {
	var b bandwidth
	round := func(raw, bytes uint64) {
		b.measure(&task{sum: roundSum{raw: raw}, bytes: bytes, writing: time.Duration(bytes) * time.Microsecond})
	}
	round(12000, 12000*4096)
	for range 6 {
		round(50, 50*1024)
	}
	if got := b.estimate(150, 0); got < 150*time.Millisecond || got > 300*time.Millisecond {
		t.Errorf("150 pages of 1 KiB each, at 1 MB/s, are said to take %v", got)
	}
	round(150, 150*4096)
	if got := b.estimate(150, 0); got < 300*time.Millisecond {
		t.Errorf("150 pages of 4 KiB each, at 1 MB/s, are said to take %v", got)
	}
}
