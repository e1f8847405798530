package migrate

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// shaped is a line that takes so many bytes a second, after a delay.
type shaped struct {
	net.Conn
	rate  float64
	delay time.Duration
}

func (s shaped) Write(b []byte) (int, error) {
	time.Sleep(s.delay + time.Duration(float64(len(b))/s.rate*1e9))
	return s.Conn.Write(b)
}

// In fake time a line's speed is exact, so here times can be judged.
func TestOnLinesOfAllSpeedsTheDowntimeKeepsItsLimitOrTheGuestStays(t *testing.T) {
	const mem = 2048 // pages
	for _, mbit := range []float64{10, 100, 1000, 10000} {
		for _, writes := range []int{0, 100, 1000, 10000} { // a second
			t.Run(fmt.Sprintf("%vMbit/%dwrites", mbit, writes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					rate := mbit * 1e6 / 8
					p := &pipes{wrap: func(c net.Conn) net.Conn { return shaped{c, rate, 20 * time.Microsecond} }}
					hs := p.add(w, "a", "b")
					hs[0].m.cfg.Timing, hs[1].m.cfg.Timing = DefaultTiming, DefaultTiming
					l := load{cpus: 1, burst: 1, pause: time.Second}
					if writes > 0 {
						l.burst, l.pause = max(writes/100, 1), 10*time.Millisecond
					}
					hs[0].addGuest("g", l, Region{0, mem << PageShift})
					limit := 300 * time.Millisecond
					r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Downtime: limit, NonConvergent: GiveUp, Verify: mbit >= 1000})
					// What the guest writes in the time a limit allows, or all of it.
					need := float64(min(writes, mem)) * PageSize
					switch {
					case err == nil && r.Downtime.Total > limit+limit/4:
						t.Errorf("it stood still for %v: %+v", r.Downtime.Total, r.Downtime)
					case err == nil && (r.Bandwidth < rate*0.7 || r.Bandwidth > rate*1.05):
						t.Errorf("bandwidth %.0f, not %.0f", r.Bandwidth, rate)
					case err != nil && need < rate/2:
						t.Errorf("given up, though the line is faster: %v", err)
					case err == nil && writes == 10000 && mbit == 10 && r.Packed < r.Pages/4:
						t.Error("this can not have converged without compression")
					}
					d := r.Downtime
					if parts := d.Pause + d.LastPass + d.Verify + d.State + d.Prepare + d.Commit; err == nil && parts != d.Total {
						t.Errorf("the parts of the downtime make %v: %+v", parts, d)
					}
					if err == nil && (w.where("g") != hs[1] || len(r.Rounds) < 2) || err != nil && w.where("g") != hs[0] {
						t.Errorf("%v; it runs on %v", err, w.where("g"))
					}
					t.Logf("%v rounds %d, %d bytes, total %v, downtime %v, estimate %v, skipped %d", err, len(r.Rounds), r.Bytes, r.Total, r.Downtime, r.Estimate, r.Skipped)
					p.end(w)
				})
			})
		}
	}
}
