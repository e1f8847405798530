package vmx

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"godwit/kernel/asmtrace"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// The fence behind each exit is the processor's, and enhanced IBRS is on from when VT-x is,
// on every CPU.
func TestGuestsDoNotSteerTheHost(t *testing.T) {
	const ibrs, caps = 1 << 26, 1 << 29
	const all, pbrsbNo, bhiNo = 1 << 1, 1 << 24, 1 << 20
	const cascadeLake = 0x50657
	for _, c := range []struct {
		name   string
		sig    uint32
		edx7   uint32
		caps   uint64
		guests x86.Guests
		fence  x86.Fence
		spec   uint64
	}{
		{"tells nothing", 0, 0, 0, x86.Untrusted, x86.FenceReturns, 0},
		{"IBRS", 0, ibrs, 0, x86.Untrusted, x86.FenceIBRS, 0},
		{"enhanced IBRS", 0, ibrs | caps, all, x86.Untrusted, x86.FenceHistory, x86.SpecIBRS},
		{"and no BHI", 0, ibrs | caps, all | bhiNo, x86.Untrusted, x86.FenceOne, x86.SpecIBRS},
		{"nor PBRSB", 0, ibrs | caps, all | bhiNo | pbrsbNo, x86.Untrusted, x86.FenceNone, x86.SpecIBRS},
		{"with ITS", cascadeLake, ibrs | caps, all, x86.Untrusted, x86.FenceIBPB, x86.SpecIBRS},
		{"with ITS and the operator's guests", cascadeLake, ibrs | caps, all, x86.Own, x86.FenceHistory, x86.SpecIBRS},
	} {
		m := newMachine(t, "corei7_icelake_u")
		m.edx7, m.sig, m.model = c.edx7, c.sig, m.model.with(x86.MSRArchCapabilities, c.caps)
		b, err := open(m, c.guests)
		if err != nil {
			t.Fatal(err)
		}
		nmi := map[x86.Fence][]uint32{x86.FenceIBRS: {x86.MSRSpecCtrl, 1}, x86.FenceIBPB: {x86.MSRPredCmd, 1}}[c.fence]
		if nmi == nil {
			nmi = []uint32{0, 0}
		}
		if !slices.Equal(m.nmi, nmi) {
			t.Errorf("%s: NMIs begin with %#x, want %#x", c.name, m.nmi, nmi)
		}
		if noted := strings.Contains(strings.Join(b.Capabilities().Notes, "\n"), "guests=own"); noted != (c.sig != 0) || len(b.Capabilities().Mitigations) == 0 {
			t.Errorf("%s: notes %q", c.name, b.Capabilities().Notes)
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

// The code behind an exit itself: what each fence is made of, in order, and no return
// before it is whole but the history's own.
func TestTheWayOutOfAGuest(t *testing.T) {
	var f frame
	filled := slices.Repeat([]string{"call"}, 32)
	for fence, want := range [x86.NumFences][]string{
		x86.FenceNone:    {"lfence"},
		x86.FenceOne:     {"call", "lfence"},
		x86.FenceHistory: {"call", "lfence", "history", "lfence"},
		x86.FenceReturns: append(slices.Clone(filled), "lfence"),
		x86.FenceIBRS:    append(slices.Clone(filled), "wrmsr 48=1", "lfence"),
		x86.FenceIBPB:    {"wrmsr 49=1", "call", "lfence", "history", "lfence"},
	} {
		fences := 1
		if slices.Contains(want, "history") {
			fences = 2
		}
		m := asmtrace.Machine{Lfence: fences, Memory: map[int64]uint64{int64(unsafe.Offsetof(f.fence)): uint64(fence)}}
		tr, err := m.Run(uintptr(exitAddress()))
		got := tr.Events
		if fences == 2 { // between the LFENCEs: Intel's sequence has 62 taken branches, with calls five deep
			at := slices.Index(got, "lfence") + 1
			taken, deep, deepest := 0, 0, 0
			for i, e := range got[at : len(got)-1] {
				switch taken += tr.Taken[at+i]; e {
				case "call":
					deep++
				case "ret":
					deep--
				default:
					t.Errorf("fence %d: %s in the history", fence, e)
				}
				deepest = max(deepest, deep)
			}
			if taken += tr.Taken[len(got)-1]; taken < 62 || deep != 0 || deepest < 1+5 {
				t.Errorf("fence %d: %d branches, calls %d deep, %d without a return", fence, taken, deepest, deep)
			}
			got = slices.Concat(got[:at], []string{"history", "lfence"})
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("fence %d: %q, want %q; %v", fence, got, want, err)
		}
	}
}

// Where the guest changes SPEC_CTRL by itself, what it made of it is read before the host's
// value takes its place.
func TestTheWayOutOfAGuestThatOwnsSpecCtrl(t *testing.T) {
	var f frame
	m := asmtrace.Machine{Lfence: 1, Memory: map[int64]uint64{
		int64(unsafe.Offsetof(f.fence)): uint64(x86.FenceIBRS), int64(unsafe.Offsetof(f.keep)): 1,
	}, MSR: map[uint32]uint64{x86.MSRSpecCtrl: x86.SpecSSBD}}
	got, err := m.Run(uintptr(exitAddress()))
	want := append(slices.Repeat([]string{"call"}, 32), "rdmsr 48", "wrmsr 48=1", "lfence")
	if err != nil || !slices.Equal(got.Events, want) {
		t.Errorf("%q, want %q; %v", got.Events, want, err)
	}
	if kept := m.Memory[int64(unsafe.Offsetof(f.spec))]; kept != x86.SpecSSBD {
		t.Errorf("%#x is kept for the next entry, not %#x", kept, x86.SpecSSBD)
	}
}

// And the code before it: VERW is last, when the registers are the guest's.
func TestTheWayIntoAGuest(t *testing.T) {
	var f frame
	for _, c := range []struct {
		verw, launched uint64
		fence          x86.Fence
		spec           uint64
		want           []string
	}{
		{0, 0, x86.FenceNone, 0, []string{"vmlaunch"}},
		{0, 1, x86.FenceNone, 0, []string{"vmresume"}},
		{1, 0, x86.FenceNone, 0, []string{"verw", "vmlaunch"}},
		{1, 1, x86.FenceNone, 0, []string{"verw", "vmresume"}},
		{1, 1, x86.FenceIBRS, 0, []string{"wrmsr 48=0", "verw", "vmresume"}},
		{1, 1, x86.FenceIBRS, x86.SpecSSBD, []string{"wrmsr 48=4", "verw", "vmresume"}},
	} {
		m := asmtrace.Machine{Memory: map[int64]uint64{
			int64(unsafe.Offsetof(f.verw)): c.verw, int64(unsafe.Offsetof(f.launched)): c.launched, int64(unsafe.Offsetof(f.fence)): uint64(c.fence),
			int64(unsafe.Offsetof(f.spec)): c.spec,
		}}
		got, err := m.Run(asmtrace.Entry(worldSwitch))
		if err != nil || !slices.Equal(got.Events, c.want) {
			t.Errorf("%+v: %q; %v", c, got.Events, err)
		}
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
		b, err := open(m, x86.Untrusted)
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
