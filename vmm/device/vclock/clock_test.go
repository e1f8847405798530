package vclock

import (
	"math"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/device/devicetest"
)

// source is a hand-moved source of time.
type source struct{ now atomic.Int64 }

func newClock() (*Clock, *source) {
	s := &source{}
	s.now.Store(1e6)
	return New(s.now.Load), s
}

func TestTimeStandsStillWhilePaused(t *testing.T) {
	c, s := newClock()
	s.now.Add(500)
	if c.Now() != 0 {
		t.Error("a new clock runs")
	}
	c.Resume()
	s.now.Add(500)
	c.Resume()
	if c.Now() != 500 {
		t.Errorf("Now is %d", c.Now())
	}
	if off, ok := c.Offset(); !ok || off != 500-s.now.Load() {
		t.Errorf("offset %d", off)
	}
	c.Pause()
	s.now.Add(500)
	c.Pause()
	if _, ok := c.Offset(); c.Now() != 500 || ok {
		t.Errorf("Now is %d while paused", c.Now())
	}
	c.Resume()
	if c.Now() != 500 {
		t.Errorf("Now is %d after the pause", c.Now())
	}
}

func TestTimerFiresOnceAndWaitsForResume(t *testing.T) {
	c := New(nil)
	fired := make(chan int64, 10)
	timer := c.NewTimer(func() { fired <- c.Now() })
	timer.Arm(int64(2 * time.Millisecond))
	select {
	case <-fired:
		t.Fatal("fired while paused")
	case <-time.After(10 * time.Millisecond):
	}
	c.Resume()
	if at := <-fired; at < int64(2*time.Millisecond) {
		t.Errorf("fired at %d", at)
	}
	c.Pause()
	c.Resume()
	timer.Arm(c.Now() + int64(time.Hour))
	timer.Arm(0) // replaces, and is due
	<-fired
	timer.Arm(math.MinInt64) // as a hostile state may have it
	<-fired
	c.Close()
}

func TestTimerThatIsStoppedDoesNotFire(t *testing.T) {
	c, s := newClock()
	c.Resume()
	fired := make(chan bool, 1)
	timer := c.NewTimer(func() { fired <- true })
	timer.Arm(1000)
	timer.Stop()
	s.now.Add(1000) // it is due only now
	select {
	case <-fired:
		t.Error("fired")
	case <-time.After(10 * time.Millisecond):
	}
	c.Close()
}

func TestPauseWaitsForTimersFunctions(t *testing.T) {
	c := New(nil)
	in := make(chan bool)
	var done atomic.Bool
	timer := c.NewTimer(func() {
		in <- true
		time.Sleep(5 * time.Millisecond)
		done.Store(true)
	})
	c.Resume()
	timer.Arm(0)
	<-in
	c.Pause()
	if !done.Load() {
		t.Error("Pause returned while a timer's function ran")
	}
}

// A source that lags behind the runtime's timers: the timer must not be early.
func TestTimerFollowsTheSource(t *testing.T) {
	c, s := newClock()
	fired := make(chan bool, 1)
	c.Resume()
	c.NewTimer(func() { fired <- true }).Arm(1000)
	select {
	case <-fired:
		t.Fatal("too early")
	case <-time.After(5 * time.Millisecond):
	}
	s.now.Add(1000)
	<-fired
	c.Close()
}

func TestArmsFromManyGoroutines(t *testing.T) {
	c := New(nil)
	c.Resume()
	var fired atomic.Int64
	done := make(chan bool)
	for range 4 {
		go func() {
			timer := c.NewTimer(func() { fired.Add(1) })
			for range 2000 {
				timer.Arm(c.Now() + 1000)
			}
			timer.Arm(0)
			done <- true
		}()
	}
	for range 20 {
		c.Pause()
		c.Resume()
	}
	for range 4 {
		<-done
	}
	for deadline := time.Now().Add(time.Minute); fired.Load() < 4; {
		if time.Now().After(deadline) {
			t.Fatal("a timer was lost")
		}
		time.Sleep(time.Millisecond)
	}
	c.Close()
}

func TestStateGoesOn(t *testing.T) {
	a, s := newClock()
	a.Resume()
	s.now.Add(12345)
	a.Pause()
	z, _ := newClock()
	devicetest.RoundTrip(t, a, z)
	if z.Now() != 12345 {
		t.Errorf("Now is %d after the move", z.Now())
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 7, 0x80, "before the first start")
	devicetest.Refused(t, z, good, 7, 0x7f, "after the end of time")
	z.Resume()
	if devicetest.Load(z, good) == nil {
		t.Error("a running clock takes a state")
	}
}

func TestTicksAndNanosecondsAreInverse(t *testing.T) {
	for _, hz := range []uint64{32768, 1193182, 3579545, 1e9} {
		for _, n := range []uint64{0, 1, 2, 3, 1000, 65536, 1 << 32, 1<<40 + 12345} {
			ns := Nanoseconds(n, hz)
			if Ticks(ns, hz) != n {
				t.Errorf("%d ticks at %d Hz: %d ns, which is %d ticks", n, hz, ns, Ticks(ns, hz))
			}
			if n > 0 && hz < 1e9 && Ticks(ns-1, hz) != n-1 {
				t.Errorf("%d ticks at %d Hz are reached before %d ns", n, hz, ns)
			}
		}
	}
	if Nanoseconds(math.MaxUint64, 1) != maxNow || Nanoseconds(math.MaxUint64, 32768) != maxNow {
		t.Error("what does not fit is not as late as can be")
	}
}

func TestFakeCallsTimersInOrder(t *testing.T) {
	var c Fake
	var log []int64
	var again interface{ Arm(int64) }
	tm := c.NewTimer(func() {
		log = append(log, c.Now())
		if c.Now() < 30 {
			again.Arm(c.Now() + 10)
		}
	})
	again = tm
	tm.Arm(10)
	c.NewTimer(func() { log = append(log, c.Now()) }).Arm(15)
	c.Advance(100)
	if len(log) != 4 || log[0] != 10 || log[1] != 15 || log[2] != 20 || log[3] != 30 || c.Now() != 100 || c.Armed() != 0 {
		t.Errorf("%v, now %d", log, c.Now())
	}
}

func BenchmarkNow(b *testing.B) {
	c := New(nil)
	c.Resume()
	b.ReportAllocs()
	for b.Loop() {
		c.Now()
	}
}

func BenchmarkArm(b *testing.B) {
	c := New(nil)
	c.Resume()
	t := c.NewTimer(func() {})
	b.ReportAllocs()
	for b.Loop() {
		t.Arm(c.Now() + 1e9)
	}
	c.Close()
}
