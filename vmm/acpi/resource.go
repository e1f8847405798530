package acpi

import "encoding/binary"

// Resource descriptors (ACPI 6.4, section 6.4). A template is a buffer of them.

func template(rs ...AML) AML {
	// The end tag's checksum is zero: "not computed" (section 6.4.2.9).
	return buffer(append(cat(rs...), 0x79, 0))
}

// ioPorts is a fixed range of ports decoded with 16 bits (section 6.4.2.5).
func ioPorts(base uint16, n uint8) AML {
	return AML{0x47, 1, byte(base), byte(base >> 8), byte(base), byte(base >> 8), 1, n}
}

// irq is an edge-triggered, active-high ISA interrupt (section 6.4.2.1).
func irq(n int) AML { return binary.LittleEndian.AppendUint16(AML{0x22}, 1<<n) }

// Address space types and flags (section 6.4.3.5).
const (
	spaceMemory = 0
	spaceIO     = 1
	spaceBus    = 2

	fixedMinMax   = 0x0c // producer, positive decode, minimum and maximum fixed
	ioEntire      = 0x03
	memReadWrite  = 0x01
	memPrefetched = 0x06
)

// wordSpace is a 16-bit address space descriptor.
func wordSpace(kind, flags byte, first, last uint16) AML {
	b := AML{0x88, 13, 0, kind, fixedMinMax, flags}
	for _, v := range []uint16{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

// memory32 and memory64 are windows of memory.
func memory32(first, last uint32) AML {
	b := AML{0x87, 23, 0, spaceMemory, fixedMinMax, memReadWrite}
	for _, v := range []uint32{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func memory64(first, last uint64) AML {
	b := AML{0x8a, 43, 0, spaceMemory, fixedMinMax, memReadWrite | memPrefetched}
	for _, v := range []uint64{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// fixedMemory is memory that a device occupies (section 6.4.3.4).
func fixedMemory(base, size uint32) AML {
	b := AML{0x86, 9, 0, memReadWrite}
	b = binary.LittleEndian.AppendUint32(b, base)
	return binary.LittleEndian.AppendUint32(b, size)
}
