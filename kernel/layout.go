package kernel

// The address space. It is one and the same on every CPU.
//
//	0000_0000_0000_0000  nothing: nil pointers fault
//	0000_0000_0011_1000  the image, where the linker put it, physical = virtual
//	0000_0000_fec0_0000  IOAPICs and local APIC, physical = virtual, uncached
//	0000_0001_0000_0000  the Go runtime's mappings, 4 KiB pages on demand
//	ffff_8000_0000_0000  direct map: all RAM at physical + this, 2 MiB or 1 GiB pages
//	ffff_c000_0000_0000  device registers, uncached
//	ffff_d000_0000_0000  threads: a 64 KiB slot each
//	ffff_d100_0000_0000  CPUs: a 128 KiB slot each
const (
	userStart = 1 << 32
	userEnd   = 1<<47 - 1<<12
	mmapStart = 0x7000_0000_0000 // where mappings without a hint go

	directMap   = 0xffff_8000_0000_0000
	directLimit = 1 << 45 // RAM above 32 TiB is left alone
	mmioStart   = 0xffff_c000_0000_0000
	mmioEnd     = 0xffff_c080_0000_0000
	threadStart = 0xffff_d000_0000_0000
	cpuStart    = 0xffff_d100_0000_0000
)

// A thread's slot: an unmapped guard below the kernel stack, the thread structure
// above it.
const (
	threadSlotSize = 64 << 10
	threadStack    = 28 << 10 // offset of the stack's lowest byte
	threadTop      = 60 << 10 // of its top, and of the thread structure
)

// A CPU's slot: the cpu structure, then a stack for each kind of event that must
// not rely on the current one, each above an unmapped page.
const (
	cpuSlotSize = 128 << 10

	cpuStructEnd  = 0x4000
	trapStackLow  = 0x6000
	trapStackTop  = 0xe000
	nmiStackLow   = 0xf000
	nmiStackTop   = 0x13000
	faultStackLow = 0x14000
	faultStackTop = 0x18000
	mceStackLow   = 0x19000
	mceStackTop   = 0x1d000
)

func threadSlot(id uint32) uintptr { return threadStart + uintptr(id)*threadSlotSize }

func cpuSlot(i uint64) uintptr { return cpuStart + uintptr(i)*cpuSlotSize }

// direct is where a physical address is mapped.
func direct(phys uint64) uintptr { return directMap + uintptr(phys) }
