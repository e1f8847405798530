package x86

// CPUID 80000008h EBX, 80000021h EAX and ECX (APM vol. 3, E.4.7 and E.4.18; the SRSO and
// TSA papers).
const (
	amdIBPB  = 1 << 12
	amdIBRS  = 1 << 14
	amdSTIBP = 1 << 15
	amdSSBD  = 1 << 24 // in SPEC_CTRL
	amdSSBNo = 1 << 26
	amdBTCNo = 1 << 29

	amdLFENCE    = 1 << 2 // LFENCE always holds what follows
	amdVERWClear = 1 << 5
	amdAuto      = 1 << 8  // automatic IBRS
	amdBranch    = 1 << 28 // IBPB_BRTYPE: IBPB reaches the types of branches
	amdSRSONo    = 1 << 29
	amdReduce    = 1 << 31 // SRSO_MSR_FIX: BP_SPEC_REDUCE exists

	amdTSASQNo = 1 << 1
	amdTSAL1No = 1 << 2
)

const (
	predSBPB = 1 << 7 // of MSRPredCmd

	msrPatchLevel = 0x8b

	// MSRs that AMD's bulletins name for one bit each.
	msrFPCfg  = 0xc0011028
	msrDECfg  = 0xc0011029
	msrBPCfg  = 0xc001102e
	msrDECfg2 = 0xc00110e3

	fpCfgDivider = 1 << 9  // AMD-SB-7053
	deCfgLFENCE  = 1 << 1  // 90343-D, mitigation G-2: LFENCE holds what follows
	deCfgZen2    = 1 << 9  // AMD-SB-7008, Zenbleed
	bpCfgReduce  = 1 << 4  // BP_SPEC_REDUCE
	bpCfgZen2    = 1 << 33 // AMD-SB-7052: the operation cache may mix up instructions of unlike privilege
	deCfg2Zen2   = 1 << 1  // Branch Type Confusion guidance: no predictions for what is no branch
)

// amdLeaves are EBX of CPUID 80000008h, EAX and ECX of 80000021h, zero where there is none.
type amdLeaves struct{ ebx8, eax21, ecx21 uint32 }

func amd(cpuid CPUID) (l amdLeaves) {
	top, _, _, _ := cpuid(0x80000000, 0)
	if top >= 0x80000008 {
		_, l.ebx8, _, _ = cpuid(0x80000008, 0)
	}
	if top >= 0x80000021 {
		l.eax21, _, l.ecx21, _ = cpuid(0x80000021, 0)
	}
	return l
}

// The generations by their numbers, as Linux tells them apart (arch/x86/kernel/cpu/amd.c). Hygon's family 18h is Zen 1.
func (i identity) zen1() bool {
	return i.family == 0x17 && (i.model < 0x30 || i.model>>4 == 5) || i.family == 0x18
}
func (i identity) zen2() bool    { return i.family == 0x17 && !i.zen1() }
func (i identity) zen3or4() bool { return i.family == 0x19 }
func (i identity) zen5() bool    { return i.family == 0x1a }

// confusesBranches: Branch Type Confusion, Retbleed on AMD.
func (i identity) confusesBranches(l amdLeaves) bool {
	return i.family >= 0x15 && i.family <= 0x18 && l.ebx8&amdBTCNo == 0
}

// overflowsReturns: SRSO, Inception. Zen 1 and 2 have it only while both threads of a core
// run.
func (i identity) overflowsReturns(l amdLeaves, threads uint32) bool {
	return l.eax21&amdSRSONo == 0 && ((i.zen1() || i.zen2()) && threads != 1 || i.zen3or4() || i.zen5())
}

// reachesBranchTypes: IBPB also makes the processor forget what it took for a branch. Zen 1
// and 2's does; Zen 3 and 4 do with microcode for SRSO, which shows by SBPB's existence
// and in no CPUID bit.
func reachesBranchTypes(p Processor, i identity, l amdLeaves) bool {
	switch {
	case l.ebx8&amdIBPB == 0:
		return false
	case l.eax21&amdBranch != 0 || i.zen1() || i.zen2():
		return true
	}
	return i.zen3or4() && !i.nested && p.Write(MSRPredCmd, predSBPB)
}

func amdBarriers(p Processor, g Guests) (b Barriers) {
	l, i := amd(p.CPUID), identify(p.CPUID)
	b.Exit = FenceReturns
	if b.AutoIBRS = l.eax21&amdAuto != 0; b.AutoIBRS {
		b.Exit = FenceNone
	}
	if l.ebx8&amdSTIBP != 0 {
		b.SpecCtrl = SpecSTIBP
	}
	b.Settings = amdSettings(p, i, l)
	b.Divider = i.zen1()
	b.Buffers = i.zen3or4() && l.ecx21&(amdTSASQNo|amdTSAL1No) != amdTSASQNo|amdTSAL1No

	// Go makes neither retpolines nor safe returns. Where the processor does not part the
	// host's branches from a guest's by itself, forgetting all of them does.
	b.Prediction = l.ebx8&amdIBPB != 0
	srso := i.overflowsReturns(l, threads(p.CPUID)) && !b.has(msrBPCfg, bpCfgReduce) && reachesBranchTypes(p, i, l)
	if b.Prediction && (!b.AutoIBRS || srso || i.confusesBranches(l)) {
		b.Spared = bool(g)
		if !b.Spared {
			b.Exit, b.Prediction = FenceIBPB, false
		}
	}
	return b
}

// amdSettings are those that the processor takes.
func amdSettings(p Processor, i identity, l amdLeaves) (list []Setting) {
	try := func(msr uint32, bits uint64) {
		if s := (Setting{msr, bits}); p.Set(s) {
			list = append(list, s)
		}
	}
	if i.family < 0x10 {
		return nil
	}
	if l.eax21&amdLFENCE == 0 && i.family != 0x11 { // where it holds without the bit, which is not there
		try(msrDECfg, deCfgLFENCE)
	}
	if l.eax21&amdReduce != 0 {
		try(msrBPCfg, bpCfgReduce)
	}
	if i.nested {
		return list
	}
	switch {
	case i.zen1():
		try(msrFPCfg, fpCfgDivider)
	case i.zen2():
		try(msrDECfg2, deCfg2Zen2)
		try(msrBPCfg, bpCfgZen2)
		if !patched(p, zenbleedPatches(i.model)) {
			try(msrDECfg, deCfgZen2)
		}
	}
	return list
}

func (b *Barriers) has(msr uint32, bits uint64) bool {
	for _, s := range b.Settings {
		if s.MSR == msr && s.Bits&bits == bits {
			return true
		}
	}
	return false
}

// patched tells whether the microcode is at least this one; 0: there is none.
func patched(p Processor, least uint32) bool {
	v, ok := p.Read(msrPatchLevel)
	return ok && least != 0 && uint32(v) >= least
}

// zenbleedPatches is the first microcode with the cure, by model (AMD-SB-7008).
func zenbleedPatches(model uint32) uint32 {
	switch {
	case model == 0x30 || model == 0x31:
		return 0x0830107b
	case model >= 0x60 && model <= 0x67:
		return 0x0860010c
	case model >= 0x68 && model <= 0x6f:
		return 0x08608107
	case model >= 0x70 && model <= 0x7f:
		return 0x08701033
	case model >= 0xa0 && model <= 0xaf:
		return 0x08a00009
	}
	return 0
}

// tsaPatches are the first microcodes whose VERW clears what TSA reads, by all of their
// number but the last byte, which stands for the model and stepping (AMD-SB-7029).
var tsaPatches = map[uint32]uint32{
	0x0a0011: 0x0a0011d7, 0x0a0012: 0x0a00123b, 0x0a0082: 0x0a00820d, 0x0a1011: 0x0a10114c,
	0x0a1012: 0x0a10124c, 0x0a1081: 0x0a108109, 0x0a2010: 0x0a20102e, 0x0a2012: 0x0a201211,
	0x0a4041: 0x0a404108, 0x0a5000: 0x0a500012, 0x0a6012: 0x0a60120a, 0x0a7041: 0x0a704108,
	0x0a7052: 0x0a705208, 0x0a7080: 0x0a708008, 0x0a70c0: 0x0a70c008, 0x0aa002: 0x0aa00216,
}

// verwClears: microcode for TSA is known by its number; CPUID shows the bit where a
// hypervisor below has set it.
func verwClears(p Processor, l amdLeaves) bool {
	v, _ := p.Read(msrPatchLevel)
	return l.eax21&amdVERWClear != 0 || patched(p, tsaPatches[uint32(v)>>8])
}
