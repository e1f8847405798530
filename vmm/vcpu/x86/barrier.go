package x86

// Barriers are what this processor needs so that a guest learns nothing from what was
// in it before, and can not steer what comes after.
//
// References: Intel's guidance "Speculative Execution Side Channel Mitigations" (336996),
// "Indirect Branch Restricted Speculation", "Return Stack Buffer Underflow",
// "Post-barrier Return Stack Buffer Predictions", "Branch History Injection and
// Intra-mode Branch Target Injection", "Indirect Target Selection", "L1 Terminal Fault",
// "Microarchitectural Data Sampling", "TSX Asynchronous Abort", "Processor MMIO Stale
// Data Vulnerabilities", "Register File Data Sampling", "Gather Data Sampling"; SDM
// vol. 4, table 2-2. AMD: "Indirect Branch Control Extension" (111006-B), "Software
// Techniques for Managing Speculation" (90343-D), "Technical Guidance for Mitigating
// Branch Type Confusion", "Technical Update Regarding Speculative Return Stack
// Overflow", "Technical Guidance for Mitigating Transient Scheduler Attacks"; APM
// vol. 2, 3.1.7, and vol. 3, appendix E.4. Which processors are affected is told by
// these and, in one place, by Linux 6.17 (cpu_vuln_blacklist, Documentation/admin-guide/hw-vuln).
type Barriers struct {
	// Prediction: IBPB is made where a CPU turns to another VCPU, so that what one has
	// taught the branch predictor does not lead the next.
	Prediction bool
	// L1D: the level 1 data cache is to be flushed before a guest is entered, because
	// the guest may read it through page table entries that are not present (L1TF).
	L1D bool
	// Buffers: VERW before an entry overwrites what a guest could sample: fill, store and
	// load buffers (MDS, also through aborted transactions or MMIO), register files
	// (RFDS); on AMD what loads are forwarded from (TSA).
	Buffers bool
	// Divider: a division before an entry overwrites the last quotient, which a guest's
	// division by zero would see (AMD-SB-7007).
	Divider bool
	// SpecCtrl is what IA32_SPEC_CTRL holds from the moment virtualization is on, if it
	// is not 0: IBRS where the processor has the enhanced kind, which parts the host's
	// branches from guests' once and for all, and BHI_DIS_S; on AMD STIBP. Guests run
	// with it and do not see the register.
	SpecCtrl uint64
	// AutoIBRS: the same as enhanced IBRS, on AMD, by EFER. It also empties the return
	// stack at an exit.
	AutoIBRS bool
	// Settings are bits of other registers, for each CPU.
	Settings []Setting
	// Exit is what must stand behind each exit before the host's first return.
	Exit Fence
	// Spared: Exit would be FenceIBPB, but all guests are the operator's own.
	Spared bool
}

// A Fence is code behind an exit.
type Fence uint8

const (
	FenceNone    Fence = iota
	FenceOne           // one call, for enhanced IBRS holds only after one (PBRSB)
	FenceHistory       // that, and branches that take the place of the guest's in the history (BHI)
	FenceReturns       // the return stack is filled anew: the guest's addresses are in it
	FenceIBRS          // that, and IBRS is written, which is off in guests
	FenceIBPB          // IBPB, and what it leaves: on AMD FenceReturns, on Intel FenceHistory
	NumFences
)

// Guests says how far they are trusted.
type Guests bool

const (
	Untrusted Guests = false
	Own       Guests = true // the operator's: what costs much at each exit is left out
)

// A Setting is bits that a register must have.
type Setting struct {
	MSR  uint32
	Bits uint64
}

// How the processor is asked.
type (
	CPUID   = func(leaf, sub uint32) (a, b, c, d uint32)
	ReadMSR = func(msr uint32) (uint64, bool)
	// WriteMSR tells whether the register took the value.
	WriteMSR = func(msr uint32, v uint64) bool
)

// A Processor is the one that executes this.
type Processor struct {
	CPUID CPUID
	Read  ReadMSR
	Write WriteMSR
}

// Set gives the calling CPU the bits.
func (p *Processor) Set(s Setting) bool {
	v, ok := p.Read(s.MSR)
	if !ok {
		return false
	}
	if v&s.Bits != s.Bits && !p.Write(s.MSR, v|s.Bits) {
		return false
	}
	v, ok = p.Read(s.MSR)
	return ok && v&s.Bits == s.Bits // some registers take a write and keep their value
}

// MSRs, and the bits that make the barriers.
const (
	MSRSpecCtrl         = 0x48
	MSRPredCmd          = 0x49
	MSRArchCapabilities = 0x10a
	MSRFlushCmd         = 0x10b

	SpecIBRS    = 1 << 0
	SpecSTIBP   = 1 << 1
	SpecSSBD    = 1 << 2
	SpecBHIDisS = 1 << 10
	EFERAuto    = 1 << 21 // AIBRSE

	PredIBPB = 1 << 0
	FlushL1D = 1 << 0
)

// FindBarriers asks the processor. AMD's is also asked by trial which bits it takes.
func FindBarriers(intel bool, p Processor, g Guests) Barriers {
	if intel {
		return intelBarriers(p, g)
	}
	return amdBarriers(p, g)
}

// An identity is a processor by its numbers (SDM vol. 2, CPUID leaf 1; APM vol. 3,
// Fn0000_0001), for issues of which it tells nothing else.
type identity struct {
	family, model, stepping uint32
	nested                  bool // a hypervisor is below: the numbers may be made up
}

func identify(cpuid CPUID) (i identity) {
	a, _, c, _ := cpuid(1, 0)
	i = identity{family: a >> 8 & 15, model: a >> 4 & 15, stepping: a & 15, nested: c>>31 != 0}
	if i.family == 6 || i.family == 15 {
		i.model |= a >> 12 & 0xf0
	}
	if i.family == 15 {
		i.family += a >> 20 & 0xff
	}
	return i
}

// SmallCode tells whether a guest could stop this processor, Intel's, with a fetch that
// finds a small and a large translation of one address (CVE-2018-12207). One that does
// not say it is safe may not be: most were sold before there was a bit for it.
func SmallCode(cpuid CPUID, rdmsr ReadMSR) bool {
	return ArchCapabilities(cpuid, rdmsr)&capPSChange == 0
}
