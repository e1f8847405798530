package replaymodel

// Header is one of the two headers (2.2.2), for making files to replay.
type Header struct {
	Sequence   uint64
	FileGUID   [16]byte
	DataGUID   [16]byte
	LogGUID    [16]byte
	LogVersion uint16
	Version    uint16
	LogLength  uint32 // bytes
	LogOffset  uint64 // bytes
}

// Offsets in the file of the two headers.
const (
	Header1 = header1
	Header2 = header2
)

// Encode returns the 4 KiB structure with its checksum.
func (h Header) Encode() []byte {
	b := make([]byte, headerSize)
	copy(b, "head")
	le.PutUint64(b[8:], h.Sequence)
	copy(b[16:], h.FileGUID[:])
	copy(b[32:], h.DataGUID[:])
	copy(b[48:], h.LogGUID[:])
	le.PutUint16(b[64:], h.LogVersion)
	le.PutUint16(b[66:], h.Version)
	le.PutUint32(b[68:], h.LogLength)
	le.PutUint64(b[72:], h.LogOffset)
	return Seal(b)
}

// Entry is a log entry to encode (2.3.1). Each Write with Data is a data
// descriptor of 4 KiB, one without a zero descriptor of Length bytes.
type Entry struct {
	LogGUID  [16]byte
	Tail     uint32
	Sequence uint64
	Flushed  uint64
	Last     uint64
	Writes   []Write
}

// Encode returns the entry's sectors with its checksum. No field is checked:
// wrong ones make wrong entries.
func (e Entry) Encode() []byte {
	n := uint64(len(e.Writes))
	size := descriptorSectors(n) * sector
	at := size
	for _, w := range e.Writes {
		if w.Data != nil {
			size += sector
		}
	}
	b := make([]byte, size)
	copy(b, "loge")
	le.PutUint32(b[12:], e.Tail)
	le.PutUint64(b[16:], e.Sequence)
	le.PutUint32(b[24:], uint32(n))
	copy(b[32:], e.LogGUID[:])
	le.PutUint64(b[48:], e.Flushed)
	le.PutUint64(b[56:], e.Last)
	for i, w := range e.Writes {
		d := b[entryHeaderSize+i*descriptorSize:][:descriptorSize]
		le.PutUint64(d[16:], w.Offset)
		le.PutUint64(d[24:], e.Sequence)
		if w.Data == nil {
			copy(d, "zero")
			le.PutUint64(d[8:], w.Length)
			continue
		}
		copy(d, "desc")
		copy(d[4:], w.Data[sector-4:sector])
		copy(d[8:], w.Data[:8])
		s := b[at : at+sector]
		at += sector
		copy(s, "data")
		le.PutUint32(s[4:], uint32(e.Sequence>>32))
		copy(s[8:], w.Data[8:sector-4])
		le.PutUint32(s[sector-4:], uint32(e.Sequence))
	}
	le.PutUint32(b[8:], uint32(len(b)))
	return Seal(b)
}

// Seal writes the checksum of a header or a whole log entry into b, and returns
// b: for bytes that were changed after they were encoded.
func Seal(b []byte) []byte {
	le.PutUint32(b[4:], crc32c(b))
	return b
}
