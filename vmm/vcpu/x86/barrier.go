package x86

// Barriers are what this processor needs so that a guest learns nothing from what was
// in it before, and can not steer what comes after.
//
// References: Intel, "Speculative Execution Side Channel Mitigations" (336996), "L1
// Terminal Fault", "Microarchitectural Data Sampling", "TSX Asynchronous Abort", "MMIO
// Stale Data" and "Register File Data Sampling" guidance; SDM vol. 4, table 2-2; AMD, "Indirect Branch Control Extension" (111006-B).
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
}

// MSRs, and the bits that make the barriers.
const (
	MSRPredCmd          = 0x49
	MSRArchCapabilities = 0x10a
	MSRFlushCmd         = 0x10b

	PredIBPB = 1 << 0
	FlushL1D = 1 << 0
)

// IA32_ARCH_CAPABILITIES.
const (
	capRDCLNo    = 1 << 0 // neither Meltdown nor L1TF
	capSkipL1D   = 1 << 3 // the hypervisor need not flush: it is nested, and another does
	capMDSNo     = 1 << 5
	capPSChange  = 1 << 6  // IF_PSCHANGE_MC_NO: a fetch bears translations of unlike size
	capTAANo     = 1 << 8  // nor can an aborted transaction read the buffers
	capFBClear   = 1 << 17 // VERW also clears what MMIO leaves in fill buffers
	capRFDSClear = 1 << 28 // VERW also clears register files, which need it
	leaf7RTM     = 1 << 11 // EBX
	leaf7Clear   = 1 << 10 // EDX: MD_CLEAR
	leaf7IBPB    = 1 << 26
	leaf7L1D     = 1 << 28
	leaf7ArchCap = 1 << 29
	amdIBPB      = 1 << 12 // EBX of CPUID 80000008h
)

// FindBarriers asks the processor.
func FindBarriers(cpuid func(leaf, sub uint32) (a, b, c, d uint32), rdmsr func(uint32) (uint64, bool)) (b Barriers) {
	if top, _, _, _ := cpuid(0x80000000, 0); top >= 0x80000008 {
		_, x, _, _ := cpuid(0x80000008, 0)
		b.Prediction = x&amdIBPB != 0
	}
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return b
	}
	_, ebx7, _, d := cpuid(7, 0)
	caps := archCapabilities(cpuid, rdmsr)
	b.Prediction = b.Prediction || d&leaf7IBPB != 0
	b.L1D = d&leaf7L1D != 0 && caps&(capRDCLNo|capSkipL1D) == 0
	sampled := caps&capMDSNo == 0 || ebx7&leaf7RTM != 0 && caps&capTAANo == 0
	b.Buffers = d&leaf7Clear != 0 && sampled || caps&(capFBClear|capRFDSClear) != 0
	return b
}

// SmallCode tells whether a guest could stop this processor, Intel's, with a fetch that
// finds a small and a large translation of one address (CVE-2018-12207). One that does
// not say it is safe may not be: most were sold before there was a bit for it.
func SmallCode(cpuid func(leaf, sub uint32) (a, b, c, d uint32), rdmsr func(uint32) (uint64, bool)) bool {
	return archCapabilities(cpuid, rdmsr)&capPSChange == 0
}

// archCapabilities is IA32_ARCH_CAPABILITIES; zero where there is none.
func archCapabilities(cpuid func(leaf, sub uint32) (a, b, c, d uint32), rdmsr func(uint32) (uint64, bool)) (caps uint64) {
	if top, _, _, _ := cpuid(0, 0); top < 7 {
		return 0
	}
	if _, _, _, d := cpuid(7, 0); d&leaf7ArchCap != 0 {
		caps, _ = rdmsr(MSRArchCapabilities)
	}
	return caps
}
