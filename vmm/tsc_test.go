package vmm

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/cpuid"
	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

var (
	noScaling  = vcpu.TSCScaling{}
	vtxScaling = vcpu.TSCScaling{Integer: 16, Fraction: 48}
	amdScaling = vcpu.TSCScaling{Integer: 8, Fraction: 32}
)

// world is a time that all simulated hosts share, in nanoseconds; nothing but the test moves it.
type world struct{ ns atomic.Uint64 }

// host makes one whose TSC runs at hz and was zero some time ago.
func (w *world) host(hz uint64, s vcpu.TSCScaling) *rig {
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		e.Reason = vcpu.ExitHost
		if v.Block(time.Millisecond) {
			e.Reason = vcpu.ExitKicked
		}
		return nil
	})
	r.b.Caps = vcpu.Capabilities{GuestPhysBits: 46, XCR0: 3, Page2M: true, TSCScaling: s}
	r.CPU = cpuid.NewHost(fakecpu.CPUID, r.b.Capabilities())
	up := rand.Uint64N(1e15)
	r.TSCHz = hz
	r.TSC = func() uint64 {
		hi, lo := bits.Mul64(w.ns.Load()+up, hz)
		q, _ := bits.Div64(hi, lo, 1e9)
		return q
	}
	return r
}

// view is what a guest sees of time on one processor.
type view struct{ tsc, clock uint64 }

// look is what the guest would read now, on each processor of a machine that runs.
func look(vm *VM) (all []view) {
	for i, c := range vm.cpus {
		tsc := c.v.(*fakecpu.VCPU).Ratio.Guest(vm.host.TSC()) + c.v.TSCOffset()
		var p [clockInfoSize]byte
		vm.ram.ReadAt(p[:], uint64(0x5000+i*64))
		le := binary.LittleEndian
		delta := tsc - le.Uint64(p[8:])
		ns := le.Uint64(p[16:]) + uint64(scale{mul: le.Uint32(p[24:]), shift: int8(p[28])}.ns(delta))
		all = append(all, view{tsc, ns})
	}
	return all
}

// move takes a machine to another host while time passes.
func move(t *testing.T, w *world, vm *VM, to *rig) *VM {
	t.Helper()
	w.ns.Add(100) // leaving the guest takes more than any counter's step
	if err := vm.Pause(); err != nil {
		t.Fatal(err)
	}
	var s bytes.Buffer
	if err := vm.SaveState(&s); err != nil {
		t.Fatal(err)
	}
	w.ns.Add(rand.Uint64N(1e9))
	two, err := NewFromSpec(to.Host, vm.Spec())
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 4096)
	vm.ReadPages(5, page)
	two.WritePages(5, page)
	if err := two.LoadState(&s); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := two.SaveState(&again); err != nil {
		t.Fatal(err)
	}
	w.ns.Add(rand.Uint64N(1e6))
	if err := vm.Release(); err != nil {
		t.Fatal(err)
	}
	if err := two.StartLoaded(); err != nil {
		t.Fatal(err)
	}
	return two
}

// begin starts a machine whose guest reads kvmclock.
func begin(t *testing.T, r *rig, cpus int) *VM {
	t.Helper()
	vm := r.vm(t, cpus)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	vm.Pause()
	for i, c := range vm.cpus {
		if !c.writeMSR(msrKVMSystem, uint64(0x5000+i*64)|1) {
			t.Fatal("kvmclock refused")
		}
	}
	vm.cpus[1].tscOffset += 12345 // a guest may have set its counters apart
	vm.Resume()
	return vm
}

func TestGuestsTSCKeepsItsRateOnHostsThatCanScaleIt(t *testing.T) {
	rates := []uint64{999_999_999, 1_000_000_000, 2_000_000_000, 2_600_000_000, 2_600_400_000, 3_000_000_000, 5_123_456_789, 20_000_000}
	for round := range 12 {
		var w world
		w.ns.Store(1e12)
		guestHz := rates[round%len(rates)]
		home := w.host(guestHz, noScaling)
		vm := begin(t, home, 2)
		rigs := []*rig{home}
		first := look(vm)
		last := first
		ran := uint64(0)
		for hop := range 40 {
			d := rand.Uint64N(1e9)
			w.ns.Add(d)
			ran += d
			now := look(vm)
			for i, v := range now {
				if v.tsc < last[i].tsc || v.clock < last[i].clock {
					t.Fatalf("hop %d, CPU %d: TSC from %d to %d, clock from %d to %d", hop, i, last[i].tsc, v.tsc, last[i].clock, v.clock)
				}
				// A ratio is exact to a millionth and two rates that are taken for one to 250 ppm.
				want := float64(ran) * float64(guestHz) / 1e9
				if got := float64(v.tsc - first[i].tsc); got < want*(1-260e-6)-1e4 || got > want*(1+260e-6)+1e4 {
					t.Fatalf("hop %d, CPU %d: %.0f counts in %d ns at %d Hz", hop, i, got, ran, guestHz)
				}
				if apart := int64(v.tsc - now[0].tsc); apart != int64(i)*12345 {
					t.Fatalf("hop %d, CPU %d: %d counts from CPU 0", hop, i, apart)
				}
				if d := int64(v.clock) - vm.clock.Now(); d < -200 || d > 200 {
					t.Fatalf("hop %d, CPU %d: the guest's clock is %d ns from the machine's", hop, i, d)
				}
			}
			last = now
			ran += 100 // in move
			to := w.host(rates[rand.IntN(len(rates))], []vcpu.TSCScaling{vtxScaling, amdScaling}[rand.IntN(2)])
			rigs = append(rigs, to)
			if _, can := to.b.Caps.TSCScaling.Ratio(guestHz, to.TSCHz); !can {
				to.b.Caps.TSCScaling = vtxScaling // 256 times and more are too much for AMD-V
			}
			vm = move(t, &w, vm, to)
			if i := vm.Info().TSC; i.Hz != guestHz || i.HostHz != to.TSCHz || i.OffRate || i.Scaled == vcpu.SameTSC(guestHz, to.TSCHz) {
				t.Fatalf("hop %d: %+v", hop, i)
			}
			for i, v := range look(vm) { // at once, though rounding may have gone either way
				if v.tsc < last[i].tsc || v.clock < last[i].clock || v.clock > last[i].clock+1e9 {
					t.Fatalf("hop %d, CPU %d: after the move TSC from %d to %d, clock from %d to %d", hop, i, last[i].tsc, v.tsc, last[i].clock, v.clock)
				}
			}
		}
		vm.Stop(gone)
		vm.Delete()
		for _, r := range rigs {
			r.leaks(t)
		}
	}
}

func TestHostThatCanNotScaleSaysSoAndTheRateIsNotForgotten(t *testing.T) {
	var w world
	a, b, c := w.host(2_600_000_000, noScaling), w.host(3_000_000_000, noScaling), w.host(2_000_000_000, vtxScaling)
	vm := begin(t, a, 2)
	if s := fmt.Sprint(vm.Info().TSC); s != "2.600 GHz" {
		t.Errorf("at home: %s", s)
	}
	vm = move(t, &w, vm, b)
	before := look(vm)
	w.ns.Add(1e9)
	after := look(vm)
	if d := after[0].tsc - before[0].tsc; d < 2_999_999_999 || d > 3_000_000_001 {
		t.Errorf("%d counts in a second at 3 GHz", d)
	}
	if d := after[0].clock - before[0].clock; d < 1e9-10 || d > 1e9+10 {
		t.Errorf("kvmclock went %d ns in a second", d)
	}
	const why = "3.000 GHz, which is this host's rate: the guest knows 2.600 GHz, and this host can not scale it"
	if s := fmt.Sprint(vm.Info().TSC); s != why {
		t.Errorf("vm show says %q", s)
	}
	eventually(t, "a word to the operator", func() bool { return b.logged("vm test: its TSC: " + why) })

	vm = move(t, &w, vm, c)
	before = look(vm)
	w.ns.Add(1e9)
	if d := look(vm)[0].tsc - before[0].tsc; d < 2_599_999_998 || d > 2_600_000_002 {
		t.Errorf("%d counts in a second at 2.6 GHz", d)
	}
	eventually(t, "a word to the operator", func() bool { return c.logged("vm test: its TSC: 2.600 GHz, scaled from 2.000 GHz") })

	// A guest that boots measures its TSC anew.
	file := func(context.Context, string) ([]byte, error) { return kernel().Kernel, nil }
	if err := vm.FetchFiles(context.Background(), file); err != nil {
		t.Fatal(err)
	}
	if err := vm.Reset(); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(vm.Info().TSC); s != "2.000 GHz" || vm.cpus[0].v.(*fakecpu.VCPU).Ratio != vcpu.Unscaled {
		t.Errorf("after a reset: %s", s)
	}
	vm.Stop(gone)
	vm.Delete()
	for _, r := range []*rig{a, b, c} {
		r.leaks(t)
	}
}

func TestDeadlinesAreOnTimeWithAScaledTSC(t *testing.T) {
	for _, c := range []struct {
		guest, host uint64
		s           vcpu.TSCScaling
	}{{1e9, 2.5e9, vtxScaling}, {1e9, 2.5e9, amdScaling}, {1e9, 20e6, vtxScaling}, {20e6, 3e9, amdScaling}, {3e9, 2.999e9, vtxScaling}} {
		var w world
		r := w.host(c.host, c.s)
		vm := r.vm(t, 1)
		if err := vm.setTSC(c.guest); err != nil || vm.pace.Load().ratio == vcpu.Unscaled {
			t.Fatalf("%+v: %v, ratio %#x", c, err, uint64(vm.pace.Load().ratio))
		}
		count := int64(1e9/min(c.guest, c.host, 1e9)) + 2 // in nanoseconds: none can be told apart within one
		for range 10000 {
			at := rand.Int64N(400 * 86400 * 1e9)
			h := vm.hostTSC(at)
			if got := vm.pace.Load().scale.ns(vm.pace.Load().ratio.Guest(h)); got < at || got > at+4*count {
				t.Fatalf("%+v: %d ns is TSC %d, which is %d ns", c, at, h, got)
			}
		}
		vm.Delete()
		r.leaks(t)
	}
}

func TestRatesThatCanNotBeAreRefused(t *testing.T) {
	var w world
	r := w.host(1e9, vtxScaling)
	vm := begin(t, r, 2)
	vm.Pause()
	i := *vm.tsc.Load()
	for _, hz := range []uint64{0, 1, leastTSCHz - 1, mostTSCHz + 1, 1 << 63, 1<<64 - 1} {
		i.Hz = hz
		vm.tsc.Store(&i)
		var s bytes.Buffer
		if err := vm.SaveState(&s); err != nil {
			t.Fatal(err)
		}
		two := r.vm(t, 2)
		if err := two.LoadState(&s); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("can not run at %d Hz", hz)) {
			t.Errorf("%d Hz: %v", hz, err)
		}
		two.Delete()
	}
	for _, hz := range []uint64{leastTSCHz, mostTSCHz} {
		i.Hz = hz
		vm.tsc.Store(&i)
		var s bytes.Buffer
		vm.SaveState(&s)
		two := r.vm(t, 2)
		if err := two.LoadState(&s); err != nil || two.Info().TSC.Hz != hz {
			t.Errorf("%d Hz: %v", hz, err)
		}
		two.Delete()
	}
	vm.Stop(gone)
	vm.Delete()
	r.leaks(t)
}
