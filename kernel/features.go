package kernel

// What the CPUs offer; all are taken to be alike.
var (
	haveXSAVE    bool
	haveFSGSBASE bool
	haveRDRAND   bool
	haveRDSEED   bool
	xcr0         uint64 = 3
	xsaveSize    uint64 = 512 // of the area that holds the vector state
	// An NMI or machine check can come between loading a guest's vector state and
	// entering it, with the guest's XCR0: what is saved then is all that the host or
	// a guest may have.
	xcr0Most  uint64 = 3
	xsaveMost uint64 = 512
)

// Components of the extended state (SDM vol. 1, 13.1) that a Go program may use.
const (
	xcr0SSE = 3
	xcr0AVX = 1 << 2

	xcr0AVX512 = 7 << 5
	xcr0PKRU   = 1 << 9
)

// findFeatures reads CPUID, and stops on a CPU that lacks what cannot be done
// without.
func findFeatures() {
	top, _, _, _ := CPUID(0, 0)
	_, _, c1, d1 := CPUID(1, 0)
	var b7 uint32
	if top >= 7 {
		_, b7, _, _ = CPUID(7, 0)
	}
	_, _, _, ext := CPUID(0x80000001, 0)
	if d1>>9&1 == 0 {
		fatal("this CPU has no local APIC")
	}
	if ext>>20&1 == 0 {
		fatal("this CPU has no execute-disable (NX), or firmware has it switched off: Execute Disable Bit, XD or No-Execute in its setup")
	}
	haveXSAVE = c1>>26&1 != 0
	x2apic = c1>>21&1 != 0
	tscTimer = c1>>24&1 != 0
	haveRDRAND = c1>>30&1 != 0
	haveFSGSBASE = b7&1 != 0
	haveRDSEED = b7>>18&1 != 0
	if haveXSAVE {
		lo, _, _, hi := CPUID(0xd, 0)
		offered := uint64(hi)<<32 | uint64(lo)
		xcr0 = xcr0SSE
		if offered&xcr0AVX != 0 {
			xcr0 |= xcr0AVX
		}
		// AVX-512 stays off in the host: every trap would save 1.8 KiB more, and
		// Bochs 2.7 executes some of what Go's garbage collector then uses wrongly
		// (icelake_u and tigerlake: live objects are freed). Guests may have it.
		writeCR4(readCR4() | cr4OSXSAVE)
		xcr0Most = mostXCR0(offered)
		xsetbv0(xcr0Most)
		_, most, _, _ := CPUID(0xd, 0)
		xsaveMost = uint64(most)
		xsetbv0(xcr0)
		_, size, _, _ := CPUID(0xd, 0) // for what XCR0 enables now
		xsaveSize = uint64(size)
	}
	if haveFSGSBASE {
		writeCR4(readCR4() | cr4FSGSBASE)
	}
}

// mostXCR0 is what the host or a guest may enable, of what the processor offers.
func mostXCR0(offered uint64) uint64 {
	x := offered & (xcr0SSE | xcr0AVX | xcr0AVX512 | xcr0PKRU)
	if x&xcr0AVX512 != xcr0AVX512 || x&xcr0AVX == 0 { // all or none (SDM vol. 1, 13.3)
		x &^= xcr0AVX512
	}
	return x | xcr0SSE
}
