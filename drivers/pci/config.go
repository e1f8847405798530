package pci

// Config is access to configuration space. off is aligned to size, which is 1,
// 2 or 4. Reads of what does not exist return all ones, writes to it are lost.
// It is safe for concurrent use.
type Config interface {
	Read(a Address, off, size int) uint32
	Write(a Address, off, size int, v uint32)
	// Size is how much configuration space functions of a's bus have: 256 or,
	// through the enhanced mechanism, 4096.
	Size(a Address) int
}

const (
	legacySize   = 256
	extendedSize = 4096
)

// Configuration header, PCI 6.1, figure 6-1.
const (
	regVendor     = 0x00
	regDevice     = 0x02
	regCommand    = 0x04
	regStatus     = 0x06
	regRevision   = 0x08 // and the class in the upper three bytes
	regHeaderType = 0x0e
	regBAR0       = 0x10
	regSecondary  = 0x19 // type 1: number of the bus behind the bridge
	regSubVendor  = 0x2c // type 0
	regSubDevice  = 0x2e // type 0
	regCapPointer = 0x34
	regIntLine    = 0x3c
	regIntPin     = 0x3d
)

// Command register, PCI 6.2.2, table 6-1.
const (
	commandIO         = 1 << 0
	commandMemory     = 1 << 1
	commandMaster     = 1 << 2
	commandIntDisable = 1 << 10
)

// Status register, PCI 6.2.3, table 6-2.
const statusCapabilities = 1 << 4

// Header type, PCI 6.2.1.
const (
	headerMulti   = 1 << 7
	headerLayout  = 0x7f
	headerNormal  = 0
	headerBridge  = 1
	headerCardBus = 2
)

const noVendor = 0xffff // PCI 6.1: no function answers there
