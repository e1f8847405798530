package vmx

import (
	"slices"
	"testing"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

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
