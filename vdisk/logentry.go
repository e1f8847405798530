package vdisk

// Log entries (2.3). An entry is a header sector with descriptors, more
// descriptor sectors, and a data sector for each data descriptor, all of 4 KiB.

const (
	logHeaderSize    = 64
	descSize         = 32
	descInFirst      = (logSector - logHeaderSize) / descSize // 126
	descPerSector    = logSector / descSize                   // 128
	logDataBytes     = 4084                                   // of a page that lie in its data sector
	logEntryMinBytes = logSector
)

// A logWrite is one change of the file: a 4 KiB page, or a range of zeroes.
type logWrite struct {
	Offset int64
	Data   []byte // 4 KiB; nil for zeroes
	Zeroes int64  // how many, a multiple of 4 KiB
}

// A logEntry is an entry's header (2.3.1.1), with its writes.
type logEntry struct {
	Sequence uint64
	Tail     uint32 // offset in the log of the oldest entry still needed
	GUID     GUID
	Flushed  uint64 // the file is at least this long
	Last     uint64 // and should become this long
	Writes   []logWrite
}

// descSectors is how many sectors n descriptors and the header take.
func descSectors(n int) int {
	if n <= descInFirst {
		return 1
	}
	return 1 + (n-descInFirst+descPerSector-1)/descPerSector
}

// size is how many bytes e takes in the log.
func (e *logEntry) size() int64 {
	n := descSectors(len(e.Writes))
	for _, w := range e.Writes {
		if w.Data != nil {
			n++
		}
	}
	return int64(n) * logSector
}

// encode writes e to b, which is size() bytes long.
func (e *logEntry) encode(b []byte) {
	clear(b)
	copy(b, "loge")
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint32(b[12:], e.Tail)
	le.PutUint64(b[16:], e.Sequence)
	le.PutUint32(b[24:], uint32(len(e.Writes)))
	copy(b[32:], e.GUID[:])
	le.PutUint64(b[48:], e.Flushed)
	le.PutUint64(b[56:], e.Last)
	data := b[descSectors(len(e.Writes))*logSector:]
	for i, w := range e.Writes {
		d := b[logHeaderSize+i*descSize:]
		le.PutUint64(d[16:], uint64(w.Offset))
		le.PutUint64(d[24:], e.Sequence)
		if w.Data == nil {
			copy(d, "zero")
			le.PutUint64(d[8:], uint64(w.Zeroes))
			continue
		}
		copy(d, "desc")
		copy(d[4:8], w.Data[logSector-4:]) // TrailingBytes
		copy(d[8:16], w.Data[:8])          // LeadingBytes
		copy(data, "data")
		le.PutUint32(data[4:], uint32(e.Sequence>>32))
		copy(data[8:], w.Data[8:8+logDataBytes])
		le.PutUint32(data[logSector-4:], uint32(e.Sequence))
		data = data[logSector:]
	}
	le.PutUint32(b[4:], checksum(b, 4))
}

// entryLength reads how long an entry at the start of b claims to be, if b begins
// one that a log of this length could hold.
func entryLength(b []byte, logLength int64) (n int64, ok bool) {
	if string(b[:4]) != "loge" {
		return 0, false
	}
	n = int64(le.Uint32(b[8:]))
	return n, n >= logEntryMinBytes && n%logSector == 0 && n <= logLength
}

// noData stands for the data of a write that was not asked for.
var noData = []byte{}

// length is how many bytes w changes.
func (w *logWrite) length() int64 {
	if w.Data != nil {
		return logSector
	}
	return w.Zeroes
}

// decodeLogEntry reads the entry that fills b exactly. It tells only whether there
// is a valid entry (2.3.2): a log is full of old and torn ones. The data of its
// writes is copied only if withData is set. What reaches beyond maxFileEnd is cut
// to about it: the entry is valid, but no replay can carry it out.
func decodeLogEntry(b []byte, guid GUID, withData bool) (e logEntry, ok bool) {
	if n, ok := entryLength(b, int64(len(b))); !ok || n != int64(len(b)) {
		return e, false
	}
	copy(e.GUID[:], b[32:])
	e.Tail, e.Sequence = le.Uint32(b[12:]), le.Uint64(b[16:])
	e.Flushed, e.Last = le.Uint64(b[48:]), le.Uint64(b[56:])
	n := int64(le.Uint32(b[24:]))
	if e.GUID != guid || e.Sequence == 0 || e.Tail%logSector != 0 || le.Uint32(b[28:]) != 0 ||
		e.Flushed%mib != 0 || e.Last%mib != 0 || n > int64(len(b))/descSize ||
		le.Uint32(b[4:]) != checksum(b, 4) {
		return e, false
	}
	ds := descSectors(int(n)) * logSector
	if ds > len(b) {
		return e, false
	}
	data := b[ds:]
	if n > 0 {
		e.Writes = make([]logWrite, 0, n)
	}
	for i := range int(n) {
		d := b[logHeaderSize+i*descSize:]
		off := le.Uint64(d[16:])
		if le.Uint64(d[24:]) != e.Sequence || off%logSector != 0 {
			return e, false
		}
		w := logWrite{Offset: int64(min(off, maxFileEnd))}
		switch string(d[:4]) {
		case "zero":
			z := le.Uint64(d[8:])
			if z%logSector != 0 || le.Uint32(d[4:]) != 0 {
				return e, false
			}
			w.Zeroes = int64(min(z, maxFileEnd-logSector)) // so that no end overflows
		case "desc":
			if len(data) < logSector || string(data[:4]) != "data" ||
				le.Uint32(data[4:]) != uint32(e.Sequence>>32) || le.Uint32(data[logSector-4:]) != uint32(e.Sequence) {
				return e, false
			}
			w.Data = noData
			if withData {
				p := make([]byte, logSector)
				copy(p[:8], d[8:16])
				copy(p[8:], data[8:8+logDataBytes])
				copy(p[logSector-4:], d[4:8])
				w.Data = p
			}
			data = data[logSector:]
		default:
			return e, false
		}
		e.Writes = append(e.Writes, w)
	}
	return e, len(data) == 0
}
