package x86

import "testing"

// Each vendor's bits are enough, alone and mixed.
func TestControlsOfEitherVendor(t *testing.T) {
	for _, c := range []struct {
		name string
		chip *chip
		want Controls
	}{
		{"no leaf 7, nothing of AMD's", &chip{leaf: map[[2]uint32][4]uint32{{0, 0}: {6}, {7, 0}: {0, 0, 0, ^uint32(0)}}}, Controls{}},
		{"Intel's first microcode", intelChip(skylake, 0, leaf7IBPB, 0, 0), Controls{SpecCtrl: SpecIBRS, IBPB: true}},
		{"all of Intel's", intelChip(skylake, 0, leaf7IBPB|leaf7STIBP|leaf7SSBD|leaf7L1D, 0, 0),
			Controls{SpecCtrl: SpecIBRS | SpecSTIBP | SpecSSBD, IBPB: true, FlushL1D: true}},
		{"Zen 1", amdChip(signature(0x17, 1, 2), amdIBPB, 0, 0, 2), Controls{IBPB: true}},
		{"Zen 2", amdChip(signature(0x17, 0x31, 0), amdIBPB|amdIBRS|amdSTIBP|amdSSBD, 0, 0, 2),
			Controls{SpecCtrl: SpecIBRS | SpecSTIBP | SpecSSBD, IBPB: true}},
		{"a host that passes on STIBP and SSBD only", amdChip(signature(0x17, 0x31, 0), amdSTIBP|amdSSBD, 0, 0, 2),
			Controls{SpecCtrl: SpecSTIBP | SpecSSBD}},
	} {
		if got := FindControls(c.chip.processor().CPUID); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	all := Controls{SpecIBRS | SpecSSBD, true, true}
	if got := all.Without(Controls{SpecCtrl: SpecIBRS | SpecSTIBP, IBPB: true}); got != (Controls{SpecSSBD, false, true}) {
		t.Errorf("lacking are %+v", got)
	}
}
