package vmm

import (
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

// quick makes a second of the machine 5 ms of the test.
func quick(p fakecpu.Program) *rig {
	r := newRig(p)
	start := time.Now()
	r.TSC = func() uint64 { return uint64(time.Since(start))*200 + 1 }
	return r
}

// exits is a loop around an exit, which the deadline ends now and then.
func exits(v *fakecpu.VCPU, e *vcpu.Exit, r vcpu.Reason) {
	e.Reason = vcpu.ExitDeadline
	if v.Regs().GPR[vcpu.R15]++; v.Regs().GPR[vcpu.R15]%2 == 0 {
		e.Reason, e.Len = r, 2
	}
}

func TestGuestWhoseProcessorsAllSpinIsTold(t *testing.T) {
	for _, c := range []struct {
		name  string
		cpu1  func(v *fakecpu.VCPU, e *vcpu.Exit)
		hangs bool
	}{
		{"spins, too", func(v *fakecpu.VCPU, e *vcpu.Exit) { exits(v, e, vcpu.ExitPause) }, true},
		{"sleeps for good", func(v *fakecpu.VCPU, e *vcpu.Exit) { e.Reason, e.Len = vcpu.ExitHLT, 1 }, true},
		{"has interrupts on", func(v *fakecpu.VCPU, e *vcpu.Exit) { e.Reason = vcpu.ExitDeadline; v.Regs().RFLAGS |= flagIF }, false},
		{"does something", func(v *fakecpu.VCPU, e *vcpu.Exit) { exits(v, e, vcpu.ExitCPUID) }, false},
	} {
		var exits [2]atomic.Int64
		r := quick(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
			exits[v.Index].Add(1)
			if v.Block(time.Millisecond) {
				e.Reason = vcpu.ExitKicked
				return nil
			}
			e.Reason = vcpu.ExitDeadline
			if v.Index == 1 {
				c.cpu1(v, e)
			}
			return nil
		})
		if !c.hangs { // then both processors go on, and time only with them: to be kept waiting is not to hang
			r.TSC = func() uint64 { return uint64(min(exits[0].Load(), exits[1].Load()))*(nsPerSecond/5) + 1 }
		}
		vm := r.vm(t, 2)
		vm.Start()
		vm.Pause()
		vm.cpus[1].activity = vcpu.Running // as after SIPI
		vm.Resume()
		if c.hangs {
			eventually(t, c.name+": the hang is told", func() bool { return r.logged("it hangs") })
		} else {
			eventually(t, c.name+": 30 s of the machine", func() bool { return vm.clock.Now() > 30*nsPerSecond })
			if r.logged("it hangs") {
				t.Errorf("%s: a hang is told", c.name)
			}
		}
		vm.Stop(gone)
		vm.Delete()
		r.leaks(t)
	}
}

func TestPanicIsToldByTheDevice(t *testing.T) {
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if n := v.Regs().GPR[vcpu.R15]; n < 2 {
			v.Regs().GPR[vcpu.R15]++
			return out(e, v, 0x505, 1, 1)
		}
		return hlt(e)
	})
	vm := r.vm(t, 1)
	vm.Start()
	eventually(t, "the panic is told", func() bool { return r.logged("kernel panicked") })
	vm.Stop(gone)
	n := 0
	for _, e := range vm.Events() {
		if e.Text != "" && len(e.Text) > 20 && e.Text[:19] == "the guest's kernel " {
			n++
		}
	}
	if n != 1 {
		t.Errorf("told %d times: %v", n, vm.Events())
	}
	vm.Delete()
	r.leaks(t)
}
