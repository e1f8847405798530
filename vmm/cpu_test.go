package vmm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/state"
	"godwit/vmm/vcpu"
)

// wrmsr and the like are a guest's instructions.
func wrmsr(e *vcpu.Exit, msr uint32, v uint64) error {
	e.Reason, e.MSR, e.Value, e.Len = vcpu.ExitWRMSR, msr, v, 2
	return nil
}

func hlt(e *vcpu.Exit) error { e.Reason, e.Len = vcpu.ExitHLT, 1; return nil }

// A script is what one processor executes, an instruction a step; after the last
// it halts for good.
type script []func(v *fakecpu.VCPU, e *vcpu.Exit) error

func write(msr uint32, v uint64) func(*fakecpu.VCPU, *vcpu.Exit) error {
	return func(_ *fakecpu.VCPU, e *vcpu.Exit) error { return wrmsr(e, msr, v) }
}

func (s script) run(v *fakecpu.VCPU, e *vcpu.Exit) error {
	n := v.Regs().GPR[vcpu.R15]
	v.Regs().GPR[vcpu.R15]++
	if n < uint64(len(s)) {
		return s[n](v, e)
	}
	return hlt(e)
}

const (
	apicBase = 0x1b
	x2On     = 0xfee00c00
	x2SVR    = 0x80f
	x2EOI    = 0x80b
	x2ICR    = 0x830
	x2Timer  = 0x832
	x2Init   = 0x838
	x2Divide = 0x83e
)

func TestProcessorsStartEachOtherAndInterruptEachOther(t *testing.T) {
	var started atomic.Uint64
	var got atomic.Uint32
	boot := script{
		write(apicBase, x2On|1<<8), write(x2SVR, 0x1ff),
		write(x2ICR, 1<<32|0x4500),      // INIT
		write(x2ICR, 1<<32|0x4600|0x9a), // SIPI to 9a000h
		write(x2ICR, 1<<32|0x4600|0x77), // the second one is too late
	}
	second := script{
		func(v *fakecpu.VCPU, e *vcpu.Exit) error {
			started.Store(v.Segment(vcpu.CS).Base + v.Regs().RIP)
			v.Regs().RFLAGS |= flagIF
			return wrmsr(e, apicBase, x2On)
		},
		write(x2SVR, 0x1ff),
		write(x2ICR, 0<<32|0x4055), // interrupt the first
		func(v *fakecpu.VCPU, e *vcpu.Exit) error { return hlt(e) },
	}
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if v.Index == 1 {
			if len(v.Injected) > 0 {
				got.Or(1 << 31)
			}
			return second.run(v, e)
		}
		v.Regs().RFLAGS |= flagIF
		for _, i := range v.Injected {
			if i.Vector == 0x55 {
				got.Or(1)
				v.Injected = nil
				v.Regs().GPR[vcpu.R15] = 100
				return wrmsr(e, x2EOI, 0)
			}
		}
		if v.Regs().GPR[vcpu.R15] == 101 {
			v.Regs().GPR[vcpu.R15]++
			return wrmsr(e, x2ICR, 1<<32|0x4066) // and back
		}
		if v.Regs().GPR[vcpu.R15] == 100 {
			v.Regs().GPR[vcpu.R15]++
			return wrmsr(e, x2EOI, 0)
		}
		return boot.run(v, e)
	})
	vm := r.vm(t, 2)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an interrupt each way", func() bool { return got.Load() == 1<<31|1 })
	if started.Load() != 0x9a000 {
		t.Errorf("the second processor started at %#x", started.Load())
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

// Whoever presses the NMI button before a kernel has started its processors must not bring those down: the kernel's first
// code there has no handler.
func TestAProcessorThatStartsKnowsNoEarlierNMI(t *testing.T) {
	first := make(chan int, 1)
	boot := script{
		write(apicBase, x2On|1<<8), write(x2SVR, 0x1ff),
		write(x2ICR, 1<<32|0x4400), // NMI
		write(x2ICR, 1<<32|0x4500), // INIT
		write(x2ICR, 1<<32|0x4600|0x9a),
	}
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if v.Index == 0 {
			return boot.run(v, e)
		}
		select {
		case first <- len(v.Injected):
		default:
		}
		return hlt(e)
	})
	vm := r.vm(t, 2)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	if n := <-first; n != 0 {
		t.Errorf("%d events before its first instruction", n)
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

func TestTimerWakesAHaltedProcessorOnTime(t *testing.T) {
	const period = 3 * time.Millisecond
	var late atomic.Int64
	var ticks atomic.Int64
	var set time.Time
	s := script{write(apicBase, x2On|1<<8), write(x2SVR, 0x1ff), write(x2Divide, 0xb), write(x2Timer, 0x40)}
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		v.Regs().RFLAGS |= flagIF
		n := v.Regs().GPR[vcpu.R15]
		switch {
		case n < uint64(len(s)):
			return s.run(v, e)
		case n == uint64(len(s)):
			v.Regs().GPR[vcpu.R15]++
			set = time.Now()
			return wrmsr(e, x2Init, uint64(period))
		case len(v.Injected) > 0:
			v.Injected = v.Injected[:0]
			late.Store(max(late.Load(), int64(time.Since(set)-period)))
			if time.Since(set) < period {
				t.Errorf("a tick after %v, before its time", time.Since(set))
			}
			ticks.Add(1)
			v.Regs().GPR[vcpu.R15] = uint64(len(s))
			return wrmsr(e, x2EOI, 0)
		}
		return hlt(e)
	})
	vm := r.vm(t, 1)
	vm.Start()
	eventually(t, "20 ticks", func() bool { return ticks.Load() >= 20 })
	vm.Stop(gone)
	if x := vm.Info(); x.CPUs[0].Halted < 0.02 || x.CPUs[0].Injected < 20 {
		t.Errorf("halted for %v s, %d interrupts", x.CPUs[0].Halted, x.CPUs[0].Injected)
	}
	vm.Delete()
	t.Logf("the latest came %v after its time", time.Duration(late.Load()))
}

func TestMSRs(t *testing.T) {
	r := newRig(nil)
	vm := r.vm(t, 1)
	c := vm.cpus[0]
	for _, d := range msrs {
		if v, ok := c.readMSR(d.msr); !ok || d.kind < register && v != d.value {
			t.Errorf("%s reads %#x, %v", d.name, v, ok)
		}
		if d.kind == stored && (!c.writeMSR(d.msr, d.mask) || c.msrs[msrIndex[d.msr]] != d.mask) {
			t.Errorf("%s does not hold %#x", d.name, d.mask)
		}
	}
	for msr := uint32(0xc0010000); msr < 0xc0010008; msr++ { // as Xen's init_amd
		if v, _ := c.readMSR(msr); !c.writeMSR(msr, 0) || !c.writeMSR(msr, 1<<22) || v != 0 {
			t.Errorf("performance register %#x faults, or counts", msr)
		}
	}
	if c.writeMSR(0x250, 0x80) {
		t.Error("a reserved bit of an MTRR was taken")
	}
	for range 3 {
		if _, ok := c.readMSR(0xdeadbeef); ok {
			t.Error("MSR 0xdeadbeef exists")
		}
	}
	if c.stats.badMSR.Load() != 3 || len(vm.Events()) != 1 {
		t.Errorf("%d counted, told: %v", c.stats.badMSR.Load(), vm.Events())
	}
	// A guest that tries them all hears nothing else go by.
	for msr := range uint32(10 * maxTold) {
		c.readMSR(0x50000000 + msr)
	}
	if n := len(vm.events.told); n > maxTold {
		t.Errorf("%d registers are remembered", n)
	}
	vm.panicked(false)
	if !vm.events.told[tellPanic] {
		t.Error("after many unknown registers a panic is not told")
	}
	if !c.writeMSR(msrTSC, 1000) {
		t.Error("the TSC can not be written")
	}
	if v, _ := c.readMSR(msrTSC); v < 1000 || v > 1e9 {
		t.Errorf("the TSC reads %d", v)
	}
	if c.writeMSR(msrKVMSystem, vm.cfg.Memory|1) || c.writeMSR(msrKVMSystem, 0x1003) || c.writeMSR(msrKVMWallClock, ^uint64(3)) {
		t.Error("a clock page outside of RAM was taken")
	}
	vm.Delete()
}

func TestClockPageAgreesWithTheMachinesClock(t *testing.T) {
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	})
	// A host that is kept waiting for a processor between any two looks at its counter.
	var looks atomic.Uint64
	steady := r.TSC
	r.TSC = func() uint64 { return steady() + looks.Add(1)*1e6 }
	vm := r.vm(t, 2)
	vm.Start()
	vm.Pause()
	apart := int64(vm.stoppedAt+vm.cpus[0].tscOffset) - vm.clock.Now() // at 1 GHz
	last := int64(0)
	for round := range 3 {
		for i, c := range vm.cpus {
			if round == 0 && !c.writeMSR(msrKVMSystem, uint64(0x5000+i*64)|1) {
				t.Fatal("refused")
			}
		}
		vm.Resume()
		time.Sleep(2 * time.Millisecond)
		vm.Pause()
		for i := range vm.cpus {
			var p [clockInfoSize]byte
			vm.ram.ReadAt(p[:], uint64(0x5000+i*64))
			le := binary.LittleEndian
			tsc := vm.stoppedAt + vm.cpus[i].tscOffset
			s := scale{mul: le.Uint32(p[24:]), shift: int8(p[28])}
			guest := int64(le.Uint64(p[16:])) + s.ns(tsc-le.Uint64(p[8:]))
			if d := guest - vm.clock.Now(); d < -50 || d > 50 || guest < last || p[0]&1 != 0 {
				t.Errorf("round %d, CPU %d: the guest reads %d, the machine's clock %d, the last reading %d", round, i, guest, vm.clock.Now(), last)
			}
			if d := int64(tsc) - vm.clock.Now() - apart; d < -50 || d > 50 {
				t.Errorf("round %d, CPU %d: its counter is %d ns further from the machine's clock than before", round, i, d)
			}
			last = guest
		}
		time.Sleep(20 * time.Millisecond) // while it is paused no time passes
	}
	vm.Stop(gone)
	vm.Delete()
}

func TestInstructionsThatCanNotBeEmulatedStopTheGuest(t *testing.T) {
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		v.Regs().GPR[vcpu.RBX] = 0xfec00000
		e.Reason, e.GPA, e.Access = vcpu.ExitMemory, 0xfec00000, vcpu.Read
		return nil
	})
	f := kernel()
	copy(f.Kernel[0x40:], []byte{0x0f, 0x6f, 0x03}) // movq mm0,[ebx]
	vm, err := New(r.Host, config(1), f)
	if err != nil {
		t.Fatal(err)
	}
	vm.Start()
	eventually(t, "the crash", func() bool { return vm.Status() == Crashed })
	if !r.logged("movq") {
		t.Errorf("log: %q", strings.Join(r.log, "\n"))
	}
	vm.Delete()
	r.leaks(t)
}

func TestMemoryIsMappedWhenItIsTouched(t *testing.T) {
	var n atomic.Int64
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if n.Add(1) == 1 {
			e.Reason, e.GPA, e.Access = vcpu.ExitMemory, 5<<20, vcpu.Write
			return nil
		}
		return hlt(e)
	})
	vm := r.vm(t, 1)
	if _, ok := vm.tables.Lookup(5 << 20); ok {
		t.Error("mapped before it was touched")
	}
	vm.Start()
	eventually(t, "the mapping", func() bool { _, ok := vm.tables.Lookup(5 << 20); return ok })
	if m, _ := vm.tables.Lookup(5 << 20); m.Size != chunkSize || !m.Writable {
		t.Errorf("mapped as %+v", m)
	}
	vm.Stop(gone)
	vm.Delete()
}

func TestCodeIsFetchedWhereLargePagesHoldNone(t *testing.T) {
	const code = 5<<20 + 0x1000
	var vm *VM
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		m, ok := vm.tables.Lookup(code)
		if m.Code {
			return hlt(e)
		}
		e.Reason, e.GPA, e.Access, e.Mapped = vcpu.ExitMemory, code, vcpu.Exec, ok
		return nil
	})
	r.b.Caps.SmallCode = true
	vm = r.vm(t, 1)
	vm.Start()
	eventually(t, "the code", func() bool { m, _ := vm.tables.Lookup(code); return m.Code && m.Size == pageSize })
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}

func TestSingleStepOfAnInstructionCarriedOutHere(t *testing.T) {
	for debug, want := range map[uint64]bool{0: true, debugBTF: false} {
		got := make(chan bool, 1)
		n := 0
		r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
			if n++; n == 1 {
				v.Regs().RFLAGS |= flagTF
				v.Set(vcpu.DebugCtl, debug)
				e.Reason, e.Len = vcpu.ExitCPUID, 2
				return nil
			}
			if n == 2 {
				got <- v.Get(vcpu.DR6)&dr6BS != 0
			}
			return hlt(e)
		})
		vm := r.vm(t, 1)
		vm.Start()
		if trapped := <-got; trapped != want {
			t.Errorf("DEBUGCTL %#x: a trap after CPUID with TF set: %v", debug, trapped)
		}
		vm.Stop(gone)
		vm.Delete()
	}
}

// What the emulator carries out traps as well: after it, and after each round of a REP (SDM vol. 3, 17.3.1.4).
func TestSingleStepOfAnEmulatedInstruction(t *testing.T) {
	const at = 1<<20 + 0x40
	for _, c := range []struct {
		name      string
		code      []byte
		exit      func(e *vcpu.Exit)
		rip, left uint64
	}{
		{"mov eax,[ebx]", []byte{0x8b, 0x03}, func(e *vcpu.Exit) { e.Reason, e.GPA, e.Access = vcpu.ExitMemory, 0xfec00000, vcpu.Read }, at + 2, 3},
		{"rep outsb", []byte{0xf3, 0x6e}, func(e *vcpu.Exit) { e.Reason, e.Port, e.Size, e.String = vcpu.ExitIO, 0x80, 1, true }, at, 2},
	} {
		for _, stepped := range []bool{true, false} {
			var steps, taken int
			var rip, left uint64
			done := make(chan bool, 1)
			r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
				g := v.Regs()
				switch steps++; steps {
				case 1:
					g.GPR[vcpu.RBX], g.GPR[vcpu.RCX], g.GPR[vcpu.RDX], g.GPR[vcpu.RSI] = 0xfec00000, 3, 0x80, 0x3000
					if stepped {
						g.RFLAGS |= flagTF
					}
					c.exit(e)
					return nil
				case 2:
					for _, i := range v.Injected {
						if i.Vector == vcpu.VecDB && v.Get(vcpu.DR6)&dr6BS != 0 {
							taken++
						}
					}
					rip, left = g.RIP, g.GPR[vcpu.RCX]
					done <- true
				}
				return hlt(e)
			})
			f := kernel()
			copy(f.Kernel[0x40:], c.code)
			vm, err := New(r.Host, config(1), f)
			if err != nil {
				t.Fatal(err)
			}
			vm.Start()
			<-done
			switch {
			case stepped && (taken != 1 || rip != c.rip || left != c.left):
				t.Errorf("%s: %d traps, then RIP %#x and %d rounds left", c.name, taken, rip, left)
			case !stepped && (taken != 0 || rip != at+2):
				t.Errorf("%s without TF: %d traps, then RIP %#x", c.name, taken, rip)
			}
			vm.Stop(gone)
			vm.Delete()
		}
	}
}

// FuzzProcessorState gives a processor any state at all.
func FuzzProcessorState(f *testing.F) {
	r := newRig(nil)
	vm := r.vm(f, 1)
	c := cpuState{vm.cpus[0]}
	var w state.Writer
	c.SaveState(&w)
	f.Add(w.Bytes())
	f.Add(w.Bytes()[:len(w.Bytes())-100])
	f.Fuzz(func(t *testing.T, b []byte) {
		rd := state.NewReader(b)
		if c.LoadState(1, rd) != nil || rd.Close() != nil {
			return
		}
		var again state.Writer
		c.SaveState(&again)
		if string(again.Bytes()) != string(b) {
			t.Error("what was loaded is saved as something else")
		}
	})
}

// FuzzSpec gives a host any machine's description.
func FuzzSpec(f *testing.F) {
	r := newRig(nil)
	vm := r.vm(f, 1)
	f.Add(vm.Spec())
	f.Add([]byte(`{"config":{"name":"a","memory":16777216,"cpus":1,"kernel":"x"},"model":"host","phys_bits":40,"features":["fpu"],"files":[{},{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 || strings.Contains(string(b), "0000000000") {
			return // no gigabytes of memory for every try
		}
		if vm, err := NewFromSpec(r.Host, b); err == nil {
			vm.Abandon()
		}
	})
}

// BenchmarkExit is the way from one exit to the next entry.
func BenchmarkExit(b *testing.B) {
	for _, k := range []struct {
		name string
		exit func(v *fakecpu.VCPU, e *vcpu.Exit) error
	}{
		{"host", func(v *fakecpu.VCPU, e *vcpu.Exit) error { e.Reason = vcpu.ExitHost; return nil }},
		{"cpuid", func(v *fakecpu.VCPU, e *vcpu.Exit) error {
			v.Regs().GPR[vcpu.RAX] = 0x40000000
			e.Reason, e.Len = vcpu.ExitCPUID, 2
			return nil
		}},
		{"in", func(v *fakecpu.VCPU, e *vcpu.Exit) error {
			e.Reason, e.Port, e.Size, e.In, e.Len = vcpu.ExitIO, 0x3fd, 1, true, 1
			return nil
		}},
		{"wrmsr", func(v *fakecpu.VCPU, e *vcpu.Exit) error { return wrmsr(e, 0x174, 16) }},
	} {
		b.Run(k.name, func(b *testing.B) {
			var left atomic.Int64
			done := make(chan bool, 1)
			r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
				if left.Add(-1) == 0 {
					done <- true
				}
				if left.Load() < 0 {
					v.Block(time.Hour)
				}
				return k.exit(v, e)
			})
			vm := r.vm(b, 1)
			b.ReportAllocs()
			left.Store(int64(b.N))
			b.ResetTimer()
			vm.Start()
			<-done
			b.StopTimer()
			vm.Stop(gone)
			vm.Delete()
		})
	}
}

func TestClockGoesOnAtAHostWithAnotherTSC(t *testing.T) {
	idle := func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return nil
	}
	a, b := newRig(idle), newRig(idle)
	start := time.Now()
	b.TSCHz = 2500e6
	b.TSC = func() uint64 { return uint64(time.Since(start)) * 5 / 2 }
	from := a.vm(t, 1)
	from.Start()
	time.Sleep(5 * time.Millisecond)
	moved := time.Now()
	from.Pause()
	from.cpus[0].writeMSR(msrKVMSystem, 0x5001)
	var s bytes.Buffer
	if err := from.SaveState(&s); err != nil {
		t.Fatal(err)
	}
	then := from.clock.Now()
	tsc := from.stoppedAt + from.cpus[0].tscOffset
	to, err := NewFromSpec(b.Host, from.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := to.LoadState(&s); err != nil {
		t.Fatal(err)
	}
	to.StartLoaded()
	time.Sleep(4 * time.Millisecond)
	to.Pause()
	ran := time.Since(moved) // or less
	var p [clockInfoSize]byte
	to.ram.ReadAt(p[:], 0x5000)
	le := binary.LittleEndian
	now := to.stoppedAt + to.cpus[0].tscOffset
	guest := int64(le.Uint64(p[16:])) + scale{mul: le.Uint32(p[24:]), shift: int8(p[28])}.ns(now-le.Uint64(p[8:]))
	if now < tsc+10e6 || now > tsc+uint64(ran)*5/2 {
		t.Errorf("the guest's counter went from %d to %d in 4 ms to %v at 2.5 GHz", tsc, now, ran)
	}
	if guest < then+4e6 || guest > then+int64(ran) {
		t.Errorf("the guest's clock went from %d to %d ns in 4 ms to %v", then, guest, ran)
	}
	from.Release()
	to.Delete()
	a.leaks(t)
	b.leaks(t)
}

func TestInstructionsThatTheModelDoesNotHave(t *testing.T) {
	const at = 1<<20 + 0x40
	for _, c := range []struct {
		reason vcpu.Reason
		vector uint8 // injected, or 0 and RIP moves by 3
		rax    uint64
	}{
		{vcpu.ExitMonitor, vcpu.VecUD, 7},
		{vcpu.ExitOther, vcpu.VecUD, 7},
		{vcpu.ExitHypercall, 0, 1<<64 - errNoHypercall},
		{vcpu.ExitWBINVD, 0, 7},
		{vcpu.ExitPause, 0, 7},
	} {
		done := make(chan uint8, 1)
		var rip, rax uint64
		n := 0
		r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
			if n++; n == 1 {
				v.Regs().GPR[vcpu.RAX] = 7
				e.Reason, e.Len = c.reason, 3
				return nil
			}
			if n == 2 {
				rip, rax = v.Regs().RIP, v.Regs().GPR[vcpu.RAX]
				got := uint8(0)
				if len(v.Injected) > 0 {
					got = v.Injected[0].Vector
				}
				done <- got
			}
			return hlt(e)
		})
		vm := r.vm(t, 1)
		vm.Start()
		if got := <-done; got != c.vector || rax != c.rax || got == 0 && rip != at+3 || got != 0 && rip != at {
			t.Errorf("%v: vector %d, RAX %#x, RIP %#x", c.reason, got, rax, rip)
		}
		vm.Stop(gone)
		vm.Delete()
	}
}

func TestAProcessorThatSpinsLetsOthersRun(t *testing.T) {
	var gave atomic.Int64
	give := giveWay
	giveWay = func() { gave.Add(1); give() }
	defer func() { giveWay = give }()
	var n atomic.Int64
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if n.Add(1) <= 3 {
			e.Reason, e.Len = vcpu.ExitPause, 2
			return nil
		}
		return hlt(e)
	})
	vm := r.vm(t, 1)
	vm.Start()
	eventually(t, "the guest halts", func() bool { return n.Load() > 3 })
	vm.Stop(gone)
	if gave.Load() != 3 {
		t.Errorf("3 PAUSEs that made an exit: it gave way %d times", gave.Load())
	}
	vm.Delete()
	r.leaks(t)
}

func TestAProcessorThatRestsIsShownResting(t *testing.T) {
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		v.Regs().RFLAGS |= flagIF
		e.Reason, e.Len = vcpu.ExitHLT, 1
		return nil
	})
	vm := r.vm(t, 1)
	if vm.Info().CPUs[0].Halted != 0 {
		t.Error("it rests before it is started")
	}
	vm.Start()
	eventually(t, "the rest is counted while it lasts", func() bool { return vm.Info().CPUs[0].Halted >= 0.05 })
	vm.Stop(gone)
	if h := vm.Info().CPUs[0].Halted; h < 0.05 || h != vm.Info().CPUs[0].Halted {
		t.Errorf("after it was stopped: %v s", h)
	}
	vm.Delete()
	r.leaks(t)
}
