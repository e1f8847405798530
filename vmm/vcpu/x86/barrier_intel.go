package x86

import "slices"

// IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2; ITS_NO: "Indirect Target Selection").
const (
	capRDCLNo    = 1 << 0 // neither Meltdown nor L1TF
	capIBRSAll   = 1 << 1 // IBRS is of the enhanced kind
	capSkipL1D   = 1 << 3 // the hypervisor need not flush: it is nested, and another does
	capSSBNo     = 1 << 4
	capMDSNo     = 1 << 5
	capPSChange  = 1 << 6  // IF_PSCHANGE_MC_NO: a fetch bears translations of unlike size
	capTAANo     = 1 << 8  // nor can an aborted transaction read the buffers
	capFBClear   = 1 << 17 // VERW also clears what MMIO leaves in fill buffers
	capBHINo     = 1 << 20
	capPBRSBNo   = 1 << 24
	capGDSCtrl   = 1 << 25
	capGDSNo     = 1 << 26
	capRFDSNo    = 1 << 27
	capRFDSClear = 1 << 28 // VERW also clears register files, which need it
	capITSNo     = 1 << 62
)

// CPUID leaf 7 (SDM vol. 2).
const (
	leaf7RTM     = 1 << 11 // EBX
	leaf7SRBDS   = 1 << 9  // EDX: SRBDS_CTRL
	leaf7Clear   = 1 << 10 // MD_CLEAR
	leaf7IBPB    = 1 << 26 // IBRS and IBPB
	leaf7STIBP   = 1 << 27
	leaf7L1D     = 1 << 28
	leaf7ArchCap = 1 << 29
	leaf7SSBD    = 1 << 31
	leaf72BHI    = 1 << 4 // EDX of subleaf 2: BHI_CTRL
)

// IA32_MCU_OPT_CTRL: what switches off the microcode's help.
const (
	msrMCUOpt   = 0x123
	rngdsMitDis = 1 << 0
	gdsMitDis   = 1 << 4
)

func intelBarriers(p Processor, g Guests) (b Barriers) {
	cpuid := p.CPUID
	b.Exit = FenceReturns
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return b
	}
	_, ebx7, _, d := cpuid(7, 0)
	caps := ArchCapabilities(cpuid, p.Read)
	b.Prediction = d&leaf7IBPB != 0
	switch {
	case d&leaf7IBPB == 0:
	case caps&capIBRSAll == 0:
		b.Exit = FenceIBRS
	default:
		b.SpecCtrl, b.Exit = SpecIBRS, FenceNone
		if caps&capPBRSBNo == 0 {
			b.Exit = FenceOne
		}
		if caps&capBHINo == 0 {
			// Intel, "Branch History Injection", software sequence: BHI_DIS_S where it
			// exists, which is since Alder Lake; the processors before need the short one.
			if bhiControl(cpuid) {
				b.SpecCtrl |= SpecBHIDisS
			} else {
				b.Exit = FenceHistory
			}
		}
		if selectsTargets(cpuid, caps) {
			b.Spared = bool(g)
			if !b.Spared {
				b.Exit, b.Prediction = FenceIBPB, false
			}
		}
	}
	b.L1D = d&leaf7L1D != 0 && caps&(capRDCLNo|capSkipL1D) == 0
	sampled := caps&capMDSNo == 0 || ebx7&leaf7RTM != 0 && caps&capTAANo == 0
	b.Buffers = d&leaf7Clear != 0 && sampled || caps&(capFBClear|capRFDSClear) != 0
	return b
}

// selectsTargets: enhanced IBRS does not keep a guest's direct branches from leading the
// host's indirect ones (ITS between guest and host): Skylake's kin with enhanced IBRS.
// Ice Lake's and Rocket Lake's have it within one mode only, and those with BHI_CTRL
// not at all.
func selectsTargets(cpuid CPUID, caps uint64) bool {
	if caps&capIBRSAll == 0 || caps&capITSNo != 0 || bhiControl(cpuid) {
		return false
	}
	i := identify(cpuid)
	switch {
	case i.nested:
		return true // as Linux has it: what is below may be any of them
	case i.family != 6:
		return false
	}
	switch i.model {
	case 0x55: // Cascade Lake, Cooper Lake; Skylake-X before
		return i.stepping >= 6
	case 0x8e: // Kaby Lake's kin, mobile
		return i.stepping >= 12
	case 0x9e: // and desktop
		return i.stepping >= 13
	case 0xa5, 0xa6: // Comet Lake
		return true
	}
	return false
}

func bhiControl(cpuid CPUID) bool {
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return false
	}
	if subleaves, _, _, _ := cpuid(7, 0); subleaves < 2 {
		return false
	}
	_, _, _, d := cpuid(7, 2)
	return d&leaf72BHI != 0
}

// ArchCapabilities is IA32_ARCH_CAPABILITIES; zero where there is none.
func ArchCapabilities(cpuid CPUID, rdmsr ReadMSR) (caps uint64) {
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return 0
	}
	if _, _, _, d := cpuid(7, 0); d&leaf7ArchCap != 0 {
		caps, _ = rdmsr(MSRArchCapabilities)
	}
	return caps
}

// Models of family 6 that are affected, unless they say otherwise.
var (
	// Ivy Bridge, Haswell, Broadwell, Skylake, Kaby Lake: clients.
	modelsSRBDS = []uint32{0x3a, 0x3c, 0x45, 0x46, 0x3d, 0x47, 0x4e, 0x5e, 0x8e, 0x9e}
	// Skylake to Ice Lake, Tiger Lake, Rocket Lake.
	modelsGDS = []uint32{0x4e, 0x55, 0x5e, 0x6a, 0x6c, 0x7e, 0x8c, 0x8d, 0x8e, 0x9e, 0xa5, 0xa6, 0xa7}
	// Goldmont to Gracemont, alone or beside Alder Lake's and Raptor Lake's large cores.
	modelsRFDS = []uint32{0x5c, 0x5f, 0x7a, 0x86, 0x96, 0x9c, 0xbe, 0x97, 0x9a, 0xb7, 0xba, 0xbf}
)

// among is also true where the numbers tell nothing.
func (i identity) among(models []uint32) bool {
	return i.nested || i.family == 6 && slices.Contains(models, i.model)
}
