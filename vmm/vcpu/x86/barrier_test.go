package x86

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A chip answers as one kind of processor does.
type chip struct {
	leaf map[[2]uint32][4]uint32
	msrs map[uint32]uint64 // those that exist; a write elsewhere is a #GP
	sbpb bool              // MSRPredCmd takes SBPB
	keep uint32            // this register takes a write and keeps its value
	log  []string
}

func (c *chip) processor() Processor {
	return Processor{
		CPUID: func(leaf, sub uint32) (uint32, uint32, uint32, uint32) {
			x := c.leaf[[2]uint32{leaf, sub}]
			return x[0], x[1], x[2], x[3]
		},
		Read: func(msr uint32) (uint64, bool) {
			v, ok := c.msrs[msr]
			return v, ok
		},
		Write: func(msr uint32, v uint64) bool {
			if msr == MSRPredCmd {
				return v == PredIBPB || v == predSBPB && c.sbpb
			}
			if _, ok := c.msrs[msr]; !ok {
				return false
			}
			c.log = append(c.log, fmt.Sprintf("%x=%x", msr, v))
			if msr != c.keep {
				c.msrs[msr] = v
			}
			return true
		},
	}
}

// signature is EAX of CPUID leaf 1.
func signature(family, model, stepping uint32) uint32 {
	a := model&15<<4 | model>>4<<16 | stepping
	if family >= 15 {
		return a | 15<<8 | (family-15)<<20
	}
	return a | family<<8
}

// intelChip is one by its signature, leaf 7's EBX and EDX, EDX of its subleaf 2, and
// IA32_ARCH_CAPABILITIES.
func intelChip(sig, ebx7, edx7, bhi uint32, caps uint64) *chip {
	return &chip{
		leaf: map[[2]uint32][4]uint32{{0, 0}: {0x20}, {1, 0}: {sig}, {7, 0}: {2, ebx7, 0, edx7}, {7, 2}: {0, 0, 0, bhi}, {0xb, 0}: {1, 1, 1 << 8}},
		msrs: map[uint32]uint64{MSRArchCapabilities: caps, msrMCUOpt: 0},
	}
}

// amdChip is one by its signature, EBX of leaf 80000008h, EAX and ECX of 80000021h.
func amdChip(sig, ebx8, eax21, ecx21 uint32, threads uint32) *chip {
	return &chip{
		leaf: map[[2]uint32][4]uint32{
			{0, 0}: {0xd}, {1, 0}: {sig}, {0x80000000, 0}: {0x80000021}, {0x80000001, 0}: {0, 0, 1 << 22},
			{0x80000008, 0}: {0, ebx8}, {0x8000001e, 0}: {0, (threads - 1) << 8}, {0x80000021, 0}: {eax21, 0, ecx21},
		},
		msrs: map[uint32]uint64{msrPatchLevel: 0, msrDECfg: 0, msrDECfg2: 0, msrFPCfg: 0, msrBPCfg: 0},
	}
}

const (
	specArch   = leaf7IBPB | leaf7ArchCap
	cascade    = capRDCLNo | capIBRSAll | capSkipL1D | capMDSNo
	plainZen   = amdIBPB
	skylake    = 6<<8 | 5<<16 | 5<<4 | 4
	cascadeSig = 6<<8 | 5<<16 | 5<<4 | 7
	iceLake    = 6<<8 | 6<<16 | 10<<4 | 6
	alderLakeN = 6<<8 | 11<<16 | 14<<4
)

func TestBarriersOfIntelProcessors(t *testing.T) {
	none := intelChip(0, 0, 0, 0, 0)
	none.leaf[[2]uint32{0, 0}] = [4]uint32{6, 0, 0, 0}
	none.leaf[[2]uint32{7, 0}] = [4]uint32{^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}
	nested := intelChip(iceLake, 0, specArch, 0, cascade)
	nested.leaf[[2]uint32{1, 0}] = [4]uint32{iceLake, 0, 1 << 31, 0}
	for _, c := range []struct {
		name string
		*chip
		guests Guests
		want   Barriers
	}{
		{"before all this", intelChip(0, 0, 0, 0, 0), Untrusted, Barriers{Exit: FenceReturns}},
		{"no leaf 7", none, Untrusted, Barriers{Exit: FenceReturns}},
		{"Skylake with microcode of 2018", intelChip(skylake, 0, leaf7IBPB|leaf7L1D, 0, 0), Untrusted,
			Barriers{Prediction: true, L1D: true, Exit: FenceIBRS}},
		{"Skylake with microcode of 2019", intelChip(skylake, 0, leaf7IBPB|leaf7L1D|leaf7Clear, 0, 0), Untrusted,
			Barriers{Prediction: true, L1D: true, Buffers: true, Exit: FenceIBRS}},
		{"the same, nested under one that flushes", intelChip(skylake, 0, specArch|leaf7L1D|leaf7Clear, 0, capSkipL1D), Untrusted,
			Barriers{Prediction: true, Buffers: true, Exit: FenceIBRS}},
		{"Cascade Lake", intelChip(cascadeSig, 0, specArch|leaf7L1D|leaf7Clear, 0, cascade), Untrusted,
			Barriers{SpecCtrl: SpecIBRS, Exit: FenceIBPB}},
		{"the same with the operator's guests", intelChip(cascadeSig, 0, specArch|leaf7L1D|leaf7Clear, 0, cascade), Own,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS, Exit: FenceHistory, Spared: true}},
		{"the same with transactions", intelChip(cascadeSig, leaf7RTM, specArch|leaf7L1D|leaf7Clear, 0, cascade), Untrusted,
			Barriers{Buffers: true, SpecCtrl: SpecIBRS, Exit: FenceIBPB}},
		{"the same, told to bear ITS", intelChip(cascadeSig, 0, specArch|leaf7Clear, 0, cascade|capITSNo), Untrusted,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"an earlier stepping", intelChip(cascadeSig-2, 0, specArch|leaf7Clear, 0, cascade), Untrusted,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"Ice Lake, for MMIO's sake", intelChip(iceLake, 0, specArch|leaf7L1D|leaf7Clear, 0, capRDCLNo|capIBRSAll|capMDSNo|capFBClear), Own,
			Barriers{Prediction: true, Buffers: true, SpecCtrl: SpecIBRS, Exit: FenceHistory}},
		{"Ice Lake, or what a hypervisor below calls so", nested, Untrusted,
			Barriers{SpecCtrl: SpecIBRS, Exit: FenceIBPB}},
		{"Alder Lake N", intelChip(alderLakeN, 0, specArch|leaf7Clear, leaf72BHI, cascade|capTAANo|capRFDSClear), Untrusted,
			Barriers{Prediction: true, Buffers: true, SpecCtrl: SpecIBRS | SpecBHIDisS, Exit: FenceOne}},
		{"the same, told to bear PBRSB", intelChip(alderLakeN, 0, specArch|leaf7Clear, leaf72BHI, cascade|capTAANo|capPBRSBNo), Untrusted,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS | SpecBHIDisS}},
		{"one that has nothing of it left", intelChip(alderLakeN, 0, specArch|leaf7Clear, leaf72BHI, cascade|capTAANo|capPBRSBNo|capBHINo), Untrusted,
			Barriers{Prediction: true, SpecCtrl: SpecIBRS}},
	} {
		if got := FindBarriers(true, c.processor(), c.guests); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestBarriersOfAMDProcessors(t *testing.T) {
	lfence := Setting{msrDECfg, deCfgLFENCE}
	zen2, zen3, zen4, zen5 := signature(0x17, 0x31, 0), signature(0x19, 1, 1), signature(0x19, 0x11, 1), signature(0x1a, 2, 1)
	const stibp, btc, auto = amdIBPB | amdSTIBP, amdBTCNo, amdAuto | amdLFENCE
	patchedZen2 := amdChip(zen2, stibp, 0, 0, 2)
	patchedZen2.msrs[msrPatchLevel] = 0x0830107b
	zen3New, zen4New := amdChip(zen3, stibp|btc, amdLFENCE, 0, 2), amdChip(zen4, stibp|btc, auto, 0, 2)
	zen3New.sbpb, zen4New.sbpb = true, true
	stubborn := amdChip(zen5, stibp|btc, auto|amdReduce|amdBranch, 0, 2)
	stubborn.keep = msrBPCfg
	for _, c := range []struct {
		name string
		*chip
		guests Guests
		want   Barriers
	}{
		{"before Zen, without IBPB", amdChip(signature(0x10, 2, 3), 0, 0, 0, 1), Untrusted,
			Barriers{Exit: FenceReturns, Settings: []Setting{lfence}}},
		{"Zen 1", amdChip(signature(0x17, 1, 2), plainZen, 0, 0, 2), Untrusted,
			Barriers{Exit: FenceIBPB, Divider: true, Settings: []Setting{lfence, {msrFPCfg, fpCfgDivider}}}},
		{"Zen 1 with the operator's guests", amdChip(signature(0x17, 1, 2), plainZen, 0, 0, 2), Own,
			Barriers{Prediction: true, Exit: FenceReturns, Spared: true, Divider: true, Settings: []Setting{lfence, {msrFPCfg, fpCfgDivider}}}},
		{"Zen 2", amdChip(zen2, stibp, 0, 0, 2), Untrusted,
			Barriers{Exit: FenceIBPB, SpecCtrl: SpecSTIBP, Settings: []Setting{lfence, {msrDECfg2, deCfg2Zen2}, {msrBPCfg, bpCfgZen2}, {msrDECfg, deCfgZen2}}}},
		{"Zen 2 with microcode against Zenbleed", patchedZen2, Untrusted,
			Barriers{Exit: FenceIBPB, SpecCtrl: SpecSTIBP, Settings: []Setting{lfence, {msrDECfg2, deCfg2Zen2}, {msrBPCfg, bpCfgZen2}}}},
		{"Zen 3 without microcode for SRSO", amdChip(zen3, stibp|btc, amdLFENCE, 0, 2), Untrusted,
			Barriers{Exit: FenceIBPB, SpecCtrl: SpecSTIBP, Buffers: true}}, // for Spectre v2's sake
		{"Zen 3", zen3New, Untrusted, Barriers{Exit: FenceIBPB, SpecCtrl: SpecSTIBP, Buffers: true}},
		{"Zen 4 without microcode for SRSO", amdChip(zen4, stibp|btc, auto, 0, 2), Untrusted,
			Barriers{Prediction: true, AutoIBRS: true, SpecCtrl: SpecSTIBP, Buffers: true}},
		{"Zen 4", zen4New, Untrusted, Barriers{Exit: FenceIBPB, AutoIBRS: true, SpecCtrl: SpecSTIBP, Buffers: true}},
		{"Zen 4 with the operator's guests", zen4New, Own,
			Barriers{Prediction: true, AutoIBRS: true, Spared: true, SpecCtrl: SpecSTIBP, Buffers: true}},
		{"Zen 4 that bears TSA", amdChip(zen4, stibp|btc, auto|amdSRSONo, amdTSASQNo|amdTSAL1No, 2), Untrusted,
			Barriers{Prediction: true, AutoIBRS: true, SpecCtrl: SpecSTIBP}},
		{"Zen 5", amdChip(zen5, stibp|btc, auto|amdReduce|amdBranch, 0, 2), Untrusted,
			Barriers{Prediction: true, AutoIBRS: true, SpecCtrl: SpecSTIBP, Settings: []Setting{{msrBPCfg, bpCfgReduce}}}},
		{"Zen 5 that does not take BP_SPEC_REDUCE", stubborn, Untrusted,
			Barriers{Exit: FenceIBPB, AutoIBRS: true, SpecCtrl: SpecSTIBP}},
		{"one that bears SRSO", amdChip(zen5, stibp|btc, auto|amdSRSONo, 0, 2), Untrusted,
			Barriers{Prediction: true, AutoIBRS: true, SpecCtrl: SpecSTIBP}},
	} {
		if got := FindBarriers(false, c.processor(), c.guests); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// Bits that are there are left, others are kept, and what does not stick is not counted on.
func TestASettingIsSeenToHold(t *testing.T) {
	c := &chip{msrs: map[uint32]uint64{1: 0x10, 2: 3, 3: 0}, keep: 3}
	p := c.processor()
	for i, want := range []bool{false, true, true, false} {
		if got := p.Set(Setting{uint32(i), 3}); got != want {
			t.Errorf("register %d: %v", i, got)
		}
	}
	if want := []string{"1=13", "3=3"}; !slices.Equal(c.log, want) {
		t.Errorf("written %q, want %q", c.log, want)
	}
}

// Each issue is told once, and as open where nothing is done.
func TestTheOperatorIsToldWhatIsOpen(t *testing.T) {
	const programs, smt, v1, v4 = "a guest's programs against its kernel", "simultaneous multithreading", "Spectre v1", "store bypass (v4)"
	const confusion, srso, tsa, its = "branch type confusion (Retbleed)", "return stack overflow (SRSO, Inception)", "transient scheduler attacks (TSA)", "indirect target selection"
	const v2, toGuest, vmscape = "Spectre v2, guest to host", "Spectre v2, guest to guest", "VMSCAPE"
	two := func(c *chip) *chip {
		c.leaf[[2]uint32{0xb, 0}] = [4]uint32{1, 2, 1 << 8, 0}
		return c
	}
	silent := intelChip(0, 0, 0, 0, 0)
	delete(silent.leaf, [2]uint32{0xb, 0})
	off := intelChip(iceLake, 0, specArch|leaf7Clear|leaf7SRBDS, 0, cascade|capTAANo|capPSChange|capGDSCtrl)
	off.msrs[msrMCUOpt] = rngdsMitDis | gdsMitDis
	zen3, zen4 := signature(0x19, 1, 1), signature(0x19, 0x11, 1)
	newZen3 := amdChip(zen3, amdIBPB|amdSTIBP|amdBTCNo, amdLFENCE, 0, 1)
	newZen3.sbpb, newZen3.msrs[msrPatchLevel] = true, 0x0a0011d7
	ownZen4 := amdChip(zen4, amdIBPB|amdSTIBP|amdBTCNo, amdAuto|amdLFENCE|amdBranch, 0, 1)
	deaf := amdChip(signature(0x17, 0x31, 0), amdIBPB|amdSTIBP, 0, 0, 2)
	deaf.msrs = map[uint32]uint64{}
	for _, c := range []struct {
		name  string
		intel bool
		*chip
		guests Guests
		open   []string
	}{
		{"an Intel processor that tells nothing", true, silent, Untrusted, []string{v1, toGuest, v2, vmscape, "return stack underflow (Retbleed)",
			"branch history injection", "L1 terminal fault", "MDS, TAA", v4, programs, smt}},
		{"Granite Rapids, two threads a core", true,
			two(intelChip(6<<8|10<<16|13<<4, 0, specArch|leaf7Clear, leaf72BHI, capRDCLNo|capIBRSAll|capMDSNo|capPSChange|capTAANo|capPBRSBNo|capGDSNo|capRFDSNo)),
			Untrusted, []string{v1, v4, programs, smt}},
		{"Skylake, one thread a core", true, intelChip(skylake, 0, specArch|leaf7L1D|leaf7Clear, 0, capGDSCtrl), Untrusted, []string{v1, v4, programs}},
		{"Cascade Lake", true, intelChip(cascadeSig, 0, specArch|leaf7Clear, 0, cascade|capTAANo|capGDSNo), Untrusted, []string{v1, its, v4, programs}},
		{"Cascade Lake with the operator's guests", true, intelChip(cascadeSig, 0, specArch|leaf7Clear, 0, cascade|capTAANo|capGDSNo), Own, []string{v1, its, v4, programs}},
		{"Ice Lake whose firmware dislikes cures", true, off, Untrusted, []string{v1, "special register buffers (SRBDS)", "gather data sampling (Downfall)", v4, programs}},
		{"Alder Lake N without microcode", true, intelChip(alderLakeN, 0, specArch|leaf7Clear, leaf72BHI, cascade|capTAANo|capPSChange), Untrusted,
			[]string{v1, "register file data sampling", v4, programs}},
		{"Zen 1, one thread a core", false, amdChip(signature(0x17, 1, 2), amdIBPB, 0, 0, 1), Untrusted, []string{v1, v4, programs}},
		{"Zen 1, two threads a core", false, amdChip(signature(0x17, 1, 2), amdIBPB, 0, 0, 2), Untrusted, []string{v1, confusion, v4, programs, smt}},
		{"Zen 2 that takes no settings", false, deaf, Untrusted, []string{v1, "LFENCE", "Zenbleed", "operation cache (Zen 2)", v4, programs, smt}},
		{"Zen 2 with the operator's guests", false, amdChip(signature(0x17, 0x31, 0), amdIBPB|amdSTIBP, 0, 0, 1), Own,
			[]string{v1, v2, vmscape, confusion, v4, programs}},
		{"Zen 3 without new microcode", false, amdChip(zen3, amdIBPB|amdSTIBP|amdBTCNo, amdLFENCE, 0, 2), Untrusted, []string{v1, srso, tsa, v4, programs, smt}},
		{"Zen 3", false, newZen3, Untrusted, []string{v1, v4, programs}},
		{"Zen 4 with the operator's guests", false, ownZen4, Own, []string{v1, srso, tsa, v4, programs}},
		{"Zen 5, one thread a core", false,
			amdChip(signature(0x1a, 2, 1), amdIBPB|amdSTIBP|amdBTCNo|amdSSBNo, amdAuto|amdLFENCE|amdReduce, amdTSASQNo|amdTSAL1No, 1), Untrusted, []string{v1, programs}},
		{"before Zen, without IBPB", false, amdChip(signature(0x15, 2, 0), 0, 0, 0, 1), Untrusted,
			[]string{v1, toGuest, v2, vmscape, confusion, v4, programs}},
	} {
		p := c.processor()
		b := FindBarriers(c.intel, p, c.guests)
		var open []string
		told := map[string]bool{}
		for _, m := range Mitigations(c.intel, b, p) {
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
		if notes := strings.Join(b.Notes(), "\n"); (b.Exit == FenceIBPB || b.Spared) != strings.Contains(notes, "guests=own") {
			t.Errorf("%s: %+v is noted as %q", c.name, b, notes)
		}
	}
}
