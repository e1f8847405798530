package vclock

import (
	"slices"

	"godwit/vmm/device"
)

// A Fake is a deterministic device.Clock for tests: time moves in Advance only,
// which calls the timers' functions itself, in order.
type Fake struct {
	now    int64
	timers []*fakeTimer
}

type fakeTimer struct {
	f    func()
	when int64
}

// Now implements device.Clock.
func (c *Fake) Now() int64 { return c.now }

// NewTimer implements device.Clock.
func (c *Fake) NewTimer(f func()) device.Timer {
	t := &fakeTimer{f, stopped}
	c.timers = append(c.timers, t)
	return t
}

func (t *fakeTimer) Arm(when int64) { t.when = when }
func (t *fakeTimer) Stop()          { t.when = stopped }

// Advance moves time by d nanoseconds and calls what falls due on the way.
func (c *Fake) Advance(d int64) {
	end := c.now + d
	for {
		t := c.next()
		if t == nil || t.when > end {
			break
		}
		c.now = max(c.now, t.when)
		t.when = stopped
		t.f()
	}
	c.now = end
}

// Armed is how many timers are set: a machine at rest should have few.
func (c *Fake) Armed() (n int) {
	for _, t := range c.timers {
		if t.when != stopped {
			n++
		}
	}
	return n
}

func (c *Fake) next() *fakeTimer {
	if len(c.timers) == 0 {
		return nil
	}
	t := slices.MinFunc(c.timers, func(a, b *fakeTimer) int {
		if a.when < b.when {
			return -1
		} else if a.when > b.when {
			return 1
		}
		return 0
	})
	if t.when == stopped {
		return nil
	}
	return t
}
