package x86

import (
	"slices"
	"testing"
)

func TestBarriersAreThoseTheProcessorNeeds(t *testing.T) {
	const (
		spec    = leaf7IBPB | leaf7ArchCap
		cascade = capRDCLNo | capIBRSAll | capSkipL1D | capMDSNo
	)
	for _, c := range []struct {
		name      string
		top, edx7 uint32
		ebx7, amd uint32
		auto      uint32
		bhi       uint32 // EDX of leaf 7, subleaf 2
		caps      uint64
		want      Barriers
	}{
		{"before all this", 0xd, 0, 0, 0, 0, 0, 0, Barriers{Exit: FenceReturns}},
		{"no leaf 7", 6, ^uint32(0), 0, 0, 0, 0, 0, Barriers{Exit: FenceReturns}},
		{"Skylake with microcode of 2018", 0x16, leaf7IBPB | leaf7L1D, 0, 0, 0, 0, 0,
			Barriers{Prediction: true, L1D: true, Exit: FenceIBRS}},
		{"Skylake with microcode of 2019", 0x16, leaf7IBPB | leaf7L1D | leaf7Clear, 0, 0, 0, 0, 0,
			Barriers{Prediction: true, L1D: true, Buffers: true, Exit: FenceIBRS}},
		{"the same, nested under one that flushes", 0x16, spec | leaf7L1D | leaf7Clear, 0, 0, 0, 0, capSkipL1D,
			Barriers{Prediction: true, Buffers: true, Exit: FenceIBRS}},
		{"Cascade Lake", 0x16, spec | leaf7L1D | leaf7Clear, 0, 0, 0, 0, cascade,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"the same with transactions", 0x16, spec | leaf7L1D | leaf7Clear, leaf7RTM, 0, 0, 0, cascade,
			Barriers{Prediction: true, Buffers: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"Cooper Lake", 0x16, spec | leaf7L1D | leaf7Clear, leaf7RTM, 0, 0, 0, cascade | capTAANo,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"Alder Lake N", 0x20, spec | leaf7Clear, 0, 0, 0, leaf72BHI, cascade | capTAANo | capRFDSClear,
			Barriers{Prediction: true, Buffers: true, SpecCtrl: SpecIBRS | SpecBHIDisS, Exit: FenceOne}},
		{"the same, told to bear PBRSB", 0x20, spec | leaf7Clear, 0, 0, 0, leaf72BHI, cascade | capTAANo | capPBRSBNo,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS | SpecBHIDisS}},
		{"one that has nothing of it left", 0x20, spec | leaf7Clear, 0, 0, 0, leaf72BHI, cascade | capTAANo | capPBRSBNo | capBHINo,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS}},
		{"Ice Lake, for MMIO's sake", 0x1b, spec | leaf7L1D | leaf7Clear, 0, 0, 0, 0, capRDCLNo | capIBRSAll | capMDSNo | capFBClear,
			Barriers{Prediction: true, Buffers: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"Zen", 0xd, 0, 0, amdIBPB, 0, 0, 0, Barriers{Prediction: true, Exit: FenceReturns}},
		{"Zen 4", 0xd, 0, 0, amdIBPB, amdAuto, 0, 0, Barriers{Prediction: true, AutoIBRS: true}},
	} {
		cpuid := func(leaf, sub uint32) (a, b, cx, d uint32) {
			switch {
			case leaf == 0:
				return c.top, 0, 0, 0
			case leaf == 7 && sub == 0:
				return 2, c.ebx7, 0, c.edx7
			case leaf == 7 && sub == 2:
				return 0, 0, 0, c.bhi
			case leaf == 0x80000000:
				return 0x80000021, 0, 0, 0
			case leaf == 0x80000008:
				return 0, c.amd, 0, 0
			case leaf == 0x80000021:
				return c.auto, 0, 0, 0
			}
			return
		}
		got := FindBarriers(cpuid, func(msr uint32) (uint64, bool) { return c.caps, msr == MSRArchCapabilities })
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// Each issue is told once, and as open where nothing is done.
func TestTheOperatorIsToldWhatIsOpen(t *testing.T) {
	for _, c := range []struct {
		name  string
		intel bool
		leaf  map[[2]uint32][4]uint32
		caps  uint64
		open  []string
	}{
		{"an Intel processor that tells nothing", true, nil, 0, []string{"Spectre v1", "Spectre v2, guest to guest",
			"Spectre v2, guest to host", "branch history injection", "indirect target selection", "L1 terminal fault",
			"MDS, TAA, MMIO stale data, RFDS", "store bypass (v4)", "simultaneous multithreading"}},
		{"Granite Rapids, two threads a core", true,
			map[[2]uint32][4]uint32{{0, 0}: {0x20}, {7, 0}: {2, 0, 0, leaf7IBPB | leaf7ArchCap | leaf7Clear}, {7, 2}: {0, 0, 0, leaf72BHI}, {0xb, 0}: {1, 2, 1 << 8}},
			capRDCLNo | capIBRSAll | capMDSNo | capPSChange | capTAANo | capPBRSBNo | capITSNo,
			[]string{"Spectre v1", "store bypass (v4)", "simultaneous multithreading"}},
		{"Skylake, one thread a core", true,
			map[[2]uint32][4]uint32{{0, 0}: {0x16}, {7, 0}: {0, 0, 0, leaf7IBPB | leaf7L1D | leaf7Clear}, {0xb, 0}: {0, 1, 1 << 8}}, 0,
			[]string{"Spectre v1", "indirect target selection", "store bypass (v4)"}},
		{"Zen 3", false,
			map[[2]uint32][4]uint32{{0x80000000, 0}: {0x80000021}, {0x80000001, 0}: {0, 0, 1 << 22}, {0x80000008, 0}: {0, amdIBPB | amdBTCNo}, {0x8000001e, 0}: {0, 1 << 8}}, 0,
			[]string{"Spectre v1", "Spectre v2, guest to host", "return stack overflow (SRSO, Inception)", "store bypass (v4)", "simultaneous multithreading"}},
		{"Zen 5, one thread a core", false,
			map[[2]uint32][4]uint32{{0x80000000, 0}: {0x80000021}, {0x80000001, 0}: {0, 0, 1 << 22}, {0x80000008, 0}: {0, amdIBPB | amdBTCNo | amdSSBNo}, {0x80000021, 0}: {amdAuto | amdSRSONo}, {0x8000001e, 0}: {}}, 0,
			[]string{"Spectre v1"}},
	} {
		cpuid := func(leaf, sub uint32) (uint32, uint32, uint32, uint32) {
			x := c.leaf[[2]uint32{leaf, sub}]
			return x[0], x[1], x[2], x[3]
		}
		rdmsr := func(msr uint32) (uint64, bool) { return c.caps, msr == MSRArchCapabilities }
		var open []string
		told := map[string]bool{}
		for _, m := range Mitigations(c.intel, FindBarriers(cpuid, rdmsr), cpuid, rdmsr) {
			if told[m.Issue] || m.Done == "" {
				t.Errorf("%s: %+v", c.name, m)
			}
			told[m.Issue] = true
			if !m.Safe {
				open = append(open, m.Issue)
			}
		}
		if !slices.Equal(open, c.open) {
			t.Errorf("%s: open are\n%q, want\n%q", c.name, open, c.open)
		}
	}
}

func TestLargePagesOfCodeNeedTheProcessorsWord(t *testing.T) {
	for _, c := range []struct {
		edx7 uint32
		caps uint64
		want bool
	}{{0, capPSChange, true}, {leaf7ArchCap, capMDSNo, true}, {leaf7ArchCap, capPSChange, false}} {
		got := SmallCode(func(leaf, _ uint32) (a, b, cx, d uint32) {
			if leaf == 7 {
				return 0, 0, 0, c.edx7
			}
			return 0x16, 0, 0, 0
		}, func(msr uint32) (uint64, bool) { return c.caps, msr == MSRArchCapabilities })
		if got != c.want {
			t.Errorf("EDX %#x, capabilities %#x: %v", c.edx7, c.caps, got)
		}
	}
}

func TestPATAndCanonicalAddresses(t *testing.T) {
	for v, want := range map[uint64]bool{0x0007040600070406: true, 0x0606060606060606: true, 2: false, 3 << 56: false, 8: false} {
		if ValidPAT(v) != want {
			t.Errorf("PAT %#x: %v", v, !want)
		}
	}
	for a, want := range map[uint64]bool{0: true, 1<<47 - 1: true, 1 << 47: false, 0xffff_8000_0000_0000: true, 1 << 63: false} {
		if Canonical(a) != want {
			t.Errorf("%#x: %v", a, !want)
		}
	}
}
