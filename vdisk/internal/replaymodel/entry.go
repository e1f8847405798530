package replaymodel

const (
	entryHeaderSize = 64
	descriptorSize  = 32
	firstSector     = (sector - entryHeaderSize) / descriptorSize // descriptors: 126
	laterSector     = sector / descriptorSize                     // 128
)

// Write is one descriptor's effect on the file.
type Write struct {
	Offset uint64
	Length uint64
	Data   []byte // Length bytes, or nil for zeros
}

// entry is one valid log entry.
type entry struct {
	length   uint64 // bytes
	tail     uint64 // bytes from the log's start
	sequence uint64
	flushed  uint64 // FlushedFileOffset
	last     uint64 // LastFileOffset
	writes   []Write
}

// descriptorSectors is how many sectors n descriptors take (2.3.1).
func descriptorSectors(n uint64) uint64 {
	if n <= firstSector {
		return 1
	}
	return 1 + (n-firstSector+laterSector-1)/laterSector
}

// ring is length bytes from offset at of the circular log.
func ring(log []byte, at, length uint64) []byte {
	if at+length <= uint64(len(log)) {
		return log[at : at+length]
	}
	b := make([]byte, length)
	n := copy(b, log[at:])
	copy(b[n:], log)
	return b
}

// readEntry evaluates the log entry at offset at of the log: step 3 of 2.3.3
// with the fields of 2.3.1. It returns nil when the entry is not valid.
func readEntry(log []byte, at uint64, want guid) *entry {
	size := uint64(len(log))
	head := ring(log, at, entryHeaderSize)
	if string(head[0:4]) != "loge" {
		return nil
	}
	e := &entry{
		length:   uint64(le.Uint32(head[8:])),
		tail:     uint64(le.Uint32(head[12:])),
		sequence: le.Uint64(head[16:]),
		flushed:  le.Uint64(head[48:]),
		last:     le.Uint64(head[56:]),
	}
	count := uint64(le.Uint32(head[24:]))
	if e.length == 0 || e.length%sector != 0 || e.length > size {
		return nil
	}
	b := ring(log, at, e.length)
	if le.Uint32(b[4:]) != crc32c(b) {
		return nil
	}
	if guid(b[32:48]) != want {
		return nil
	}
	if e.tail%sector != 0 || e.tail >= size ||
		e.sequence == 0 ||
		le.Uint32(b[28:]) != 0 ||
		e.flushed%mib != 0 || e.last%mib != 0 {
		return nil
	}
	dataAt := descriptorSectors(count) * sector
	if dataAt > e.length {
		return nil
	}
	for i := uint64(0); i < count; i++ {
		// Descriptors follow the header without a gap over all their sectors.
		d := b[entryHeaderSize+i*descriptorSize:][:descriptorSize]
		w := Write{Offset: le.Uint64(d[16:])}
		if w.Offset%sector != 0 || le.Uint64(d[24:]) != e.sequence {
			return nil
		}
		switch string(d[0:4]) {
		case "zero": // 2.3.1.2
			w.Length = le.Uint64(d[8:])
			if le.Uint32(d[4:]) != 0 || w.Length%sector != 0 {
				return nil
			}
		case "desc": // 2.3.1.3
			if dataAt+sector > e.length {
				return nil
			}
			s := b[dataAt : dataAt+sector] // 2.3.1.4
			dataAt += sector
			if string(s[0:4]) != "data" ||
				uint64(le.Uint32(s[4:]))<<32|uint64(le.Uint32(s[sector-4:])) != e.sequence {
				return nil
			}
			w.Length = sector
			w.Data = make([]byte, 0, sector)
			w.Data = append(w.Data, d[8:16]...)       // LeadingBytes
			w.Data = append(w.Data, s[8:sector-4]...) // Data
			w.Data = append(w.Data, d[4:8]...)        // TrailingBytes
		default:
			return nil
		}
		e.writes = append(e.writes, w)
	}
	if dataAt != e.length {
		return nil // more data sectors than data descriptors
	}
	return e
}
