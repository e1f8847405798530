package uart

// Ports of a PC's first serial port, and how many a port has.
const (
	COM1  = 0x3f8
	COM2  = 0x2f8
	Ports = 8
)

// Registers (table II).
const (
	regData = 0 // RBR, THR; DLL if DLAB
	regIER  = 1 // DLM if DLAB
	regIIR  = 2 // FCR when written
	regLCR  = 3
	regMCR  = 4
	regLSR  = 5
	regMSR  = 6
	regSCR  = 7
)

// Interrupt enables and identifications, the latter in order of their priority
// (section 8.6).
const (
	ierData    = 1 << 0
	ierTHRE    = 1 << 1
	ierLine    = 1 << 2
	ierModem   = 1 << 3
	ierAll     = 0x0f
	iirLine    = 0x06
	iirData    = 0x04
	iirTimeout = 0x0c
	iirTHRE    = 0x02
	iirModem   = 0x00
	iirNone    = 0x01
	iirFIFO    = 0xc0
)

const (
	fcrEnable  = 1 << 0
	fcrClearRX = 1 << 1
	fcrClearTX = 1 << 2
	fcrKept    = 0xc9 // enable, DMA mode, trigger level
)

const (
	lcrBreak = 1 << 6
	lcrDLAB  = 1 << 7
)

const (
	mcrDTR      = 1 << 0
	mcrRTS      = 1 << 1
	mcrOUT1     = 1 << 2
	mcrOUT2     = 1 << 3 // on a PC: lets the interrupt out
	mcrLoop     = 1 << 4
	mcrWritable = 0x1f
)

const (
	lsrData    = 1 << 0
	lsrOverrun = 1 << 1
	lsrBreak   = 1 << 4
	lsrIdle    = 0x60 // THR and transmitter empty
	lsrErrors  = 0x1e
	lsrLatched = lsrOverrun | lsrBreak // what this model ever sets of them
)

// Modem status: deltas in the lower half, lines in the upper.
const (
	msrTERI  = 1 << 2
	msrCTS   = 1 << 4
	msrDSR   = 1 << 5
	msrRI    = 1 << 6
	msrDCD   = 1 << 7
	msrReady = msrCTS | msrDSR | msrDCD // a terminal that is switched on
)
