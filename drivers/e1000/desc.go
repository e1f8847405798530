package e1000

import (
	"sync/atomic"
	"unsafe"
)

// rxDesc is a receive descriptor, 8254x 3.2.3.
type rxDesc struct {
	address uint64 // +0
	length  uint16 // +8
	sum     uint16 // +10: packet checksum; not used
	status  uint32 // +12: status, errors, special
}

// txDesc is a transmit descriptor of any of the three kinds, 8254x 3.3.3, 3.3.6
// and 3.3.7.
type txDesc struct {
	lo      uint64 // +0: buffer address, or checksum positions
	command uint32 // +8
	status  uint32 // +12
}

const (
	descSize = 16
	// Compile-time proof of the layouts.
	_ = -uint(unsafe.Sizeof(rxDesc{}) ^ descSize)
	_ = -uint(unsafe.Sizeof(txDesc{}) ^ descSize)
	_ = -uint(unsafe.Offsetof(rxDesc{}.length) ^ 8)
	_ = -uint(unsafe.Offsetof(rxDesc{}.status) ^ 12)
	_ = -uint(unsafe.Offsetof(txDesc{}.command) ^ 8)
	_ = -uint(unsafe.Offsetof(txDesc{}.status) ^ 12)
)

// Receive status, 8254x 3.2.3.1 and errors, 3.2.3.2, as they lie in rxDesc.status.
const (
	rxDone     = 1 << 0
	rxEnd      = 1 << 1 // last descriptor of a frame
	rxIgnore   = 1 << 2 // no checksum was looked at
	rxTCPSum   = 1 << 5
	rxIPSum    = 1 << 6
	rxTCPError = 1 << 13
	rxIPError  = 1 << 14
	// CRC or alignment, symbol, sequence, carrier extension, data error.
	rxErrors = 1<<8 | 1<<9 | 1<<10 | 1<<12 | 1<<15
)

// Transmit command: bits of txDesc.command. Legacy 8254x 3.3.3.1, context
// 3.3.6.1, data 3.3.7.1.
const (
	txEnd     = 1 << 24 // EOP; last descriptor of a frame
	txFCS     = 1 << 25 // IFCS; add the check sequence
	txSegment = 1 << 26 // TSE
	txReport  = 1 << 27 // RS
	txExtend  = 1 << 29 // DEXT; not a legacy descriptor
	txData    = 1 << 20 // DTYP of a data descriptor; 0 is a context

	txContextTCP  = 1 << 24
	txContextIPv4 = 1 << 25

	// Options of the first data descriptor, in txDesc.status; 8254x 3.3.7.3.
	txSumIP  = 1 << 8
	txSumTCP = 1 << 9

	txDone = 1 << 0 // in txDesc.status; 8254x 3.3.3.2

	// The most one descriptor carries. The field is wider; 8254x 3.3.3 limits a
	// legacy descriptor to 16,288 bytes, and pages are what memory comes in.
	txMaxLength = 4096
	// 8254x 3.3.6: the payload of a segmentation has 20 bits.
	txMaxPayload = 1<<20 - 1
)

// load reads the word of a descriptor that the device writes. What it reads
// before it says "done" must not be reordered after.
func load(p *uint32) uint32 { return atomic.LoadUint32(p) }
