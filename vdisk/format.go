package vdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Sizes and places of [MS-VHDX] (revision 7.0), section 2.2 unless noted.
const (
	kib = 1 << 10
	mib = 1 << 20
	tib = 1 << 40

	fileIDOffset      = 0
	headerOffset1     = 64 * kib
	headerOffset2     = 128 * kib
	regionOffset1     = 192 * kib
	regionOffset2     = 256 * kib
	headerSectionSize = 1 * mib // sections 2.2.1 to 2.2.3 lie below it

	headerSize      = 4 * kib
	regionTableSize = 64 * kib
	maxRegions      = 2047

	metadataTableSize = 64 * kib
	maxMetadata       = 2047
	maxMetadataItem   = 1 * mib

	logSector  = 4 * kib
	bitmapSize = 1 * mib // one sector bitmap block (2.5.2)

	minBlock   = 1 * mib
	maxBlock   = 256 * mib
	maxDisk    = 64 * tib
	chunkBits  = 1 << 23 // sectors that one sector bitmap block describes (2.5)
	maxLog     = 4<<30 - mib
	maxFileEnd = 1 << 62 // an offset fits int64 with room for sums; the format itself reaches 1<<64
)

// Region and metadata identities (2.2.3.2, 2.6.2).
var (
	regionBAT      = mustGUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
	regionMetadata = mustGUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")

	itemFileParameters = mustGUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
	itemDiskSize       = mustGUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
	itemPage83         = mustGUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
	itemLogicalSector  = mustGUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
	itemPhysicalSector = mustGUID("CDA348C7-445D-4471-9CC9-E9885251C556")
	itemParentLocator  = mustGUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")

	locatorVHDX = mustGUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// checksum is CRC-32C over b with the four bytes at off taken as zero.
func checksum(b []byte, off int) uint32 {
	c := crc32.Update(0, castagnoli, b[:off])
	c = crc32.Update(c, castagnoli, zeroes[:4])
	return crc32.Update(c, castagnoli, b[off+4:])
}

// Errors that callers tell apart. All others are about one file's damage.
var (
	// ErrCorrupt is in every error about a file that breaks the format.
	ErrCorrupt = errors.New("not a valid VHDX")
	// ErrUnsupported is in errors about a file that demands what this
	// implementation does not know.
	ErrUnsupported = errors.New("unsupported VHDX")
	// ErrReadOnly answers writes to an image opened read-only.
	ErrReadOnly = errors.New("the image is open read-only")
	// ErrClosed answers everything after Close.
	ErrClosed = errors.New("the image is closed")
	// ErrCancelled answers requests that were cancelled: they will not touch
	// the medium any more.
	ErrCancelled = errors.New("cancelled")
	// ErrBeyondEnd is in the answer to requests that reach beyond the disk's end,
	// which a resize may have brought nearer.
	ErrBeyondEnd = errors.New("beyond the disk's end")
	// ErrNoSpace is in errors about a backing that can not grow further.
	ErrNoSpace = errors.New("no space left in the backing")
)

// corrupt is an ErrCorrupt that says where and what.
func corrupt(off int64, format string, args ...any) error {
	return fmt.Errorf("%w: offset %#x: %s", ErrCorrupt, off, fmt.Sprintf(format, args...))
}

func unsupported(off int64, format string, args ...any) error {
	return fmt.Errorf("%w: offset %#x: %s", ErrUnsupported, off, fmt.Sprintf(format, args...))
}

func isPow2(n uint64) bool { return n != 0 && n&(n-1) == 0 }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if le.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
