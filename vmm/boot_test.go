package vmm

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/device/i8042"
	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/state"
	"godwit/vmm/vcpu"
)

// arrived is a machine that has come to r from another host, where its files are. When told to, its guest resets itself.
func arrived(t *testing.T, open Opener) (r *rig, vm *VM, reset *atomic.Bool) {
	t.Helper()
	reset = new(atomic.Bool)
	program := func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if reset.Swap(false) {
			return out(e, v, i8042.Command, 1, 0xfe)
		}
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	}
	a := newRig(program)
	r = newRig(program)
	r.Host.File = open
	from := a.vm(t, 1)
	from.Start()
	from.Pause()
	var saved bytes.Buffer
	if err := from.SaveState(&saved); err != nil {
		t.Fatal(err)
	}
	vm, err := NewFromSpec(r.Host, from.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.LoadState(&saved); err != nil {
		t.Fatal(err)
	}
	if err := vm.StartLoaded(); err != nil {
		t.Fatal(err)
	}
	from.Delete()
	a.leaks(t)
	return r, vm, reset
}

// The files of a machine that came from elsewhere may take minutes to fetch. Its guest resets itself, and the operator's
// commands do not hang for so long.
func TestCommandsEndWhileAGuestThatResetItselfWaitsForItsFiles(t *testing.T) {
	asked := make(chan context.Context, 10)
	r, vm, reset := arrived(t, func(ctx context.Context, _ string) ([]byte, error) {
		asked <- ctx
		<-ctx.Done()
		return nil, ctx.Err()
	})
	reset.Store(true)
	fetch := <-asked
	eventually(t, "booting", func() bool { return vm.Status() == Booting })
	for name, f := range map[string]func() error{"start": vm.Start, "pause": vm.Pause, "reset": vm.Reset, "delete": vm.Delete,
		"migrate": func() error { return vm.BeginTracking(1) }} {
		done := make(chan error, 1)
		go func() { done <- f() }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "booting") {
				t.Errorf("vm %s: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("vm %s hangs", name)
		}
	}
	if err := vm.Stop(gone); err != nil || vm.Status() != Stopped {
		t.Fatalf("vm stop: %v, it is %v", err, vm.Status())
	}
	<-fetch.Done()
	soon, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := vm.FetchFiles(soon, r.Host.File); !errors.Is(err, context.Canceled) {
		t.Errorf("fetching, cancelled: %v", err)
	}
	vm.Delete()
	r.leaks(t)
}

// A server that does not notice that nobody waits any more answers late: the operator has stopped the machine meanwhile.
func TestFilesThatComeAfterTheStopBootNothing(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	r, vm, reset := arrived(t, func(context.Context, string) ([]byte, error) {
		asked <- true
		<-answer
		return kernel().Kernel, nil
	})
	reset.Store(true)
	<-asked
	eventually(t, "booting", func() bool { return vm.Status() == Booting })
	if err := vm.Stop(gone); err != nil {
		t.Fatal(err)
	}
	close(answer)
	time.Sleep(20 * time.Millisecond) // for what must not happen
	if s := vm.Status(); s != Stopped || r.logged("internal error") {
		t.Errorf("it is %v: %q", s, r.log)
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

func TestAGuestThatResetsItselfBootsWithTheFilesOfItsNewHost(t *testing.T) {
	var wrong atomic.Bool
	r, vm, reset := arrived(t, func(_ context.Context, name string) ([]byte, error) {
		if name != "module:kernel" {
			t.Errorf("asked for %q", name)
		}
		k := kernel().Kernel
		if wrong.Load() {
			k[len(k)-1] ^= 1
		}
		return k, nil
	})
	booted := vm.restart.bootedAt.Load()
	wrong.Store(true)
	reset.Store(true)
	eventually(t, "crash", func() bool { return vm.Status() == Crashed })
	if !r.logged("another file here") {
		t.Errorf("not told: %q", r.log)
	}
	wrong.Store(false)
	if err := vm.Reset(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "boot", func() bool { return vm.Status() == Running })
	if again := vm.restart.bootedAt.Load(); again <= booted {
		t.Errorf("up since %d ns, as before its reset, and not since that (%d)", again, booted)
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

// "up" is since the guest booted: pauses, earlier runs and other machines' lives do not count.
func TestUpCountsFromTheLastStart(t *testing.T) {
	r := newRig(printer)
	var ticks atomic.Int64
	r.TSC = func() uint64 { return uint64(ticks.Add(1000)) } // a microsecond a look
	pass := func(d time.Duration) { ticks.Add(int64(d)) }
	up := func(vm *VM, want time.Duration) {
		t.Helper()
		got := time.Duration(vm.Info().Uptime * float64(time.Second))
		if got < want || got > want+time.Second {
			t.Errorf("up %v, not %v", got, want)
		}
	}
	vm := r.vm(t, 1)
	up(vm, 0)
	vm.Start()
	pass(100 * time.Second)
	up(vm, 100*time.Second)
	vm.Stop(gone)
	up(vm, 0)
	pass(1000 * time.Second)
	vm.Start()
	up(vm, 0)
	pass(10 * time.Second)
	up(vm, 10*time.Second)
	vm.Reset()
	up(vm, 0)
	pass(5 * time.Second)
	vm.Pause()
	pass(1000 * time.Second)
	up(vm, 5*time.Second)
	var saved bytes.Buffer
	if err := vm.SaveState(&saved); err != nil {
		t.Fatal(err)
	}
	two, err := NewFromSpec(r.Host, vm.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := two.LoadState(&saved); err != nil {
		t.Fatal(err)
	}
	two.StartLoaded()
	up(two, 5*time.Second)
	for _, v := range []*VM{vm, two} {
		v.Stop(gone)
		v.Delete()
	}
	r.leaks(t)
}

// Another host says since when a guest runs: a time to come, or one before the machine was, would make "up" nonsense.
func TestAnImpossibleTimeOfBootIsRefused(t *testing.T) {
	r := newRig(printer)
	vm := r.vm(t, 1)
	for at, good := range map[int64]bool{-1: false, 0: true, vm.clock.Now(): true, vm.clock.Now() + 1: false} {
		var w state.Writer
		w.I64(at)
		w.U32(0)
		if err := (bootState{vm}).LoadState(1, state.NewReader(w.Bytes())); (err == nil) != good {
			t.Errorf("booted at %d ns of %d: %v", at, vm.clock.Now(), err)
		}
	}
	vm.Delete()
	r.leaks(t)
}
