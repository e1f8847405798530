package vdisk

import "unicode/utf16"

// header is [MS-VHDX] section 2.2.2.
type header struct {
	Sequence      uint64 //  8
	FileWriteGUID GUID   // 16
	DataWriteGUID GUID   // 32
	LogGUID       GUID   // 48
	LogLength     uint32 // 68
	LogOffset     uint64 // 72
}

func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, "head")
	le.PutUint64(b[8:], h.Sequence)
	copy(b[16:], h.FileWriteGUID[:])
	copy(b[32:], h.DataWriteGUID[:])
	copy(b[48:], h.LogGUID[:])
	le.PutUint16(b[64:], 0) // LogVersion
	le.PutUint16(b[66:], 1) // Version
	le.PutUint32(b[68:], h.LogLength)
	le.PutUint64(b[72:], h.LogOffset)
	le.PutUint32(b[4:], checksum(b, 4))
	return b
}

// decodeHeader tells whether b is a header whose signature and checksum hold.
func decodeHeader(b []byte) (h header, version, logVersion uint16, ok bool) {
	if len(b) < headerSize || string(b[:4]) != "head" || le.Uint32(b[4:]) != checksum(b[:headerSize], 4) {
		return h, 0, 0, false
	}
	h.Sequence = le.Uint64(b[8:])
	copy(h.FileWriteGUID[:], b[16:])
	copy(h.DataWriteGUID[:], b[32:])
	copy(h.LogGUID[:], b[48:])
	h.LogLength = le.Uint32(b[68:])
	h.LogOffset = le.Uint64(b[72:])
	return h, le.Uint16(b[66:]), le.Uint16(b[64:]), true
}

// currentHeader picks the header in force of the two copies (2.2.2): the only
// valid one, or the one with the greater sequence number. which is 0 or 1.
func currentHeader(b1, b2 []byte) (h header, which int, err error) {
	h1, v1, l1, ok1 := decodeHeader(b1)
	h2, v2, l2, ok2 := decodeHeader(b2)
	var v, l uint16
	switch {
	case !ok1 && !ok2:
		return h, 0, ErrHeaders.at(headerOffset1, "neither header is valid")
	case ok1 && (!ok2 || h1.Sequence > h2.Sequence):
		h, v, l, which = h1, v1, l1, 0
	case ok2 && (!ok1 || h2.Sequence > h1.Sequence):
		h, v, l, which = h2, v2, l2, 1
	case string(b1[:headerSize]) == string(b2[:headerSize]):
		h, v, l, which = h1, v1, l1, 0
	default:
		return h, 0, ErrHeaders.at(headerOffset1, "two different headers with the same sequence number %d", h1.Sequence)
	}
	off := int64(headerOffset1)
	if which == 1 {
		off = headerOffset2
	}
	switch {
	case v != 1:
		return h, which, ErrVersion.unsupported(off+66, "format version %d", v)
	case l != 0 && !h.LogGUID.IsZero():
		return h, which, ErrVersion.unsupported(off+64, "log version %d", l)
	case h.LogLength%mib != 0 || h.LogOffset%mib != 0:
		return h, which, ErrLogPlace.at(off+68, "the log (%#x+%#x) is not aligned to 1 MiB", h.LogOffset, h.LogLength)
	case h.LogLength == 0 && !h.LogGUID.IsZero():
		return h, which, ErrLogPlace.at(off+68, "a log is in use but has no length")
	case h.LogLength != 0 && (h.LogOffset < headerSectionSize || h.LogOffset > maxFileEnd-uint64(h.LogLength)):
		return h, which, ErrLogPlace.at(off+72, "the log (%#x+%#x) lies outside the file's data", h.LogOffset, h.LogLength)
	}
	return h, which, nil
}

// logWithin tells whether there is a log, and all of it lies in a file of that size.
// currentHeader has seen to it that the sum does not overflow.
func (h *header) logWithin(size int64) bool {
	return h.LogLength != 0 && h.LogOffset+uint64(h.LogLength) <= uint64(roundUp(size, mib))
}

// headerAt is where the header in force lies.
func (im *Image) headerAt() int64 { return []int64{headerOffset1, headerOffset2}[im.which] }

// encodeFileID is the file type identifier (2.2.1).
func encodeFileID(creator string) []byte {
	b := make([]byte, 64*kib)
	copy(b, "vhdxfile")
	for i, c := range utf16.Encode([]rune(creator)) {
		if i == 255 {
			break // the last of the 256 characters stays NUL
		}
		le.PutUint16(b[8+2*i:], c)
	}
	return b
}

// creator reads back what encodeFileID wrote; it is for people only.
func creator(b []byte) string {
	var u []uint16
	for i := 8; i+1 < 520 && i+1 < len(b); i += 2 {
		c := le.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
