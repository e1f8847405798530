package boot

// What the stub turns on. SDM vol. 3: CR0 and CR4 in 2.5, IA32_EFER in 2.2.1, the order of steps in 9.8.5.
const (
	cr0ProtectedMode    = 1 << 0
	cr0MonitorCoproc    = 1 << 1
	cr0NumericError     = 1 << 5
	cr0Paging           = 1 << 31
	cr4PAE              = 1 << 5
	cr4OSFXSR           = 1 << 9
	cr4OSXMMEXCPT       = 1 << 10
	msrEFER             = 0xc0000080
	eferSyscall         = 1 << 0
	eferLongMode        = 1 << 8
	cpuidExtendedMax    = 0x80000000
	cpuidExtended       = 0x80000001
	cpuidEDXLongMode    = 1 << 29
	com1                = 0x3f8
	com1LineControl     = com1 + 3 // 16550 datasheet: LCR
	com1LineStatus      = com1 + 5 // LSR
	lineControl8N1      = 0x03
	lineStatusEmpty     = 0x20    // transmitter holding register empty
	transmitterPatience = 1 << 16 // polls before a character is given up: the port may not exist
)

// stub is the assembled code with its two entries.
type stub struct {
	code           []byte
	multibootEntry uint32
	pvhEntry       uint32
}

// assembleStub returns the code that takes a loader's 32-bit protected mode (flat segments, paging off: MB 3.2, PVH
// "x86 boot: entry state") to the 64-bit program at entry. It uses no stack.
func assembleStub(entry uint32) (stub, error) {
	a := &assembler{origin: stubAddress, labels: map[string]uint32{}}

	a.label("multiboot")
	a.cli()
	a.mov(esi, eax)
	a.cmpImm(esi, MultibootMagic)
	a.jz("start")
	a.movLabel(esi, "no loader")
	a.jmp("die")

	// die prints the string at ESI on the first serial port, as its speed was left, and stops.
	a.label("die")
	a.cld()
	a.movImm(edx, com1LineControl)
	a.movImm(eax, lineControl8N1)
	a.outAL()
	a.label("next")
	a.lodsb()
	a.testAL()
	a.jz("stop")
	a.movToAH()
	a.movImm(ecx, transmitterPatience)
	a.movImm(edx, com1LineStatus)
	a.label("wait")
	a.inAL()
	a.testBitAL(lineStatusEmpty)
	a.loopz("wait")
	a.movFromAH()
	a.movImm(edx, com1)
	a.outAL()
	a.jmp("next")
	a.label("stop")
	a.hlt()
	a.jmp("stop")

	a.label("pvh")
	a.cli()
	a.movImm(esi, PVHMagic)

	a.label("start")
	a.cld()
	a.mov(edi, ebx) // CPUID clobbers EBX
	a.rdtsc()
	a.store(TSCAddress, eax)
	a.store(TSCAddress+4, edx)

	a.movImm(eax, cpuidExtendedMax)
	a.cpuid()
	a.cmpImm(eax, cpuidExtended)
	a.jb("no long mode")
	a.movImm(eax, cpuidExtended)
	a.cpuid()
	a.testImm(edx, cpuidEDXLongMode)
	a.jnz("go long")
	a.label("no long mode")
	a.movLabel(esi, "32 bits only")
	a.jmp("die")

	a.label("go long")
	a.movImm(eax, cr4PAE|cr4OSFXSR|cr4OSXMMEXCPT)
	a.movToCR(4, eax)
	a.movImm(eax, PML4Address)
	a.movToCR(3, eax)
	a.movImm(ecx, msrEFER)
	a.rdmsr()
	a.orImm(eax, eferLongMode|eferSyscall)
	a.wrmsr()
	a.movImm(eax, cr0Paging|cr0NumericError|cr0MonitorCoproc|cr0ProtectedMode)
	a.movToCR(0, eax)
	a.lgdt(gdtrAddress)
	a.farJump(SelectorCode64, "long")

	a.label("long") // 64-bit code from here to the jump; these encodings mean the same in both modes
	a.movImm(eax, SelectorData)
	a.movToSeg(segDS, eax)
	a.movToSeg(segES, eax)
	a.movToSeg(segSS, eax)
	a.xor(eax, eax)
	a.movToSeg(segFS, eax)
	a.movToSeg(segGS, eax)
	a.mov(edi, edi) // the upper halves are undefined after the mode switch (SDM vol. 1, 3.4.1.1): clear them
	a.mov(esi, esi)
	a.movImm(eax, entry)
	a.jmpReg(eax)

	a.label("no loader")
	a.text("godwit: boot: started by something that is not a Multiboot loader; use GRUB's multiboot or iPXE's kernel\r\n\x00")
	a.label("32 bits only")
	a.text("godwit: boot: this processor has no 64-bit mode; godwit needs one\r\n\x00")

	code, err := a.finish()
	return stub{code, a.labels["multiboot"], a.labels["pvh"]}, err
}

// The stub fits between the Multiboot header and the page tables with room to spare; Link checks the exact size.
const _ = uint(stubEnd - stubAddress - 1024)
