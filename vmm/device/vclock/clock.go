// Package vclock is a virtual machine's clock: nanoseconds that stand still while
// the machine is paused and go on where they were after a migration.
package vclock

import (
	"errors"
	"math"
	"sync"
	"time"

	"godwit/vmm/device"
	"godwit/vmm/state"
)

// A Clock implements device.Clock and state.Device. It is made paused, at zero.
type Clock struct {
	source func() int64

	mu      sync.Mutex
	idle    sync.Cond // signalled when running goes to zero
	paused  bool
	now     int64 // when paused
	offset  int64 // Now - source, when not
	timers  []*timer
	running int // callbacks in progress
}

// New makes a clock that follows source, a monotonic count of nanoseconds; nil
// means the Go runtime's.
func New(source func() int64) *Clock {
	if source == nil {
		start := time.Now()
		source = func() int64 { return int64(time.Since(start)) }
	}
	c := &Clock{source: source, paused: true}
	c.idle.L = &c.mu
	return c
}

// Now implements device.Clock.
func (c *Clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

// read is Now with mu held.
func (c *Clock) read() int64 {
	if c.paused {
		return c.now
	}
	return c.source() + c.offset
}

// Resume lets time go on. Timers that are due fire.
func (c *Clock) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		return
	}
	c.paused = false
	c.offset = c.now - c.source()
	for _, t := range c.timers {
		t.start()
	}
}

// Pause stops time, and returns when no timer's function runs any more: the
// machine's state is at rest then, if its VCPUs are. It is not called from a
// timer's function, nor with a lock held that one takes.
func (c *Clock) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		c.now = c.read()
		c.paused = true
		for _, t := range c.timers {
			t.t.Stop()
		}
	}
	for c.running > 0 {
		c.idle.Wait()
	}
}

// Offset is Now less the source's time: what turns a time of the machine into
// one of the host. It is meaningful while the clock runs.
func (c *Clock) Offset() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// stopped is the setting of a timer that is not armed.
const stopped = math.MaxInt64

type timer struct {
	c    *Clock
	t    *time.Timer
	f    func()
	when int64 // or stopped; guarded by c.mu
}

// NewTimer implements device.Clock.
func (c *Clock) NewTimer(f func()) device.Timer {
	t := &timer{c: c, f: f, when: stopped}
	t.t = time.AfterFunc(math.MaxInt64, t.fire)
	t.t.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timers = append(c.timers, t)
	return t
}

// Arm implements device.Timer.
func (t *timer) Arm(when int64) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.when = when
	t.start()
}

// Stop implements device.Timer.
func (t *timer) Stop() {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if t.when != stopped {
		t.when = stopped
		t.t.Stop()
	}
}

// start sets the runtime's timer if time goes on. c.mu is held.
func (t *timer) start() {
	if t.c.paused || t.when == stopped {
		return
	}
	d := t.when - t.c.read()
	if t.when < 0 { // from a hostile state: also keeps the difference from wrapping
		d = 0
	}
	t.t.Reset(time.Duration(d))
}

// fire is the runtime timer's function: a late or stale one changes nothing.
func (t *timer) fire() {
	c := t.c
	c.mu.Lock()
	if c.paused || t.when == stopped {
		c.mu.Unlock()
		return
	}
	if c.read() < t.when { // armed anew, or the source is slower than the runtime's clock
		t.start()
		c.mu.Unlock()
		return
	}
	t.when = stopped
	c.running++
	c.mu.Unlock()
	t.f()
	c.mu.Lock()
	if c.running--; c.running == 0 {
		c.idle.Broadcast()
	}
	c.mu.Unlock()
}

// Close stops all timers for good.
func (c *Clock) Close() {
	c.Pause()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timers = nil
}

// Reset implements device.Device: time does not start again with the machine.
func (c *Clock) Reset() {}

// StateName implements state.Device.
func (c *Clock) StateName() string { return "clock" }

// StateVersion implements state.Device.
func (c *Clock) StateVersion() uint16 { return 1 }

// SaveState implements state.Device. It may be called while time goes on.
func (c *Clock) SaveState(w *state.Writer) { w.I64(c.Now()) }

// LoadState implements state.Device, on a paused clock. It comes before the
// devices that use the clock.
func (c *Clock) LoadState(_ uint16, r *state.Reader) error {
	now := r.I64()
	if r.Err() != nil {
		return r.Err()
	}
	if now < 0 || now > maxNow {
		return errors.New("the time is out of range")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		return errors.New("the clock is running")
	}
	c.now = now
	return nil
}

// maxNow keeps sums of a time and any device's period from overflowing: 146
// years, half of what fits.
const maxNow = math.MaxInt64 / 2
