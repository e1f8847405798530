package pci

// Configuration space registers of a type 0 header (PCI Local Bus Specification
// 3.0, figure 6-1).
const (
	regVendor       = 0x00
	regDevice       = 0x02
	regCommand      = 0x04
	regStatus       = 0x06
	regRevision     = 0x08
	regClass        = 0x09
	regHeaderType   = 0x0e
	regBAR          = 0x10
	regSubVendor    = 0x2c
	regSubsystem    = 0x2e
	regCapabilities = 0x34
	regLine         = 0x3c
	regPin          = 0x3d
	firstCapability = 0x40

	noLine = 0xff // in regLine (section 6.2.4): the 8259s do not see the pin
)

// Command register (table 6-1).
const (
	cmdIO          = 1 << 0
	cmdMemory      = 1 << 1
	cmdMaster      = 1 << 2
	cmdParity      = 1 << 6
	cmdSERR        = 1 << 8
	cmdINTxDisable = 1 << 10
	cmdWritable    = cmdIO | cmdMemory | cmdMaster | cmdParity | cmdSERR | cmdINTxDisable
)

// Status register (table 6-2).
const (
	statusINTx         = 1 << 3
	statusCapabilities = 1 << 4
)

// Capability IDs (PCI Code and ID Assignment Specification, section 2).
const (
	CapMSI    = 0x05
	CapVendor = 0x09
	CapMSIX   = 0x11
)

// BAR bits (section 6.2.5.1).
const (
	barIO       = 1 << 0
	bar64       = 2 << 1
	barPrefetch = 1 << 3
)
