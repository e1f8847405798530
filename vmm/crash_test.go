package vmm

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

// wallClock is a host's clock that a test moves, with its timers.
type wallClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[int]*wallTimer
	made   int
}

type wallTimer struct {
	at time.Time
	f  func()
}

func (w *wallClock) Now() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *wallClock) After(d time.Duration, f func()) func() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.made
	w.made++
	w.timers[id] = &wallTimer{w.now.Add(d), f}
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		_, waits := w.timers[id]
		delete(w.timers, id)
		return waits
	}
}

// pass lets time pass and calls what is due.
func (w *wallClock) pass(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	var due []func()
	for id, t := range w.timers {
		if !t.at.After(w.now) {
			due = append(due, t.f)
			delete(w.timers, id)
		}
	}
	w.mu.Unlock()
	for _, f := range due {
		f()
	}
}

func (w *wallClock) waiting() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.timers) }

// crasher is a host with a guest that crashes when told, and boots counted.
func crasher(t *testing.T) (r *rig, w *wallClock, vm *VM, crash *atomic.Bool) {
	crash = new(atomic.Bool)
	r = newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if crash.Swap(false) {
			e.Reason = vcpu.ExitShutdown
			return nil
		}
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	})
	w = &wallClock{now: time.Unix(1e9, 0), timers: map[int]*wallTimer{}}
	r.WallClock, r.After = w.Now, w.After
	cfg := config(1)
	cfg.OnCrash = "reset"
	vm, err := New(r.Host, cfg, kernel())
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	return r, w, vm, crash
}

// crashOnce crashes the guest and waits until that is settled.
func crashOnce(t *testing.T, r *rig, vm *VM, crash *atomic.Bool) {
	t.Helper()
	seen := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Count(strings.Join(r.log, "\n"), "is reset")
	}
	before := seen()
	crash.Store(true)
	eventually(t, "the crash is settled", func() bool { return seen() > before })
	vm.ctl.Lock() // whoever told of it is done
	vm.ctl.Unlock()
}

func TestAGuestThatCrashesAgainAndAgainIsResetEverMoreSeldom(t *testing.T) {
	r, w, vm, crash := crasher(t)
	crashOnce(t, r, vm, crash)
	if vm.Status() != Running || w.waiting() != 0 || vm.Info().ResetIn != nil {
		t.Fatalf("after the first crash: %v, %+v", vm.Status(), vm.Info().ResetIn)
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		want *= time.Second
		crashOnce(t, r, vm, crash)
		info := vm.Info()
		if vm.Status() != Crashed || info.ResetIn == nil || *info.ResetIn != want.Seconds() {
			t.Fatalf("crash %d: %v, reset in %v; want %v", i+2, vm.Status(), info.ResetIn, want)
		}
		if s := info.StatusText(); s != "crashed, reset in "+want.String() {
			t.Errorf("status %q", s)
		}
		w.pass(want - time.Millisecond)
		if vm.Status() != Crashed {
			t.Fatalf("crash %d: reset too early", i+2)
		}
		w.pass(time.Millisecond)
		if vm.Status() != Running || vm.Info().ResetIn != nil || vm.Info().StatusText() != "running" {
			t.Fatalf("crash %d: %v after its pause", i+2, vm.Status())
		}
	}
	if !r.logged("crashed 2 times in a row: it is reset in 1s") || !r.logged("`vm stop test` ends it") {
		t.Errorf("the operator was told %q", r.log)
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

func TestTheOperatorCallsAResetOff(t *testing.T) {
	for name, act := range map[string]struct {
		do   func(vm *VM) error
		want Status
	}{
		"stop":   {func(vm *VM) error { return vm.Stop(gone) }, Stopped},
		"reset":  {(*VM).Reset, Running},
		"delete": {(*VM).Delete, Deleted},
	} {
		r, w, vm, crash := crasher(t)
		crashOnce(t, r, vm, crash)
		crashOnce(t, r, vm, crash)
		late := vm.restart.serial
		if err := act.do(vm); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if vm.Status() != act.want || w.waiting() != 0 || vm.Info().ResetIn != nil {
			t.Errorf("%s: %v, %d timers", name, vm.Status(), w.waiting())
		}
		vm.restartNow(late) // the timer fired just before it was stopped
		if vm.Status() != act.want {
			t.Errorf("%s: a late timer made it %v", name, vm.Status())
		}
		if act.want == Running {
			crashOnce(t, r, vm, crash) // counts from the beginning
			if vm.Status() != Running {
				t.Errorf("%s: the next crash left it %v", name, vm.Status())
			}
			vm.Stop(gone)
		}
		if act.want != Deleted {
			vm.Delete()
		}
		r.leaks(t)
	}
}

func TestPausesAfterCrashes(t *testing.T) {
	var r restart
	for i, c := range []struct{ ran, want time.Duration }{
		{0, 0}, {time.Minute, time.Second}, {restartCalm - 1, 2 * time.Second}, {restartCalm, 0}, {time.Hour, 0}, {0, time.Second},
	} {
		if d := r.pauseAfterCrash(c.ran); d != c.want {
			t.Errorf("crash %d after %v: a pause of %v, want %v", i, c.ran, d, c.want)
		}
	}
	r.crashes = 1 << 40
	if d := r.pauseAfterCrash(0); d != restartMost {
		t.Errorf("%v", d)
	}
}

// The pause before a reset ends while a migration has the machine. The migration fails, as the guest has crashed, and
// the reset is not forgotten.
func TestAResetThatFallsIntoAMigrationComesAfterIt(t *testing.T) {
	r, w, vm, crash := crasher(t)
	crashOnce(t, r, vm, crash) // the first is reset at once
	if err := vm.BeginTracking(1); err != nil {
		t.Fatal(err)
	}
	crash.Store(true)
	eventually(t, "a reset that waits", func() bool { return w.waiting() == 1 })
	w.pass(restartFirst)
	if vm.Status() != Crashed {
		t.Errorf("reset under a migration's hands: %v", vm.Status())
	}
	vm.EndTracking()
	if vm.Status() != Running {
		t.Errorf("after the migration it is %v, and nothing waits to reset it (%v)", vm.Status(), vm.Info().StatusText())
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

func TestAGuestThatResetsItselfWithoutEndDoesNotFillTheLog(t *testing.T) {
	var boots atomic.Int32
	var again atomic.Bool
	const wanted = 40
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		switch n := boots.Load(); {
		case n < wanted || again.Swap(false):
			boots.Add(1)
			return out(e, v, 0x60c, 1, 1)
		default:
			e.Reason = vcpu.ExitHost
			v.Block(time.Millisecond)
			return nil
		}
	})
	vm := r.vm(t, 1)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	told := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Count(strings.Join(r.log, "\n"), "reset itself")
	}
	eventually(t, "the last reset", func() bool {
		vm.ctl.Lock()
		defer vm.ctl.Unlock()
		return vm.restart.resets == wanted
	})
	if n := told(); n != 6 || !r.logged("reset itself 32 times in a row") || !r.logged("`vm stop test force` ends that") { // 1 2 4 8 16 32
		t.Errorf("%d of %d resets are told: %q", n, wanted, r.log)
	}
	vm.restart.bootedAt.Store(vm.clock.Now() - int64(resetCalm)) // it runs for a while
	again.Store(true)
	eventually(t, "a first reset again", func() bool { return told() == 7 })
	vm.events.mu.Lock()
	vm.events.told[tellHalt] = true
	vm.events.mu.Unlock()
	vm.ctl.Lock()
	vm.restart.untold = true
	vm.ctl.Unlock()
	vm.Stop(gone)
	if err := vm.Start(); err != nil { // the operator begins anew
		t.Fatal(err)
	}
	if !vm.first(tellHalt) {
		t.Error("what was told of an earlier run is not told again")
	}
	boots.Store(wanted - 1)
	eventually(t, "the first reset of another run", func() bool { return told() == 8 })
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}
