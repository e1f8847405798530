package vmm

import (
	"fmt"
	"sync/atomic"
	"time"

	"godwit/vmm/state"
)

// A Health is how a guest that has been started does, as far as its host can tell. It stands beside the Status: the
// machine of a guest that hangs runs.
type Health string

const (
	Well     Health = "ok"
	Hangs    Health = "hangs"    // it has taken no interrupt, or only spun with interrupts off, for hangAfter: hang.go
	Panicked Health = "panicked" // its kernel said so: panic.go
	Halted   Health = "halted"   // all its processors sleep with interrupts off: only an NMI or a reset ends that
)

// health is what is known of all processors together. Times are the machine's.
type health struct {
	panicked atomic.Int64  // when the kernel panicked; 0: it did not
	hung     atomic.Bool   // all processors hang
	times    atomic.Uint32 // they have, since the guest booted: the 1st, 2nd, 4th, 8th ... is told, and its end
}

func toldOf(times uint32) bool { return times&(times-1) == 0 }

// rest is called when the processor is about to sleep; wakes says that an interrupt can end that.
func (c *cpu) rest(wakes bool) {
	c.watch.rest(wakes, c.vm.clock)
	if wakes {
		c.vm.livesOn()
	}
}

// livesOn: a processor sleeps and takes interrupts. No kernel that hangs does, nor one that panicked, but for the
// moment until it has stopped its other processors. (Whoever may write on the guest's console can say that it panicked.)
func (vm *VM) livesOn() {
	vm.hangsNoMore()
	at := vm.health.panicked.Load()
	if at == 0 {
		return
	}
	if d := vm.clock.Now() - at; d > hangAfter && vm.health.panicked.CompareAndSwap(at, 0) {
		vm.event("it goes on, though its console or its driver said %d s ago that its kernel panicked", d/nsPerSecond)
	}
}

// hangsNoMore takes back what allHang told.
func (vm *VM) hangsNoMore() {
	if vm.health.hung.Load() && vm.health.hung.Swap(false) && toldOf(vm.health.times.Load()) {
		vm.event("it hangs no more: its processors do something again")
	}
}

// Health is how the guest does; "" while it neither runs nor is paused.
func (vm *VM) Health() Health {
	h, _ := vm.condition()
	return h
}

// condition is how the guest does, and for how many seconds it has.
func (vm *VM) condition() (Health, float64) {
	if s := vm.Status(); s != Running && s != Paused {
		return "", 0
	}
	now := vm.clock.Now()
	ago := func(t int64) float64 { return time.Duration(max(0, now-t)).Seconds() }
	if at := vm.health.panicked.Load(); at != 0 {
		return Panicked, ago(at)
	}
	first := int64(0) // of the processors that leave an interrupt waiting
	spins, rests := int64(0), int64(0)
	busy := false
	for _, c := range vm.cpus {
		if at := c.hangs.Load(); at != 0 && (first == 0 || at < first) {
			first = at
		}
		switch s := c.watch.since.Load(); {
		case s == 0 || s > 0 && now-s < hangAfter:
			busy = true
		case s > 0:
			spins = max(spins, s)
		default:
			rests = max(rests, -s)
		}
	}
	switch {
	case first != 0:
		return Hangs, ago(first)
	case busy || spins == 0 && rests == 0:
		return Well, 0
	case spins != 0:
		return Hangs, ago(spins)
	}
	return Halted, ago(rests)
}

// StatusText is Status for people, with what follows, or how the guest does.
func (i Info) StatusText() string {
	span := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)).Round(time.Second) }
	switch {
	case i.ResetIn != nil:
		return fmt.Sprintf("%s, reset in %v", i.Status, span(*i.ResetIn))
	case i.Health == Hangs:
		return fmt.Sprintf("%s, hangs for %v", i.Status, span(i.HealthFor))
	case i.Health == Panicked:
		return fmt.Sprintf("%s, panicked %v ago", i.Status, span(i.HealthFor))
	case i.Health == Halted:
		return fmt.Sprintf("%s, halted for good %v ago", i.Status, span(i.HealthFor))
	}
	return i.Status
}

// healthState is the "health" section, which a reader may do without: what can not be seen again where the guest moves to.
type healthState struct{ vm *VM }

const healthSection = "health"

func (h healthState) StateName() string    { return healthSection }
func (h healthState) StateVersion() uint16 { return 1 }

func (h healthState) SaveState(w *state.Writer) { w.I64(h.vm.health.panicked.Load()) }

func (h healthState) LoadState(_ uint16, r *state.Reader) error {
	at := r.I64()
	if at < 0 || at > h.vm.clock.Now() {
		r.Fail(fmt.Errorf("panicked at %d ns of %d", at, h.vm.clock.Now()))
	}
	if r.Err() == nil {
		h.vm.health.panicked.Store(at)
	}
	return r.Err()
}
