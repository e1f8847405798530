package svm

const (
	iopmSize  = 12 << 10 // APM 15.10.1: 64 Kbit, and 3 bits more for accesses that wrap
	msrpmSize = 8 << 10  // APM 15.11
)

// msrPassed are the MSRs that a guest reads and writes by itself. VMLOAD and VMSAVE
// switch them, so they are never the host's.
var msrPassed = []uint32{
	0x174, 0x175, 0x176, // SYSENTER_CS, ESP, EIP
	0xc000_0081, // STAR
	0xc000_0082, // LSTAR
	0xc000_0083, // CSTAR
	0xc000_0084, // SFMASK
	0xc000_0100, // FS.base
	0xc000_0101, // GS.base
	0xc000_0102, // KernelGSBase
}

// msrBit is the place of an MSR's read bit in the permission map; its write bit
// follows (APM 15.11).
func msrBit(msr uint32) (bit uint, ok bool) {
	for i, base := range []uint32{0, 0xc000_0000, 0xc001_0000} {
		if n := msr - base; n < 0x2000 {
			return uint(i)*0x800*8 + uint(n)*2, true
		}
	}
	return 0, false
}

// fillMaps sets every bit but those of msrPassed. The TSC is passed for reading
// only: the hardware adds the guest's offset.
func fillMaps(iopm, msrpm []byte) {
	for i := range iopm {
		iopm[i] = 0xff
	}
	for i := range msrpm {
		msrpm[i] = 0xff
	}
	for _, msr := range msrPassed {
		pass(msrpm, msr, passRead|passWrite)
	}
	pass(msrpm, 0x10, passRead)
}

const (
	passRead  = 1 << 0
	passWrite = 1 << 1
)

// pass lets a guest read or write an MSR without an exit.
func pass(msrpm []byte, msr uint32, bits byte) {
	n, ok := msrBit(msr)
	if !ok {
		panic("svm: an MSR outside the permission map")
	}
	msrpm[n/8] &^= bits << (n % 8)
}
