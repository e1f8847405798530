package replaymodel

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// What a file can be refused for.
var (
	ErrIdentifier = errors.New("replaymodel: no file type identifier")              // 2.2.1
	ErrHeader     = errors.New("replaymodel: no current header")                    // 2.2.2
	ErrVersion    = errors.New("replaymodel: version not understood")               // 2.2.2
	ErrLogRegion  = errors.New("replaymodel: log misplaced or outside the file")    // 2.2.2
	ErrSequence   = errors.New("replaymodel: no valid log sequence")                // 2.3.3
	ErrTruncated  = errors.New("replaymodel: file shorter than FlushedFileOffset")  // 2.3.3
	ErrTarget     = errors.New("replaymodel: entry writes over the headers or log") // 2.2.1, 2.2.2.1
	ErrSize       = errors.New("replaymodel: replay grows the file past the limit") // the caller's
)

const (
	kib = 1 << 10
	mib = 1 << 20

	sector = 4 * kib // of the log, 2.3

	headerSize = 4 * kib  // 2.2.2
	header1    = 64 * kib // 2.2.2
	header2    = 128 * kib
	headersEnd = 192 * kib // where the region table begins, 2.2.3
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// guid is in its binary form.
type guid [16]byte

// header holds what section 2.2.2 says of a file and replay needs.
type header struct {
	sequence   uint64
	logGUID    guid
	logVersion uint16
	version    uint16
	logLength  uint32 // bytes
	logOffset  uint64 // bytes from the file's start
}

// crc32c is the CRC-32C of b with the four bytes at offset 4, the checksum
// field of every structure here, taken as zero.
func crc32c(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:4])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	return crc32.Update(c, castagnoli, b[8:])
}

// readHeader reads the header at offset at; ok is false when it is not valid.
func readHeader(file []byte, at int) (h header, ok bool) {
	if len(file) < at+headerSize {
		return header{}, false
	}
	b := file[at : at+headerSize]
	if string(b[0:4]) != "head" || le.Uint32(b[4:]) != crc32c(b) {
		return header{}, false
	}
	h.sequence = le.Uint64(b[8:])
	copy(h.logGUID[:], b[48:64])
	h.logVersion = le.Uint16(b[64:])
	h.version = le.Uint16(b[66:])
	h.logLength = le.Uint32(b[68:])
	h.logOffset = le.Uint64(b[72:])
	return h, true
}

// currentHeader chooses between the two headers (2.2.2) and checks the fields
// replay depends on.
func currentHeader(file []byte) (header, error) {
	if len(file) < 8 || string(file[:8]) != "vhdxfile" {
		return header{}, ErrIdentifier
	}
	a, aok := readHeader(file, header1)
	b, bok := readHeader(file, header2)
	var h header
	switch {
	case aok && (!bok || a.sequence > b.sequence):
		h = a
	case bok && (!aok || b.sequence > a.sequence):
		h = b
	default:
		return header{}, ErrHeader
	}
	if h.version != 1 || h.logVersion != 0 && h.logGUID != (guid{}) {
		return header{}, ErrVersion
	}
	if h.logLength%mib != 0 || h.logOffset%mib != 0 || h.logOffset == 0 {
		return header{}, ErrLogRegion
	}
	return h, nil
}
