package vmm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/cpuid"
	"godwit/vmm/device/acpipm"
	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

// boundedMem knows how much it has.
type boundedMem struct {
	*mem.Simulated
	t    *testing.T
	free uint64
}

func (m boundedMem) Fits(size uint64) error {
	if size > m.free {
		return fmt.Errorf("only %d bytes are free", m.free)
	}
	return nil
}

func (m boundedMem) Alloc(size, align uint64) (mem.Block, error) {
	if size >= chunkSize && m.free < 16<<20 {
		m.t.Error("memory is taken for a machine that does not fit")
	}
	return m.Simulated.Alloc(size, align)
}

type rig struct {
	*Host
	b   *fakecpu.Backend
	mem *mem.Simulated
	mu  sync.Mutex
	log []string
}

func newRig(p fakecpu.Program) *rig {
	r := &rig{b: &fakecpu.Backend{Program: p}, mem: new(mem.Simulated)}
	start := time.Now()
	r.Host = &Host{
		Backend: r.b, Memory: r.mem, CPU: cpuid.NewHost(fakecpu.CPUID, r.b.Capabilities()),
		TSC: func() uint64 { return uint64(time.Since(start)) + 12345678 }, TSCHz: 1e9,
		WallClock: time.Now,
		Log: func(s string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.log = append(r.log, s)
		},
	}
	return r
}

func (r *rig) logged(s string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(strings.Join(r.log, "\n"), s)
}

// leaks fails the test if anything is left.
func (r *rig) leaks(t *testing.T) {
	t.Helper()
	if s, v := r.b.Open(); s != 0 || v != 0 || r.mem.Live() != 0 {
		t.Errorf("left behind: %d spaces, %d VCPUs, %d bytes", s, v, r.mem.Live())
	}
}

// kernel is a flat Multiboot image of a few bytes at 1 MiB.
func kernel() Files {
	b := make([]byte, 0x100)
	const kludge = 1 << 16
	for i, v := range []uint32{0x1badb002, kludge, 1<<32 - 0x1badb002 - kludge, 1 << 20, 1 << 20, 0, 0, 1<<20 + 0x40} {
		binary.LittleEndian.PutUint32(b[i*4:], v)
	}
	b[0x40] = 0xf4 // hlt
	return Files{Kernel: b}
}

func config(cpus int) Config {
	return Config{Name: "test", Memory: 16 << 20, CPUs: cpus, Kernel: "module:kernel"}
}

func (r *rig) vm(t testing.TB, cpus int) *VM {
	t.Helper()
	vm, err := New(r.Host, config(cpus), kernel())
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// out is a guest's OUT.
func out(e *vcpu.Exit, v *fakecpu.VCPU, port uint16, size uint8, x uint32) error {
	e.Reason, e.Port, e.Size, e.In, e.Len = vcpu.ExitIO, port, size, false, 1
	v.Regs().GPR[vcpu.RAX] = uint64(x)
	return nil
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 6000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within a minute: %s", what)
}

var gone = func() context.Context {
	c, cancel := context.WithCancel(context.Background())
	cancel()
	return c
}()

// printer writes "hello\n" to COM1 and then executes until it is kicked.
func printer(v *fakecpu.VCPU, e *vcpu.Exit) error {
	n := v.Regs().GPR[vcpu.R15]
	if v.Index == 0 && n < 6 {
		v.Regs().GPR[vcpu.R15]++
		return out(e, v, 0x3f8, 1, uint32("hello\n"[n]))
	}
	e.Reason = vcpu.ExitHost
	if v.Block(50 * time.Millisecond) {
		e.Reason = vcpu.ExitKicked
	}
	return nil
}

func console(vm *VM) string {
	b := make([]byte, 100)
	n, _ := vm.ReadConsole(b, 0)
	return string(b[:n])
}

func TestLifeOfAMachine(t *testing.T) {
	r := newRig(printer)
	vm := r.vm(t, 4)
	if vm.Status() != Stopped {
		t.Fatalf("new: %v", vm.Status())
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(vm.Start())
	eventually(t, "its output", func() bool { return console(vm) == "hello\n" })
	if err := vm.Delete(); err == nil || !strings.Contains(err.Error(), "vm stop test") {
		t.Errorf("delete of a running machine: %v", err)
	}
	must(vm.Pause())
	at := vm.clock.Now()
	time.Sleep(20 * time.Millisecond)
	if vm.clock.Now() != at {
		t.Error("time goes on in a paused machine")
	}
	must(vm.Resume())
	must(vm.Reset())
	eventually(t, "its output after a reset", func() bool { return console(vm) == "hello\nhello\n" })
	must(vm.Stop(gone))
	if vm.Status() != Stopped {
		t.Errorf("stopped: %v", vm.Status())
	}
	must(vm.Start())
	must(vm.Stop(gone))
	must(vm.Delete())
	if err := vm.Start(); err == nil {
		t.Error("a deleted machine started")
	}
	r.leaks(t)
}

func TestWhoeverGivesUpWaitingForAPowerOffLeavesTheMachineRunning(t *testing.T) {
	r := newRig(printer)
	vm := r.vm(t, 1)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(30*time.Millisecond, cancel)
	if err := vm.Stop(ctx); !errors.Is(err, context.Canceled) || vm.Status() != Running || !strings.Contains(err.Error(), "runs on") {
		t.Errorf("cancelled: %v, %v", err, vm.Status())
	}
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if err := vm.Stop(ctx); err != nil || vm.Status() != Stopped {
		t.Errorf("timed out: %v, %v", err, vm.Status())
	}
	vm.Delete()
	r.leaks(t)
}

func TestPowerOffResetAndCrashByTheGuest(t *testing.T) {
	var what atomic.Int32
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		switch {
		case v.Index != 0:
			e.Reason = vcpu.ExitHLT
			e.Len = 1
			return nil
		case what.Load() == 1: // S5
			what.Store(0)
			return out(e, v, 0x604, 2, 5<<10|1<<13)
		case what.Load() == 2: // the reset register
			what.Store(0)
			return out(e, v, 0x60c, 1, 1)
		case what.Load() == 3:
			what.Store(0)
			e.Reason = vcpu.ExitShutdown
			return nil
		case what.Load() == 4:
			what.Store(0)
			return fmt.Errorf("an entry check failed")
		}
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	})
	vm := r.vm(t, 2)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	what.Store(1)
	eventually(t, "power-off", func() bool { return vm.Status() == Stopped })
	vm.Start()
	what.Store(2)
	eventually(t, "reset", func() bool { return r.logged("reset itself") && vm.Status() == Running })
	what.Store(3)
	eventually(t, "crash", func() bool { return vm.Status() == Crashed })
	if !r.logged("triple fault") || !r.logged("RIP 0x100040") {
		t.Errorf("log: %q", r.log)
	}
	if err := vm.Start(); err == nil || !strings.Contains(err.Error(), "vm reset") {
		t.Errorf("start of a crashed machine: %v", err)
	}
	if err := vm.Reset(); err != nil {
		t.Fatal(err)
	}
	what.Store(4)
	eventually(t, "a failed entry", func() bool { return vm.Status() == Crashed })
	if !r.logged("entry check") {
		t.Errorf("log: %q", r.log)
	}
	if err := vm.Delete(); err != nil {
		t.Fatal(err)
	}
	r.leaks(t)
}

func TestTheStateOfAMachineMovesToAnother(t *testing.T) {
	r := newRig(printer)
	vm := r.vm(t, 2)
	vm.Start()
	eventually(t, "output", func() bool { return console(vm) == "hello\n" })
	if err := vm.BeginTracking(8); err != nil {
		t.Fatal(err)
	}
	if err := vm.Stop(gone); err == nil || !strings.Contains(err.Error(), "migrate cancel test") {
		t.Errorf("stop while migrating: %v", err)
	}
	soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := vm.Stop(soon); err == nil || vm.bus.In(acpipm.Base+acpipm.PM1Status, 2)&(1<<8) != 0 {
		t.Errorf("stop while migrating pressed the power button: %v", err)
	}
	if err := vm.PauseTaken(context.Background()); err != nil {
		t.Fatal(err)
	}
	vm.cpus[0].v.Set(vcpu.LSTAR, 0xffffffff81000000)
	vm.cpus[1].writeMSR(0x250, 0x0505050505050505)
	if !vm.cpus[1].writeMSR(msrKVMSystem, 0x5000|1) {
		t.Error("kvmclock refused")
	}
	var state bytes.Buffer
	if err := vm.SaveState(&state); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 4096)
	vm.ReadPages(5, page)

	two, err := NewFromSpec(r.Host, vm.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := two.WritePages(5, page); err != nil {
		t.Fatal(err)
	}
	if err := two.LoadState(bytes.NewReader(state.Bytes())); err != nil {
		t.Fatal(err)
	}
	if two.clock.Now() != vm.clock.Now() {
		t.Errorf("the clock is %d, was %d", two.clock.Now(), vm.clock.Now())
	}
	for i := range vm.cpus {
		a, b := vm.cpus[i], two.cpus[i]
		if *a.regs != *b.regs || a.msrs != b.msrs || a.systemTime != b.systemTime || a.activity != b.activity || a.v.Get(vcpu.LSTAR) != b.v.Get(vcpu.LSTAR) {
			t.Errorf("CPU %d differs", i)
		}
		if x, y := vm.stoppedAt+a.tscOffset, two.stoppedAt+b.tscOffset; x != y {
			t.Errorf("CPU %d: TSC %d, was %d", i, y, x)
		}
	}
	var again bytes.Buffer
	if err := two.SaveState(&again); err != nil || !bytes.Equal(again.Bytes(), state.Bytes()) {
		t.Errorf("saved again it differs (%v)", err)
	}
	if err := vm.Release(); err != nil {
		t.Fatal(err)
	}
	if err := two.StartLoaded(); err != nil {
		t.Fatal(err)
	}
	if console(two) != "hello\n" {
		t.Errorf("console %q", console(two))
	}
	if err := two.Reset(); err == nil || two.Status() != Crashed {
		t.Errorf("a reset without the kernel's file: %v, %v", err, two.Status())
	}
	two.Delete()
	r.leaks(t)
}

func TestDamagedStateIsRefused(t *testing.T) {
	r := newRig(printer)
	vm := r.vm(t, 1)
	vm.Start()
	vm.Pause()
	var state bytes.Buffer
	if err := vm.SaveState(&state); err != nil {
		t.Fatal(err)
	}
	vm.Stop(gone)
	vm.Delete()
	for cut := 0; cut < state.Len(); cut += 1 + state.Len()/40 {
		two := r.vm(t, 1)
		if err := two.LoadState(bytes.NewReader(state.Bytes()[:cut])); err == nil {
			t.Errorf("cut to %d bytes: no error", cut)
		}
		two.Delete()
	}
	c := config(2)
	c.Name = "other"
	two, _ := New(r.Host, c, kernel())
	if err := two.LoadState(bytes.NewReader(state.Bytes())); err == nil {
		t.Error("loaded by a machine with another number of CPUs")
	}
	two.Delete()
	r.leaks(t)
}

func TestAMachineThatDoesNotFitTakesNothing(t *testing.T) {
	r := newRig(nil)
	for _, free := range []uint64{16<<20 - 1, 16 << 20} {
		r.Host.Memory = boundedMem{r.mem, t, free}
		vm, err := New(r.Host, config(1), kernel())
		if fits := free >= 16<<20; (err == nil) != fits || !fits && !strings.Contains(err.Error(), "bytes are free; give it less with mem=") {
			t.Errorf("%d free: %v", free, err)
		}
		if vm != nil {
			vm.Delete()
		}
	}
	r.leaks(t)
}

func TestWhatWillNotBootIsKnownBeforeTheMachineIsMade(t *testing.T) {
	for want, change := range map[string]func(*Config, *Files){
		"":                           func(*Config, *Files) {},
		"not all RAM":                func(c *Config, f *Files) { binary.LittleEndian.PutUint32(f.Kernel[24:], 64<<20) },
		"initrd":                     func(c *Config, f *Files) { f.Initrd = make([]byte, 32<<20) },
		"the command line has 99999": func(c *Config, f *Files) { c.CommandLine = strings.Repeat("x", 99999) },
	} {
		c, f := config(1), kernel()
		change(&c, &f)
		if err := f.CheckBoot(&c); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestAnEmptyInitrdIsNoInitrd(t *testing.T) {
	c := config(1)
	c.Initrd = "module:empty"
	_, err := OpenFiles(&c, func(name string) ([]byte, error) {
		if name == c.Initrd {
			return []byte{}, nil
		}
		return kernel().Kernel, nil
	})
	if err == nil || !strings.Contains(err.Error(), "initrd: module:empty is empty") {
		t.Error(err)
	}
}
