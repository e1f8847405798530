package vmx

import (
	"slices"
	"testing"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// The fence behind each exit is the processor's, and enhanced IBRS is on from when VT-x is,
// on every CPU.
func TestGuestsDoNotSteerTheHost(t *testing.T) {
	const ibrs, caps = 1 << 26, 1 << 29
	const all, pbrsbNo, bhiNo = 1 << 1, 1 << 24, 1 << 20
	for _, c := range []struct {
		name  string
		edx7  uint32
		caps  uint64
		fence x86.Fence
		spec  uint64
	}{
		{"tells nothing", 0, 0, x86.FenceReturns, 0},
		{"IBRS", ibrs, 0, x86.FenceIBRS, 0},
		{"enhanced IBRS", ibrs | caps, all, x86.FenceHistory, x86.SpecIBRS},
		{"and no BHI", ibrs | caps, all | bhiNo, x86.FenceOne, x86.SpecIBRS},
		{"nor PBRSB", ibrs | caps, all | bhiNo | pbrsbNo, x86.FenceNone, x86.SpecIBRS},
	} {
		m := newMachine(t, "corei7_icelake_u")
		m.edx7, m.model = c.edx7, m.model.with(x86.MSRArchCapabilities, c.caps)
		b, err := open(m)
		if err != nil {
			t.Fatal(err)
		}
		for cpu := range m.cpus {
			if got := m.msrs[cpu][x86.MSRSpecCtrl]; got != c.spec {
				t.Errorf("%s: CPU %d's SPEC_CTRL is %#x, want %#x", c.name, cpu, got, c.spec)
			}
		}
		s, err := b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: &tables{}, CPUID: wide})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.NewVCPU(0)
		if err != nil {
			t.Fatal(err)
		}
		load(t, v.(*VCPU), long())
		var got uint64
		m.guest = func(g *guest) {
			got = g.f.fence
			g.exit(reasonCPUID, 0)
		}
		run(t, v.(*VCPU))
		if got != uint64(c.fence) {
			t.Errorf("%s: fence %d, want %d", c.name, got, c.fence)
		}
	}
}

// What overwrites the branch history is balanced: it returns, and here.
func TestSpendingTheBranchHistory(t *testing.T) {
	for range 1000 {
		spendHistory()
	}
}

func TestBarriersPartTheGuests(t *testing.T) {
	const ibpb, l1d, clear = 1 << 26, 1 << 28, 1 << 10
	for _, c := range []struct {
		edx7 uint32
		want []uint32 // of Runs of the first, the first again, the second, the first
		verw bool
	}{
		{0, nil, false},
		{ibpb, []uint32{x86.MSRPredCmd, x86.MSRPredCmd, x86.MSRPredCmd}, false},
		{l1d, []uint32{x86.MSRFlushCmd, x86.MSRFlushCmd, x86.MSRFlushCmd, x86.MSRFlushCmd}, false},
		{ibpb | l1d | clear, []uint32{x86.MSRPredCmd, x86.MSRFlushCmd, x86.MSRFlushCmd, x86.MSRPredCmd, x86.MSRFlushCmd, x86.MSRPredCmd, x86.MSRFlushCmd}, true},
	} {
		m := newMachine(t, "corei7_icelake_u")
		m.edx7 = c.edx7
		b, err := open(m)
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: &tables{}, CPUID: wide})
		if err != nil {
			t.Fatal(err)
		}
		var vs [2]*VCPU
		for i := range vs {
			x, err := s.NewVCPU(i)
			if err != nil {
				t.Fatal(err)
			}
			vs[i] = x.(*VCPU)
			load(t, vs[i], long())
		}
		verw := true
		m.guest = func(g *guest) {
			verw = verw && g.f.verw != 0
			g.exit(reasonCPUID, 0)
		}
		for _, i := range []int{0, 0, 1, 0} {
			run(t, vs[i])
			if err := vs[i].Set(vcpu.LSTAR, 0x1000); err != nil { // another serial, the same VCPU
				t.Fatal(err)
			}
		}
		if !slices.Equal(m.orders, c.want) || verw != c.verw {
			t.Errorf("EDX %#x: commands %#x, want %#x; VERW %v", c.edx7, m.orders, c.want, verw)
		}
	}
}
