package vmx

import (
	"math/big"
	"testing"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// rdtsc is what RDTSC gives a guest (SDM vol. 3, 25.3). The field of a multiplier that
// is not used is noise.
func (g *guest) rdtsc(host uint64) uint64 {
	x := new(big.Int).SetUint64(host)
	if g.r.fields[fSecondaryControls]&secTSCScaling != 0 {
		x.Mul(x, new(big.Int).SetUint64(g.r.fields[fTSCMultiplier]))
		x.Rsh(x, 48)
	}
	x.Add(x, new(big.Int).SetUint64(g.r.fields[fTSCOffset]))
	return x.And(x, new(big.Int).SetUint64(^uint64(0))).Uint64()
}

func TestAGuestsTSCRunsAtItsRatio(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	can := v.b.Capabilities().TSCScaling
	const off = 1<<63 + 5
	for _, c := range []struct{ guest, host uint64 }{{1, 1}, {2_600_000_000, 3_000_000_000}, {3e9, 20e6}, {20e6, 3e9}, {1e9, 1e9}, {1e9, 2e9}} {
		r, ok := can.Ratio(c.guest, c.host)
		if !ok {
			t.Fatalf("%d Hz on %d: not possible on icelake", c.guest, c.host)
		}
		if err := v.SetTSCRatio(r); err != nil {
			t.Fatal(err)
		}
		v.SetTSCOffset(off)
		for range 2 {
			m.at.Store(1 - m.at.Load()) // on another CPU each time
			var read, from uint64
			m.guest = func(g *guest) {
				from = m.now.Load() + 1e15
				read = g.rdtsc(from)
				halt(g)
			}
			run(t, v)
			if want := r.Guest(from) + off; read != want {
				t.Errorf("%d Hz on %d: the guest reads %#x, want %#x", c.guest, c.host, read, want)
			}
		}
		before := r.Guest(m.now.Load()) + off
		var s vcpu.State
		v.Save(&s)
		if after := r.Guest(m.now.Load()) + off; s.TSC < before || s.TSC > after {
			t.Errorf("%d Hz on %d: saved as %#x, between %#x and %#x", c.guest, c.host, s.TSC, before, after)
		}
		load(t, v, &s)
		m.guest = func(g *guest) {
			if read := g.rdtsc(m.now.Load()); read < s.TSC || read > s.TSC+r.Guest(100)+1 {
				t.Errorf("%d Hz on %d: loaded %#x, and the guest reads %#x", c.guest, c.host, s.TSC, read)
			}
			halt(g)
		}
		run(t, v)
	}
}

func TestAProcessorWithoutTSCScalingRefusesARatio(t *testing.T) {
	const secondary = 0x48b
	m := newMachine(t, "corei7_icelake_u")
	m.model = m.model.with(secondary, m.model.msrs[secondary]&^(secTSCScaling<<32))
	b, err := open(m, x86.Untrusted)
	if err != nil {
		t.Fatal(err)
	}
	if c := b.Capabilities(); c.TSCScaling != (vcpu.TSCScaling{}) {
		t.Errorf("it promises %+v", c.TSCScaling)
	}
	s, err := b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: &tables{}, CPUID: wide})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.NewVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	if v.SetTSCRatio(2<<48) == nil || v.SetTSCRatio(vcpu.Unscaled) != nil {
		t.Error("a ratio was taken, or none refused")
	}
	load(t, v.(*VCPU), long())
	m.guest = func(g *guest) {
		if g.r.fields[fSecondaryControls]&secTSCScaling != 0 {
			t.Error("switched on")
		}
		halt(g)
	}
	run(t, v.(*VCPU))
}

// An entry costs as many VMWRITEs for a guest whose TSC is scaled as for another.
func TestScalingCostsNothingAnEntry(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonCPUID, 0) }
	count := func() int {
		run(t, v)
		m.writes = 0
		run(t, v)
		return m.writes
	}
	without := count()
	if err := v.SetTSCRatio(3 << 47); err != nil {
		t.Fatal(err)
	}
	if with := count(); with != without || with == 0 {
		t.Errorf("%d VMWRITEs an entry, %d without", with, without)
	}
	if r := m.regions[v.vmcs.Phys]; r.fields[fTSCMultiplier] != 3<<47 || r.fields[fSecondaryControls]&secTSCScaling == 0 {
		t.Errorf("multiplier %#x, controls %#x", r.fields[fTSCMultiplier], r.fields[fSecondaryControls])
	}
}
