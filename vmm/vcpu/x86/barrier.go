package x86

// Barriers are what this processor needs so that a guest learns nothing from what was
// in it before, and can not steer what comes after.
//
// References: Intel, "Speculative Execution Side Channel Mitigations" (336996), "L1
// Terminal Fault", "Microarchitectural Data Sampling", "TSX Asynchronous Abort", "MMIO
// Stale Data", "Register File Data Sampling", "Branch History Injection" and "Post-barrier Return Stack Buffer Predictions"
// guidance; SDM vol. 4, table 2-2; AMD, "Indirect Branch Control Extension" (111006-B), "Software Techniques for Managing
// Speculation" (90343-D), APM vol. 2, 3.1.7.
type Barriers struct {
	// Prediction: IBPB exists. It is made where a CPU turns to another VCPU, so that
	// what one has taught the branch predictor does not lead the next.
	Prediction bool
	// L1D: the level 1 data cache is to be flushed before a guest is entered, because
	// the guest may read it through page table entries that are not present (L1TF).
	L1D bool
	// Buffers: VERW before an entry overwrites what a guest could sample: fill, store and
	// load buffers (MDS, also through aborted transactions or MMIO), register files.
	Buffers bool
	// SpecCtrl is what IA32_SPEC_CTRL holds from the moment virtualization is on, if it
	// is not 0: IBRS where the processor has the enhanced kind, which parts the host's
	// branches from guests' once and for all, and BHI_DIS_S. No guest sees the register.
	SpecCtrl uint64
	// AutoIBRS: the same on AMD, by EFER. It also empties the return stack at an exit.
	AutoIBRS bool
	// Exit is what must stand behind each exit before the host's first return.
	Exit Fence
}

// A Fence is code behind an exit.
type Fence uint8

const (
	FenceNone    Fence = iota
	FenceReturns       // the return stack is filled anew: the guest's addresses are in it
	FenceIBRS          // that, and IBRS is written, which is off in guests
	FenceOne           // one call, for enhanced IBRS holds only after one (PBRSB)
	FenceHistory       // that, and branches that take the place of the guest's in the history (BHI)
	NumFences
)

// How the processor is asked.
type (
	CPUID   = func(leaf, sub uint32) (a, b, c, d uint32)
	ReadMSR = func(msr uint32) (uint64, bool)
)

// MSRs, and the bits that make the barriers.
const (
	MSRSpecCtrl         = 0x48
	MSRPredCmd          = 0x49
	MSRArchCapabilities = 0x10a
	MSRFlushCmd         = 0x10b

	SpecIBRS    = 1 << 0
	SpecBHIDisS = 1 << 10
	EFERAuto    = 1 << 21 // AIBRSE

	PredIBPB = 1 << 0
	FlushL1D = 1 << 0
)

// IA32_ARCH_CAPABILITIES.
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
	capRFDSClear = 1 << 28 // VERW also clears register files, which need it
	capITSNo     = 1 << 62
	leaf7RTM     = 1 << 11 // EBX
	leaf7Clear   = 1 << 10 // EDX: MD_CLEAR
	leaf7IBPB    = 1 << 26 // IBRS and IBPB
	leaf7L1D     = 1 << 28
	leaf7ArchCap = 1 << 29
	leaf72BHI    = 1 << 4  // EDX of subleaf 2: BHI_CTRL
	amdIBPB      = 1 << 12 // EBX of CPUID 80000008h
	amdSSBNo     = 1 << 26
	amdBTCNo     = 1 << 29
	amdAuto      = 1 << 8 // EAX of CPUID 80000021h: automatic IBRS
	amdSRSONo    = 1 << 29
)

// FindBarriers asks the processor.
func FindBarriers(cpuid CPUID, rdmsr ReadMSR) (b Barriers) {
	b.Exit = FenceReturns
	b.Prediction = amd(cpuid).ebx8&amdIBPB != 0
	if b.AutoIBRS = amd(cpuid).eax21&amdAuto != 0; b.AutoIBRS {
		b.Exit = FenceNone
	}
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return b
	}
	subleaves, ebx7, _, d := cpuid(7, 0)
	caps := archCapabilities(cpuid, rdmsr)
	switch {
	case d&leaf7IBPB == 0 || b.AutoIBRS:
	case caps&capIBRSAll == 0:
		b.Exit = FenceIBRS
	default:
		b.SpecCtrl, b.Exit = SpecIBRS, FenceNone
		if caps&capPBRSBNo == 0 {
			b.Exit = FenceOne
		}
		if caps&capBHINo == 0 {
			if subleaves >= 2 && bhiControl(cpuid) {
				b.SpecCtrl |= SpecBHIDisS
			} else {
				b.Exit = FenceHistory
			}
		}
	}
	b.Prediction = b.Prediction || d&leaf7IBPB != 0
	b.L1D = d&leaf7L1D != 0 && caps&(capRDCLNo|capSkipL1D) == 0
	sampled := caps&capMDSNo == 0 || ebx7&leaf7RTM != 0 && caps&capTAANo == 0
	b.Buffers = d&leaf7Clear != 0 && sampled || caps&(capFBClear|capRFDSClear) != 0
	return b
}

func bhiControl(cpuid CPUID) bool {
	_, _, _, d := cpuid(7, 2)
	return d&leaf72BHI != 0
}

// amdLeaves are EBX of CPUID 80000008h and EAX of 80000021h, zero where there is none.
type amdLeaves struct{ ebx8, eax21 uint32 }

func amd(cpuid CPUID) (l amdLeaves) {
	top, _, _, _ := cpuid(0x80000000, 0)
	if top >= 0x80000008 {
		_, l.ebx8, _, _ = cpuid(0x80000008, 0)
	}
	if top >= 0x80000021 {
		l.eax21, _, _, _ = cpuid(0x80000021, 0)
	}
	return l
}

// SmallCode tells whether a guest could stop this processor, Intel's, with a fetch that
// finds a small and a large translation of one address (CVE-2018-12207). One that does
// not say it is safe may not be: most were sold before there was a bit for it.
func SmallCode(cpuid CPUID, rdmsr ReadMSR) bool {
	return archCapabilities(cpuid, rdmsr)&capPSChange == 0
}

// archCapabilities is IA32_ARCH_CAPABILITIES; zero where there is none.
func archCapabilities(cpuid CPUID, rdmsr ReadMSR) (caps uint64) {
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return 0
	}
	if _, _, _, d := cpuid(7, 0); d&leaf7ArchCap != 0 {
		caps, _ = rdmsr(MSRArchCapabilities)
	}
	return caps
}
