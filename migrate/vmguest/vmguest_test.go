package vmguest

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"godwit/migrate"
	"godwit/vmm"
	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/consolering"
	"godwit/vmm/device/uart"
	"godwit/vmm/vcpu"
	"godwit/vmm/vmmtest"
)

// The largest machine there is, with a console full of what does not compress, is not too large for what a target takes.
func TestTheLargestStateMoves(t *testing.T) {
	written := make(chan struct{})
	n := 0
	h := vmmtest.New(func(v *vmmtest.VCPU, e *vcpu.Exit) error {
		if n <= consolering.Size {
			if n++; n > consolering.Size {
				close(written)
			}
			return vmmtest.Out(v, e, uart.COM1, byte(rand.Uint32()))
		}
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	}, 0)
	r := vmm.NewRegistry(h.Host)
	vm, err := r.Create(vmm.Config{Name: "large", Memory: 16 << 20, CPUs: vmm.MaxCPUs, Kernel: "module:kernel"}, vmm.Files{Kernel: vmmtest.Kernel()})
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	<-written
	var state uint64
	if err := Rehearse(context.Background(), &Target{Registry: r}, "large", 1, migrate.Options{}, func(rep migrate.Report) { state = max(state, rep.Saved) }); err != nil {
		t.Fatal(err)
	}
	if state < consolering.Size {
		t.Errorf("the state has only %d bytes: the console is not in it", state)
	}
	r.Close()
	if s, v, b := h.Left(); s != 0 || v != 0 || b != 0 {
		t.Errorf("left behind: %d spaces, %d VCPUs, %d bytes", s, v, b)
	}
}

// A guest that powers off in the middle of a rehearsal is a stopped machine at home, not one that is gone.
func TestAGuestThatEndsDuringARehearsalIsNotLost(t *testing.T) {
	var off atomic.Bool
	h := vmmtest.New(func(v *vmmtest.VCPU, e *vcpu.Exit) error {
		if off.Swap(false) {
			e.Reason, e.Port, e.Size, e.Len = vcpu.ExitIO, acpipm.Base+acpipm.PM1Control, 2, 1
			v.Regs().GPR[vcpu.RAX] = 1<<13 | 5<<10
			return nil
		}
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	}, 0)
	home := vmm.NewRegistry(h.Host)
	vm, err := home.Create(vmm.Config{Name: "web", Memory: 16 << 20, CPUs: 1, Kernel: "module:kernel"}, vmm.Files{Kernel: vmmtest.Kernel()})
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	moves := 0
	err = Rehearse(context.Background(), &Target{Registry: home}, "web", 1, migrate.Options{}, func(r migrate.Report) {
		if moves++; moves == 1 {
			for off.Store(true); off.Load(); { // it does so when it has a processor
				time.Sleep(time.Millisecond)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	if err == nil {
		t.Fatal("a guest that is off moved")
	}
	if vm, err := home.Get("web"); err != nil || vm.Status() != vmm.Stopped {
		t.Fatalf("after it: %v", err)
	}
	home.Close()
	if s, v, b := h.Left(); s != 0 || v != 0 || b != 0 {
		t.Errorf("left behind: %d spaces, %d VCPUs, %d bytes", s, v, b)
	}
}
