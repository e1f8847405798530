package kernel

import "unsafe"

// Control register bits (SDM vol. 3, 2.5).
const (
	cr0PE = 1 << 0
	cr0MP = 1 << 1
	cr0EM = 1 << 2
	cr0TS = 1 << 3
	cr0ET = 1 << 4
	cr0NE = 1 << 5
	cr0WP = 1 << 16
	cr0NW = 1 << 29
	cr0CD = 1 << 30
	cr0PG = 1 << 31

	cr4DE         = 1 << 3
	cr4PAE        = 1 << 5
	cr4MCE        = 1 << 6
	cr4PGE        = 1 << 7
	cr4OSFXSR     = 1 << 9
	cr4OSXMMEXCPT = 1 << 10
	cr4FSGSBASE   = 1 << 16
	cr4OSXSAVE    = 1 << 18
)

// Model-specific registers (SDM vol. 4).
const (
	msrAPICBase    = 0x1B
	msrPAT         = 0x277
	msrTSCDeadline = 0x6E0
	msrX2APIC      = 0x800 // first register of the x2APIC range
	msrEFER        = 0xC0000080
	msrSTAR        = 0xC0000081
	msrLSTAR       = 0xC0000082
	msrSFMASK      = 0xC0000084
	msrFSBase      = 0xC0000100
	msrGSBase      = 0xC0000101

	eferSCE = 1 << 0
	eferLME = 1 << 8
	eferLMA = 1 << 10
	eferNXE = 1 << 11
)

// RFLAGS bits (SDM vol. 1, 3.4.3).
const (
	flagTF = 1 << 8
	flagIF = 1 << 9
	flagDF = 1 << 10
	flagNT = 1 << 14
	flagAC = 1 << 18
)

func readCR0() uint64
func readCR2() uint64
func readCR3() uint64
func readCR4() uint64
func writeCR0(v uint64)
func writeCR3(v uint64)
func writeCR4(v uint64)
func xsetbv0(v uint64)
func xsave(area uintptr)

//go:noescape
func lgdt(p *descriptorPointer)

//go:noescape
func lidt(p *descriptorPointer)
func ltr(selector uint16)
func reloadSegments()
func invlpg(addr uintptr)
func rdrand() (v uint64, ok bool)
func rdseed() (v uint64, ok bool)
func this() *cpu
func framePointer() uintptr
func pause()
func haltOnce()
func pollOnce()
func haltForever()
func load32(addr uintptr) uint32
func store32(addr uintptr, v uint32)
func fence()

// ReadMSRSafe reads a model-specific register that may not exist.
func ReadMSRSafe(msr uint32) (v uint64, ok bool)

// WriteMSRSafe writes a model-specific register that may not exist or may refuse v.
func WriteMSRSafe(msr uint32, v uint64) (ok bool)

func rdmsrInsn()
func wrmsrInsn()
func msrFault()
func syscallEntry()
func syscallReturn()
func newThreadReturn()
func idleEntry()
func apEntry()
func trapCommon()
func trapAnywhere()
func vectors()

func enterRuntime(sp uintptr)

//go:noescape
func switchStack(from *uintptr, to uintptr)

func addrSyscallEntry() uintptr
func addrNewThreadReturn() uintptr
func addrIdleEntry() uintptr
func addrAPEntry() uintptr
func addrVectors() uintptr
func addrRdmsrInsn() uintptr
func addrWrmsrInsn() uintptr
func addrMSRFault() uintptr
func addrHalt() uintptr
func pclnTable() uintptr
func imageText() uintptr
func imageEtext() uintptr
func imageRodata() uintptr
func imageData() uintptr
func imageEnd() uintptr

// ptr makes a pointer of an address of memory that the Go runtime does not own.
func ptr(a uintptr) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), a) }

func ld8(a uintptr) uint8      { return *(*uint8)(ptr(a)) }
func ld32(a uintptr) uint32    { return *(*uint32)(ptr(a)) }
func ld64(a uintptr) uint64    { return *(*uint64)(ptr(a)) }
func st8(a uintptr, v uint8)   { *(*uint8)(ptr(a)) = v }
func st32(a uintptr, v uint32) { *(*uint32)(ptr(a)) = v }
func st64(a uintptr, v uint64) { *(*uint64)(ptr(a)) = v }

func bytesAt(a uintptr, n uintptr) []byte { return unsafe.Slice((*byte)(ptr(a)), n) }
