package x86

import (
	"testing"
)

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
