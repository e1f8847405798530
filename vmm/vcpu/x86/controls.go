package x86

import "strings"

// Controls are what a guest may have to keep its own programs from steering or reading
// each other. They do nothing to other guests or the host, which are kept apart whether a
// guest uses them or not (Barriers).
type Controls struct {
	SpecCtrl uint64 // bits of IA32_SPEC_CTRL (MSR 48h); none: the register does not exist
	IBPB     bool   // IA32_PRED_CMD (MSR 49h) takes an IBPB
	FlushL1D bool   // IA32_FLUSH_CMD (MSR 10Bh) takes a flush
}

// FindControls asks the processor for what both vendors say in different places: Intel in
// leaf 7 (SDM vol. 2, CPUID), AMD in 80000008h (APM vol. 3, E.4.7). Either's bits of the
// other's are zero, or a hypervisor below has set them, and means it.
func FindControls(cpuid CPUID) (c Controls) {
	var d uint32
	if top, _, _, _ := cpuid(0, 0); top >= 7 {
		_, _, _, d = cpuid(7, 0)
	}
	l := amd(cpuid)
	for _, b := range []struct {
		spec   uint64
		d, ebx uint32
	}{{SpecIBRS, leaf7IBPB, amdIBRS}, {SpecSTIBP, leaf7STIBP, amdSTIBP}, {SpecSSBD, leaf7SSBD, amdSSBD}} {
		if d&b.d != 0 || l.ebx8&b.ebx != 0 {
			c.SpecCtrl |= b.spec
		}
	}
	c.IBPB = d&leaf7IBPB != 0 || l.ebx8&amdIBPB != 0
	c.FlushL1D = d&leaf7L1D != 0
	return c
}

// With is c and what o has.
func (c Controls) With(o Controls) Controls {
	return Controls{c.SpecCtrl | o.SpecCtrl, c.IBPB || o.IBPB, c.FlushL1D || o.FlushL1D}
}

// Without tells what of c o lacks.
func (c Controls) Without(o Controls) Controls {
	return Controls{c.SpecCtrl &^ o.SpecCtrl, c.IBPB && !o.IBPB, c.FlushL1D && !o.FlushL1D}
}

// options are their names in CPU models (package cpuid).
func (c Controls) options() (names []string) {
	for _, o := range []struct {
		name string
		Controls
	}{
		{"ibpb", Controls{IBPB: true}}, {"ibrs", Controls{SpecCtrl: SpecIBRS}}, {"stibp", Controls{SpecCtrl: SpecSTIBP}},
		{"ssbd", Controls{SpecCtrl: SpecSSBD}}, {"flush_l1d", Controls{FlushL1D: true}},
	} {
		if o.Without(c) == (Controls{}) {
			names = append(names, o.name)
		}
	}
	return names
}

// String names them.
func (c Controls) String() string { return strings.Join(c.options(), ", ") }
