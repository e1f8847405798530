package svm

import (
	"math/big"
	"testing"

	"godwit/vmm/vcpu"
)

func TestTSCRatioIsWrittenOnlyWhereTheCPUHasAnother(t *testing.T) {
	si := testSilicon
	si.features |= featTSCRate
	v, _, _ := newTestVCPU(t, si)
	b := v.space.b
	second, err := v.space.NewVCPU(1)
	if err != nil {
		t.Fatal(err)
	}
	w := second.(*VCPU)
	r, ok := b.Capabilities().TSCScaling.Ratio(3e9, 2e9)
	if !ok {
		t.Fatal("no ratio")
	}
	w.flush = false // as after an entry
	if err := w.SetTSCRatio(r); err != nil {
		t.Fatal(err)
	}
	if !w.flush {
		t.Error("the next entry does not look at the ratio")
	}
	one, two := &b.cpus[0], &b.cpus[1]
	for i, step := range []struct {
		v    *VCPU
		c    *cpu
		want bool
		rate uint64
	}{
		{v, one, false, 1 << 32}, {w, one, true, 3 << 31}, {w, one, false, 3 << 31}, {v, one, true, 1 << 32},
		{v, one, false, 1 << 32}, {w, two, true, 3 << 31}, {w, one, true, 3 << 31},
	} {
		if got := step.v.retunes(step.c); got != step.want || step.c.tscRate != step.rate {
			t.Errorf("step %d: written %v, the CPU has %#x", i, got, step.c.tscRate)
		}
	}
	w.SetTSCRatio(vcpu.Unscaled)
	if !w.retunes(one) || one.tscRate != rateOne {
		t.Error("scaled no more, but the CPU's ratio stays")
	}
}

// The MSR's ratio and the arithmetic here are the same (APM 15.30.5): 8.32 bits.
func TestTheMSRHasTheVeryRatio(t *testing.T) {
	can := vcpu.TSCScaling{Integer: 8, Fraction: 32}
	for _, c := range []struct{ guest, host uint64 }{{2_600_000_000, 3_000_000_000}, {3e9, 2e9}, {1e9, 3_999_999_999}, {255e7, 1e7}} {
		r, ok := can.Ratio(c.guest, c.host)
		if !ok {
			t.Fatalf("%d Hz on %d: no ratio", c.guest, c.host)
		}
		for _, h := range []uint64{1, 1e9, 1<<56 - 1} {
			x := new(big.Int).SetUint64(h)
			x.Mul(x, new(big.Int).SetUint64(tscRate(r)))
			if want := x.Rsh(x, 32).Uint64(); r.Guest(h) != want {
				t.Errorf("%d Hz on %d: at %d the guest's counter is %d, want %d", c.guest, c.host, h, r.Guest(h), want)
			}
		}
	}
}

func TestAProcessorWithoutTSCRatioRefusesOne(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	if c := v.space.b.Capabilities(); c.TSCScaling != (vcpu.TSCScaling{}) {
		t.Errorf("it promises %+v", c.TSCScaling)
	}
	if v.SetTSCRatio(2<<48) == nil || v.SetTSCRatio(vcpu.Unscaled) != nil {
		t.Error("a ratio was taken, or none refused")
	}
	if v.retunes(&v.space.b.cpus[0]) {
		t.Error("the MSR that it lacks would be written")
	}
}

func TestStateHasTheScaledCounter(t *testing.T) {
	si := testSilicon
	si.features |= featTSCRate
	v, _, _ := newTestVCPU(t, si)
	if v.SetTSCRatio(1) == nil {
		t.Error("a ratio finer than the hardware's was taken")
	}
	if err := v.SetTSCRatio(3 << 47); err != nil {
		t.Fatal(err)
	}
	var s vcpu.State
	v.Save(&s)
	s.TSC = 1 << 60
	before := v.tscRatio.Guest(tsc())
	if err := v.Load(&s); err != nil {
		t.Fatal(err)
	}
	if was := 1<<60 - v.TSCOffset(); was < before || was > v.tscRatio.Guest(tsc()) {
		t.Errorf("loaded 2^60 when the scaled counter was %d, but the offset takes it for %d", before, was)
	}
	before = v.tscRatio.Guest(tsc()) + v.TSCOffset()
	v.Save(&s)
	if s.TSC < before || s.TSC > v.tscRatio.Guest(tsc())+v.TSCOffset() {
		t.Errorf("saved %d, which was over at %d", s.TSC, before)
	}
}
