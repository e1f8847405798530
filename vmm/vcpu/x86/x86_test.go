package x86

import "testing"

func TestBarriersAreThoseTheProcessorNeeds(t *testing.T) {
	for _, c := range []struct {
		name      string
		top, edx7 uint32
		ebx7, amd uint32
		caps      uint64
		want      Barriers
	}{
		{"before all this", 0xd, 0, 0, 0, 0, Barriers{}},
		{"no leaf 7", 6, ^uint32(0), 0, 0, 0, Barriers{}},
		{"Skylake with microcode of 2018", 0x16, leaf7IBPB | leaf7L1D, 0, 0, 0, Barriers{true, true, false}},
		{"Skylake with microcode of 2019", 0x16, leaf7IBPB | leaf7L1D | leaf7Clear, 0, 0, 0, Barriers{true, true, true}},
		{"the same, nested under one that flushes", 0x16, leaf7IBPB | leaf7L1D | leaf7Clear | leaf7ArchCap, 0, 0, capSkipL1D, Barriers{true, false, true}},
		{"Cascade Lake", 0x16, leaf7IBPB | leaf7L1D | leaf7Clear | leaf7ArchCap, 0, 0, capRDCLNo | capSkipL1D | capMDSNo, Barriers{Prediction: true}},
		{"the same with transactions", 0x16, leaf7IBPB | leaf7L1D | leaf7Clear | leaf7ArchCap, leaf7RTM, 0, capRDCLNo | capSkipL1D | capMDSNo, Barriers{true, false, true}},
		{"Cooper Lake", 0x16, leaf7IBPB | leaf7L1D | leaf7Clear | leaf7ArchCap, leaf7RTM, 0, capRDCLNo | capSkipL1D | capMDSNo | capTAANo, Barriers{Prediction: true}},
		{"Alder Lake N", 0x20, leaf7IBPB | leaf7Clear | leaf7ArchCap, 0, 0, capRDCLNo | capSkipL1D | capMDSNo | capTAANo | capRFDSClear, Barriers{true, false, true}},
		{"Ice Lake, for MMIO's sake", 0x1b, leaf7IBPB | leaf7L1D | leaf7Clear | leaf7ArchCap, 0, 0, capRDCLNo | capMDSNo | capFBClear, Barriers{true, false, true}},
		{"Zen", 0xd, 0, 0, amdIBPB, 0, Barriers{Prediction: true}},
	} {
		got := FindBarriers(func(leaf, _ uint32) (a, b, cx, d uint32) {
			switch leaf {
			case 0:
				return c.top, 0, 0, 0
			case 7:
				return 0, c.ebx7, 0, c.edx7
			case 0x80000000:
				return 0x80000008, 0, 0, 0
			case 0x80000008:
				return 0, c.amd, 0, 0
			}
			return
		}, func(msr uint32) (uint64, bool) { return c.caps, msr == MSRArchCapabilities })
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
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
