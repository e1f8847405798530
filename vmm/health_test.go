package vmm

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

const x2SelfIPI = 0x83f

// moody is a guest of one processor that does what mood says.
func moody(mood *atomic.Int32, panics *atomic.Bool) fakecpu.Program {
	return func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if panics.CompareAndSwap(true, false) {
			return out(e, v, 0x505, 1, 1)
		}
		switch mood.Load() {
		case spins:
			v.Regs().RFLAGS &^= flagIF
			v.Block(time.Millisecond)
			e.Reason = vcpu.ExitDeadline
		case sleepsForGood:
			v.Regs().RFLAGS &^= flagIF
			e.Reason, e.Len = vcpu.ExitHLT, 1
		case works:
			v.Regs().RFLAGS |= flagIF
			v.Block(time.Millisecond)
			if class, _ := v.Wanted(); class != 0 && v.CanInterrupt() {
				v.WantInterrupt(0)
				e.Reason = vcpu.ExitInterruptWindow
				return nil
			}
			e.Reason = vcpu.ExitDeadline
		case sleeps:
			v.Regs().RFLAGS |= flagIF
			e.Reason, e.Len = vcpu.ExitHLT, 1
		}
		return nil
	}
}

const (
	works int32 = iota
	spins
	sleepsForGood
	sleeps
)

// mooded is such a guest, which runs.
func mooded(t *testing.T) (r *rig, vm *VM, mood *atomic.Int32, panics *atomic.Bool) {
	mood, panics = new(atomic.Int32), new(atomic.Bool)
	r = quick(moody(mood, panics))
	vm = r.vm(t, 1)
	if h := vm.Info().Health; h != "" {
		t.Errorf("before it is started its health is %q", h)
	}
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.Stop(gone)
		vm.Delete()
		r.leaks(t)
	})
	return r, vm, mood, panics
}

func becomes(t *testing.T, vm *VM, want Health, text string) {
	t.Helper()
	eventually(t, string(want), func() bool { return vm.Info().Health == want })
	i := vm.Info()
	if s := i.StatusText(); !strings.HasPrefix(s, text) || i.Status != "running" {
		t.Errorf("%q, status %q; want %q", s, i.Status, text)
	}
	if (i.HealthFor > 0) != (want != Well) {
		t.Errorf("%s for %v s", want, i.HealthFor)
	}
}

func TestAHangIsShownBesideTheStatusUntilTheGuestGoesOn(t *testing.T) {
	r, vm, mood, _ := mooded(t)
	becomes(t, vm, Well, "running")
	for n := range 4 {
		mood.Store(spins)
		becomes(t, vm, Hangs, "running, hangs for ")
		told := n != 2 // the third time it is not
		eventually(t, "the hang is noticed", func() bool { return vm.health.times.Load() == uint32(n+1) })
		if told {
			eventually(t, "the hang is told", func() bool { return r.logged("it hangs: ") })
		}
		mood.Store(works)
		becomes(t, vm, Well, "running")
		if told {
			eventually(t, "the end is told", func() bool { return r.logged("it hangs no more") })
		} else if r.logged("hangs") {
			t.Errorf("the third time is told: %q", r.log)
		}
		r.mu.Lock()
		r.log = nil
		r.mu.Unlock()
	}
}

func TestAProcessorThatTakesNoInterruptIsShownUntilItDoes(t *testing.T) {
	r, vm, mood, _ := mooded(t)
	mood.Store(spins)
	vm.Pause()
	c := vm.cpus[0]
	c.regs.RFLAGS &^= flagIF // it may not have got to that, and would take the interrupt at once
	for _, w := range [][2]uint64{{apicBase, x2On | 0x100}, {x2SVR, 0x1ff}, {x2SelfIPI, 0x55}} {
		if !c.writeMSR(uint32(w[0]), w[1]) {
			t.Fatalf("MSR %#x refused", w[0])
		}
	}
	vm.Resume()
	eventually(t, "the hang is told", func() bool { return r.logged("CPU 0 has not taken an interrupt for ") })
	becomes(t, vm, Hangs, "running, hangs for ")
	vm.Pause()
	if s := vm.Info().StatusText(); !strings.HasPrefix(s, "paused, hangs for ") {
		t.Errorf("paused: %q", s)
	}
	vm.Resume()
	mood.Store(works)
	eventually(t, "the end is told", func() bool { return r.logged("CPU 0 hangs no more: it had not taken an interrupt for ") })
	becomes(t, vm, Well, "running")
}

func TestAGuestThatHaltsForGoodIsShown(t *testing.T) {
	_, vm, mood, _ := mooded(t)
	mood.Store(sleepsForGood)
	becomes(t, vm, Halted, "running, halted for good ")
	mood.Store(works)
	vm.Reset()
	becomes(t, vm, Well, "running")
}

func TestAPanicIsShownUntilTheGuestBootsAnew(t *testing.T) {
	_, vm, mood, panics := mooded(t)
	panics.Store(true)
	becomes(t, vm, Panicked, "running, panicked ")
	mood.Store(spins) // as Linux does then
	time.Sleep(100 * time.Millisecond)
	becomes(t, vm, Panicked, "running, panicked ")
	vm.Stop(gone)
	if i := vm.Info(); i.Health != "" || i.StatusText() != "stopped" {
		t.Errorf("stopped: %q, %q", i.Health, i.StatusText())
	}
	mood.Store(works)
	vm.Start()
	becomes(t, vm, Well, "running")
}

// Whoever may write on the guest's console can say that its kernel panicked.
func TestAPanicThatIsNoneIsTakenBack(t *testing.T) {
	r, vm, mood, panics := mooded(t)
	panics.Store(true)
	becomes(t, vm, Panicked, "running, panicked ")
	time.Sleep(60 * time.Millisecond) // 12 s of the machine
	mood.Store(sleeps)
	becomes(t, vm, Well, "running")
	eventually(t, "that is told", func() bool { return r.logged("it goes on") })
}

func TestAPanicMovesWithTheMachine(t *testing.T) {
	_, vm, _, panics := mooded(t)
	panics.Store(true)
	becomes(t, vm, Panicked, "running, panicked ")
	vm.Pause()
	var b bytes.Buffer
	if err := vm.SaveState(&b); err != nil {
		t.Fatal(err)
	}
	r2 := newRig(printer)
	there, err := NewFromSpec(r2.Host, vm.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := there.LoadState(&b); err != nil {
		t.Fatal(err)
	}
	if err := there.StartLoaded(); err != nil {
		t.Fatal(err)
	}
	if i := there.Info(); i.Health != Panicked || i.HealthFor <= 0 {
		t.Errorf("there: %v for %v s", i.Health, i.HealthFor)
	}
	there.Stop(gone)
	there.Delete()
	r2.leaks(t)
}
