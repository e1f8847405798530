// Package vclock is a virtual machine's clock: nanoseconds that stand still while
// the machine is paused and go on where they were after a migration.
package vclock

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"godwit/vmm/device"
	"godwit/vmm/state"
)

// A Clock implements device.Clock and state.Device. It is made paused, at zero.
// Reading it takes no lock, and setting a timer only the timer's own.
type Clock struct {
	source func() int64
	at     atomic.Pointer[moment]
	// callbacks is read-held while a timer's function runs: Pause waits for that.
	callbacks sync.RWMutex

	mu     sync.Mutex // orders Pause, Resume, LoadState and NewTimer
	timers []*timer
}

// moment is how to tell the time.
type moment struct {
	paused bool
	value  int64 // if paused the time, else what to add to the source's
}

// New makes a clock that follows source, a monotonic count of nanoseconds; nil
// means the Go runtime's.
func New(source func() int64) *Clock {
	if source == nil {
		start := time.Now()
		source = func() int64 { return int64(time.Since(start)) }
	}
	c := &Clock{source: source}
	c.at.Store(&moment{paused: true})
	return c
}

// Now implements device.Clock.
func (c *Clock) Now() int64 {
	m := c.at.Load()
	if m.paused {
		return m.value
	}
	return c.source() + m.value
}

// Resume lets time go on. Timers that are due fire.
func (c *Clock) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.at.Load()
	if !m.paused {
		return
	}
	c.at.Store(&moment{value: m.value - c.source()})
	for _, t := range c.timers {
		t.mu.Lock()
		t.start()
		t.mu.Unlock()
	}
}

// Pause stops time, and returns when no timer's function runs any more: the
// machine's state is at rest then, if its VCPUs are. It is not called from a
// timer's function, nor with a lock held that one takes.
func (c *Clock) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at.Store(&moment{paused: true, value: c.Now()})
	// A timer armed from here on does not start; those armed before are in the list.
	for _, t := range c.timers {
		t.mu.Lock()
		t.t.Stop()
		t.mu.Unlock()
	}
	c.callbacks.Lock()
	c.callbacks.Unlock() // empty on purpose: it waits for the readers
}

// Offset is Now less the source's time: what turns a time of the machine into
// one of the host. False while the clock is paused.
func (c *Clock) Offset() (int64, bool) {
	m := c.at.Load()
	return m.value, !m.paused
}

// stopped is the setting of a timer that is not armed.
const stopped = math.MaxInt64

type timer struct {
	c *Clock
	f func()

	mu   sync.Mutex
	t    *time.Timer
	when int64 // or stopped
}

// NewTimer implements device.Clock.
func (c *Clock) NewTimer(f func()) device.Timer {
	t := &timer{c: c, f: f, when: stopped}
	t.mu.Lock()
	t.t = time.AfterFunc(math.MaxInt64, t.fire)
	t.t.Stop()
	t.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timers = append(c.timers, t)
	return t
}

// Arm implements device.Timer.
func (t *timer) Arm(when int64) {
	t.mu.Lock()
	t.when = when
	t.start()
	t.mu.Unlock()
}

// Stop implements device.Timer.
func (t *timer) Stop() {
	t.mu.Lock()
	if t.when != stopped {
		t.when = stopped
		t.t.Stop()
	}
	t.mu.Unlock()
}

// start sets the runtime's timer if time goes on. t.mu is held.
func (t *timer) start() {
	if t.when == stopped || t.c.at.Load().paused {
		return
	}
	// A negative setting, from a hostile state, is due; taking it as zero also
	// keeps the difference from wrapping.
	t.t.Reset(time.Duration(max(t.when, 0) - t.c.Now()))
}

// fire is the runtime timer's function: a late or stale one changes nothing.
func (t *timer) fire() {
	t.c.callbacks.RLock()
	defer t.c.callbacks.RUnlock()
	if t.due() {
		t.f()
	}
}

// due tells whether the timer expired, and disarms it then.
func (t *timer) due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.when == stopped || t.c.at.Load().paused {
		return false
	}
	if t.c.Now() < t.when { // armed anew, or the source is slower than the runtime's clock
		t.start()
		return false
	}
	t.when = stopped
	return true
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
	if !c.at.Load().paused {
		return errors.New("the clock is running")
	}
	c.at.Store(&moment{paused: true, value: now})
	return nil
}

// maxNow keeps sums of a time and any device's period from overflowing: 146
// years, half of what fits.
const maxNow = math.MaxInt64 / 2
