package vdisk

import (
	"math/rand/v2"

	"godwit/vdisk/internal/replaymodel"
)

// Random files with a log in use: written as a writer would write them, over and
// over around the ring, and then damaged in one of many ways. They are encoded by
// the model's encoder, not this package's.

// choices decides what a random file is like: n answers 0 to k-1.
type choices interface{ n(k int) int }

type seeded struct{ *rand.Rand }

func (s seeded) n(k int) int { return s.IntN(k) }

// scripted takes its choices from the bytes of a fuzzer; when they are used up,
// every answer is 0.
type scripted struct{ b []byte }

func (s *scripted) n(k int) int {
	v := 0
	for i := 1; i < k; i <<= 8 {
		v <<= 8
		if len(s.b) > 0 {
			v |= int(s.b[0])
			s.b = s.b[1:]
		}
	}
	return v % k
}

// Sizes of random files: the log is at 1 MiB.
const (
	rlLogOffset = 1 * mib
	rlLogMax    = 2 * mib
	rlFileMax   = 6 * mib
	rlLimit     = 64 * mib // nothing the generator means to work reaches beyond
)

// A randomLog is one file, in a buffer that is used again for the next.
type randomLog struct {
	c      choices
	buf    []byte // rlFileMax, zero but for what touched names
	file   []byte // buf, as long as the file is
	length int    // of the log
	guid   [16]byte
	other  [16]byte // of an earlier session

	at, seq  int // where the next entry goes, and its number less base
	base     uint64
	starts   []int // of the entries of this session
	touched  [][2]int
	pages    [][]byte       // of data, to use again
	used     int            // of pages
	features map[string]int // how often each kind of damage was made, over all files
}

func newRandomLog() *randomLog {
	return &randomLog{buf: make([]byte, rlFileMax), features: map[string]int{}}
}

func (l *randomLog) write(b []byte, off int) {
	n := copy(l.buf[off:], b)
	l.touched = append(l.touched, [2]int{off, n})
}

func (l *randomLog) chance(one int) bool { return l.c.n(one) == one-1 }

// feature decides whether a kind of damage is made, once in so many, and counts it.
func (l *randomLog) feature(one int, name string) bool {
	if !l.chance(one) {
		return false
	}
	l.features[name]++
	return true
}

// put lays bytes into the ring.
func (l *randomLog) put(b []byte, at int) {
	n := min(len(b), l.length-at)
	l.write(b[:n], rlLogOffset+at)
	if n < len(b) {
		l.features["wrapped"]++
		l.write(b[n:], rlLogOffset)
	}
}

func (l *randomLog) ring(at, n int) []byte {
	b := make([]byte, n)
	k := copy(b, l.buf[rlLogOffset+at:rlLogOffset+l.length])
	copy(b[k:], l.buf[rlLogOffset:rlLogOffset+l.length])
	return b
}

func (l *randomLog) sectors() int { return l.length / logSector }

// forget makes the buffer zero again.
func (l *randomLog) forget() {
	for _, t := range l.touched {
		clear(l.buf[t[0] : t[0]+t[1]])
	}
	l.touched, l.used = l.touched[:0], 0
}

// plain builds a file of 4 MiB with good headers and an empty log of 1 MiB in use.
func (l *randomLog) plain() {
	l.forget()
	l.length, l.guid, l.file = mib, [16]byte{1}, l.buf[:4*mib]
	h := replaymodel.Header{
		Sequence: 8, FileGUID: [16]byte{3}, DataGUID: [16]byte{4},
		LogGUID: l.guid, Version: 1, LogLength: mib, LogOffset: rlLogOffset,
	}
	l.write([]byte("vhdxfile"), 0)
	l.write(h.Encode(), headerOffset1)
	h.Sequence--
	l.write(h.Encode(), headerOffset2)
}

// make builds a new file, good until the next call.
func (l *randomLog) make(c choices) {
	l.forget()
	l.c, l.starts, l.seq = c, nil, 0
	l.length = mib
	if l.feature(16, "longer log") {
		l.length = rlLogMax
	}
	l.guid, l.other = [16]byte{1, 15: byte(c.n(256))}, [16]byte{2}
	size := 4*mib + c.n(2)*mib
	if l.feature(16, "size within a MiB") {
		size += 512 * c.n(2048)
	}
	l.file = l.buf[:size]
	l.write([]byte("vhdxfile"), 0)
	l.headers()
	// Something to write over.
	for range 4 {
		b := make([]byte, logSector)
		for i := range b {
			b[i] = byte(0x80 + len(l.touched))
		}
		l.write(b, 3*mib+c.n(16)*logSector)
	}
	switch c.n(8) {
	case 0:
		l.base = 1<<32 - 4 // both halves of the sequence number change
	case 1:
		l.base = ^uint64(0) - uint64(c.n(6))
		l.features["last sequence numbers"]++
	case 2:
		l.base = uint64(c.n(2))
	default:
		l.base = uint64(c.n(1 << 40))
	}
	l.at = c.n(l.sectors()) * logSector
	if l.chance(4) {
		l.at = l.length - (1+c.n(8))*logSector
	}
	if l.feature(8, "stale session") {
		l.session(l.other, 1+c.n(6), false)
		l.at, l.seq, l.starts = c.n(l.sectors())*logSector, c.n(4), nil
	}
	n := 1 + c.n(10)
	if l.feature(100, "many times around") {
		n = 40 + c.n(40)
	}
	l.session(l.guid, n, true)
	l.damage()
}

// headers writes two, of which one is in force, or not.
func (l *randomLog) headers() {
	h := replaymodel.Header{
		Sequence: uint64(1 + l.c.n(100)), FileGUID: [16]byte{3}, DataGUID: [16]byte{4},
		LogGUID: l.guid, Version: 1, LogLength: uint32(l.length), LogOffset: rlLogOffset,
	}
	old := h
	old.Sequence--
	old.LogGUID = [16]byte{}
	current, stale := replaymodel.Header1, replaymodel.Header2
	if l.chance(2) {
		current, stale = stale, current
	}
	hb, ob := h.Encode(), old.Encode()
	switch {
	case l.feature(30, "other header torn"):
		ob[512*l.c.n(8)+100]++
	case l.feature(100, "header torn"):
		hb[512*l.c.n(8)+100]++ // the other is in force: nothing to replay
	case l.feature(100, "no header"):
		hb[9]++
		ob[9]++
	case l.feature(100, "headers of the same number"):
		old.Sequence++
		ob = old.Encode()
	case l.feature(100, "log version"):
		h.LogVersion = 1
		hb = h.Encode()
	case l.feature(100, "version"):
		h.Version = 2
		hb = h.Encode()
	case l.feature(100, "log within a MiB"):
		h.LogLength += logSector
		hb = h.Encode()
	case l.feature(100, "log past the end"):
		h.LogOffset = uint64(1+l.c.n(7)) * mib
		hb = h.Encode()
	case l.feature(100, "log offset wraps"):
		h.LogOffset = 1<<64 - mib
		hb = h.Encode()
	case l.feature(100, "no log in use"):
		h.LogGUID = [16]byte{}
		hb = h.Encode()
	}
	l.write(hb, current)
	l.write(ob, stale)
}

// session writes n entries that follow each other, as one opening would, except
// for what a mutation changes.
func (l *randomLog) session(guid [16]byte, n int, mutate bool) {
	for range n {
		e := l.entry(guid)
		b := e.Encode()
		if len(b) > l.length {
			continue
		}
		if mutate && l.chance(6) {
			b = l.mutate(e, b)
		}
		l.starts = append(l.starts, l.at)
		l.lay(b)
		l.at = (l.at + len(b)) % l.length
		if l.feature(60, "gap") {
			l.at = (l.at + logSector*(1+l.c.n(3))) % l.length
		}
		switch {
		case l.feature(60, "number left out"):
			l.seq += 2
		case l.feature(60, "number twice"):
		default:
			l.seq++
		}
	}
}

// entry is the session's next.
func (l *randomLog) entry(guid [16]byte) replaymodel.Entry {
	size := uint64(len(l.file))
	e := replaymodel.Entry{
		LogGUID: guid, Sequence: l.base + uint64(l.seq), Tail: uint32(l.at),
		Flushed: size / mib * mib, Last: (size + mib - 1) / mib * mib,
	}
	if n := len(l.starts); n > 0 && !l.chance(3) {
		e.Tail = uint32(l.starts[max(0, n-1-l.c.n(4))])
	}
	if l.feature(20, "file to be longer") {
		e.Last += uint64(l.c.n(4)) * mib
	}
	data, zeros := l.c.n(5), l.c.n(3)
	switch {
	case l.feature(100, "many descriptors, zero"):
		zeros = 120 + l.c.n(300)
	case l.feature(120, "many descriptors, data"):
		data = 120 + l.c.n(20)
	case l.feature(500, "entry as long as the log"):
		data = l.sectors() - 2 - l.c.n(3)
	}
	for range data {
		page, v := l.page(), byte(1+l.c.n(250))
		for i := 0; i < logSector; i += 512 {
			page[i+100], page[i+200] = v+byte(i>>9), v
		}
		page[0], page[7], page[8], page[logSector-5], page[logSector-4], page[logSector-1] = v+1, v+2, v+3, v+4, v+5, v+6
		e.Writes = append(e.Writes, replaymodel.Write{Offset: l.target(), Length: logSector, Data: page})
	}
	for range zeros {
		w := replaymodel.Write{Offset: l.target(), Length: uint64(l.c.n(6)) * logSector}
		if l.feature(200, "zeroes without end") {
			w.Length = 1<<50 + uint64(l.c.n(8))<<60
		}
		i := l.c.n(len(e.Writes) + 1)
		e.Writes = append(e.Writes[:i], append([]replaymodel.Write{w}, e.Writes[i:]...)...)
	}
	return e
}

// page is one of 4 KiB, good until the next file; what is in it is left over.
func (l *randomLog) page() []byte {
	if l.used++; l.used > len(l.pages) {
		l.pages = append(l.pages, make([]byte, logSector))
	}
	return l.pages[l.used-1]
}

// target is where a descriptor writes: a few pages, often the same.
func (l *randomLog) target() uint64 {
	switch {
	case l.feature(50, "beyond the end"):
		return uint64(len(l.file))/logSector*logSector + uint64(l.c.n(600))*logSector
	case l.feature(50, "region table"):
		return regionOffset1 + uint64(l.c.n(32))*logSector
	case l.feature(1000, "over the headers"):
		return uint64(l.c.n(48)) * logSector
	case l.feature(1000, "over the log"):
		return rlLogOffset + uint64(l.c.n(l.sectors()))*logSector
	case l.feature(1000, "far away"):
		return uint64(1+l.c.n(1<<15-1))<<48 | uint64(l.c.n(256))*logSector
	}
	return 3*mib + uint64(l.c.n(16))*logSector
}

// lay writes an entry, or what a power cut left of it.
func (l *randomLog) lay(b []byte) {
	if !l.feature(40, "torn") {
		l.put(b, l.at)
		return
	}
	was := l.ring(l.at, len(b))
	torn := append([]byte(nil), b...)
	for i := 0; i < len(b); i += 512 {
		if l.chance(2) {
			copy(torn[i:i+512], was[i:])
		}
	}
	l.put(torn, l.at)
}

// mutate breaks one rule of section 2.3.1 in an entry whose checksum holds.
func (l *randomLog) mutate(e replaymodel.Entry, b []byte) []byte {
	desc := func(field int) []byte {
		if len(e.Writes) == 0 {
			return b[16:]
		}
		return b[logHeaderSize+l.c.n(len(e.Writes))*descSize+field:]
	}
	data := func(field int) []byte { // of the last data sector, if there is one
		return b[len(b)-logSector+field:]
	}
	k := l.c.n(len(entryMutations))
	l.features[entryMutations[k]]++
	switch entryMutations[k] {
	case "signature":
		b[0]++
	case "checksum":
		b[4]++
		return b
	case "length within a sector":
		le.PutUint32(b[8:], uint32(len(b)-512*(1+l.c.n(7))))
	case "length too great":
		b = append(b, make([]byte, logSector)...)
		if l.chance(2) {
			copy(b[len(b)-logSector:], b[len(b)-2*logSector:])
		}
		le.PutUint32(b[8:], uint32(len(b)))
	case "length too small":
		b = b[:len(b)-logSector]
		if len(b) == 0 {
			return make([]byte, logSector)
		}
		le.PutUint32(b[8:], uint32(len(b)))
	case "length without end":
		le.PutUint32(b[8:], uint32(l.c.n(4))<<30|uint32(l.length+logSector))
	case "length zero":
		le.PutUint32(b[8:], 0)
	case "tail anywhere":
		le.PutUint32(b[12:], uint32(l.c.n(l.sectors())*logSector))
	case "tail within a sector":
		le.PutUint32(b[12:], le.Uint32(b[12:])+512)
	case "tail outside the log":
		le.PutUint32(b[12:], le.Uint32(b[12:])+uint32(l.length))
	case "number of the header":
		le.PutUint64(b[16:], le.Uint64(b[16:])+1)
	case "number of a descriptor":
		desc(24)[0]++
	case "number zero":
		e.Sequence = 0
		b = e.Encode()
	case "descriptor count":
		le.PutUint32(b[24:], le.Uint32(b[24:])+uint32(1+l.c.n(2))*uint32(1-2*l.c.n(2)))
	case "descriptor count without end":
		le.PutUint32(b[24:], ^uint32(0)>>l.c.n(8))
	case "reserved field":
		b[28+l.c.n(4)] = 1
	case "GUID":
		b[32+l.c.n(16)]++
	case "GUID of an earlier session":
		copy(b[32:], l.other[:])
	case "FlushedFileOffset within a MiB":
		le.PutUint64(b[48:], le.Uint64(b[48:])-512)
	case "LastFileOffset within a MiB":
		le.PutUint64(b[56:], le.Uint64(b[56:])+logSector)
	case "FlushedFileOffset beyond the end":
		le.PutUint64(b[48:], le.Uint64(b[48:])+mib<<(l.c.n(8)*8))
	case "LastFileOffset without end":
		le.PutUint64(b[56:], le.Uint64(b[56:])+mib<<(28+l.c.n(16)))
	case "FlushedFileOffset small":
		le.PutUint64(b[48:], 0)
	case "LastFileOffset small":
		le.PutUint64(b[56:], uint64(l.c.n(3))*mib)
	case "descriptor signature":
		desc(0)[l.c.n(4)]++
	case "FileOffset within a sector":
		desc(16)[1]++
	case "bytes 4 to 7 of a descriptor": // reserved in one kind, data in the other
		desc(4)[l.c.n(4)]++
	case "bytes 8 to 15 of a descriptor": // the length in one kind, data in the other
		desc(8)[l.c.n(8)]++
	case "data signature":
		data(0)[l.c.n(4)]++
	case "SequenceHigh":
		data(4)[l.c.n(4)]++
	case "SequenceLow":
		data(logSector - 4)[l.c.n(4)]++
	case "one bit":
		b[l.c.n(len(b))] ^= 1 << l.c.n(8)
		if l.chance(2) {
			return b
		}
	}
	return replaymodel.Seal(b)
}

var entryMutations = []string{
	"signature", "checksum", "length within a sector", "length too great", "length too small", "length without end",
	"length zero", "tail anywhere", "tail within a sector", "tail outside the log", "number of the header",
	"number of a descriptor", "number zero", "descriptor count", "descriptor count without end", "reserved field",
	"GUID", "GUID of an earlier session", "FlushedFileOffset within a MiB", "LastFileOffset within a MiB",
	"FlushedFileOffset beyond the end", "LastFileOffset without end", "FlushedFileOffset small",
	"LastFileOffset small", "descriptor signature", "FileOffset within a sector", "bytes 4 to 7 of a descriptor",
	"bytes 8 to 15 of a descriptor", "data signature", "SequenceHigh", "SequenceLow", "one bit",
}

// damage changes the finished log.
func (l *randomLog) damage() {
	if len(l.starts) == 0 {
		return
	}
	switch {
	case l.feature(16, "an entry twice"):
		at := l.starts[l.c.n(len(l.starts))]
		n := int(le.Uint32(l.ring(at, 12)[8:]))
		if n > 0 && n <= l.length {
			l.put(l.ring(at, n), l.c.n(l.sectors())*logSector)
		}
	case l.feature(16, "a sector overwritten"):
		b := make([]byte, logSector)
		if l.chance(2) {
			copy(b, l.ring(l.c.n(l.sectors())*logSector, logSector))
		}
		l.put(b, l.starts[l.c.n(len(l.starts))])
	case l.feature(16, "bytes overwritten"):
		b := make([]byte, 1+l.c.n(600))
		at := (l.starts[l.c.n(len(l.starts))] + l.c.n(4*logSector)) % l.length
		l.put(b, at)
	case l.feature(16, "cut short"):
		size := 2*mib + l.c.n(8)*mib/2
		if l.chance(2) {
			size += 512
		}
		l.file = l.buf[:min(size, len(l.file))]
	case l.feature(200, "cut within the headers"):
		l.file = l.buf[:l.c.n(mib)]
	}
}
