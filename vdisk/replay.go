package vdisk

import (
	"io"
	"slices"
)

// A sequence is a run of log entries to be replayed, oldest first.
type sequence struct {
	entries []located
	head    int64 // offset in the log behind the newest entry
	writes  int   // changes in all of them
}

type located struct {
	at, size int64
	seq      uint64
	tail     int64
	flushed  uint64
	last     uint64
	end      int64 // of what it writes
	bad      int64 // an offset it writes to though no entry may, or 0
	writes   int
}

// A logReader reads a log as the ring that it is.
type logReader struct {
	r      io.ReaderAt
	off    int64 // of the log in the file
	length int64
}

func (l *logReader) read(b []byte, at int64) error {
	for len(b) > 0 {
		n := min(int64(len(b)), l.length-at)
		if _, err := l.r.ReadAt(b[:n], l.off+at); err != nil {
			return err
		}
		b, at = b[n:], (at+n)%l.length
	}
	return nil
}

// entry reads the valid entry at offset at, if there is one.
func (l *logReader) entry(at int64, guid GUID, withData bool) (e logEntry, size int64, ok bool, err error) {
	var h [logHeaderSize]byte
	if err := l.read(h[:], at); err != nil {
		return e, 0, false, err
	}
	size, ok = entryLength(h[:], l.length)
	// The cheap checks first: most sectors of a log are no entry's start, and
	// what claims to be one need not be.
	if !ok || GUID(h[32:48]) != guid {
		return e, 0, false, nil
	}
	if size > maxEntry {
		return e, 0, false, ErrAbsurdSize.unsupported(l.off+at, "a log entry of %d bytes, more than %d MiB", size, maxEntry/mib)
	}
	b := make([]byte, size)
	if err := l.read(b, at); err != nil {
		return e, 0, false, err
	}
	e, ok = decodeLogEntry(b, guid, withData)
	return e, size, ok && int64(e.Tail) < l.length, nil
}

// locate notes what the search and the checks before a replay want to know.
func (l *logReader) locate(at, size int64, e *logEntry) located {
	r := located{at: at, size: size, seq: e.Sequence, tail: int64(e.Tail), flushed: e.Flushed, last: e.Last, writes: len(e.Writes)}
	for i := range e.Writes {
		w := &e.Writes[i]
		if w.length() == 0 {
			continue
		}
		end := w.Offset + w.length()
		r.end = max(r.end, end)
		switch {
		case r.bad != 0:
		case w.Offset < regionOffset1: // the identifier and the headers: 2.2.1, 2.2.2.1
			r.bad = max(w.Offset, 1)
		case w.Offset < l.off+l.length && end > l.off:
			r.bad = w.Offset
		}
	}
	return r
}

// findSequence chooses what to replay (2.3.3): of all runs of valid entries with
// consecutive sequence numbers whose newest entry's tail is the start of one of
// their entries, the one with the greatest newest sequence number.
func (l *logReader) findSequence(guid GUID) (s sequence, err error) {
	// Every valid entry, by where it starts. A run goes from an entry to the
	// one right behind it with the next number, so each entry belongs to one
	// run at most and the whole search reads the log twice.
	at := map[int64]located{}
	for o := int64(0); o < l.length; o += logSector {
		e, size, ok, err := l.entry(o, guid, false)
		if err != nil {
			return s, err
		}
		if ok {
			at[o] = l.locate(o, size, &e)
		}
	}
	next := func(e located) (located, bool) {
		n, ok := at[(e.at+e.size)%l.length]
		return n, ok && n.seq == e.seq+1
	}
	isNext := map[int64]bool{}
	for _, e := range at {
		if n, ok := next(e); ok {
			isNext[n.at] = true
		}
	}
	var best []located
	var found int64 // where the specification's scan comes upon best first
	for o, e := range at {
		if isNext[o] {
			continue
		}
		run, used := []located{e}, e.size
		for {
			n, ok := next(run[len(run)-1])
			if used += n.size; !ok || used > l.length {
				break
			}
			run = append(run, n)
		}
		// The newest entry of a run counts; its tail must lie in the run.
		// Of two with the same number the scan, which goes up from the log's
		// start, keeps the first it meets.
		last := run[len(run)-1]
		first := e.at
		for i, e := range run {
			first = min(first, e.at)
			if e.at != last.tail {
				continue
			}
			if best == nil || last.seq > best[len(best)-1].seq ||
				last.seq == best[len(best)-1].seq && first < found {
				best, found = run[i:], first
			}
			break
		}
	}
	if best == nil {
		return s, ErrLog.at(l.off, "the log is in use but holds no valid sequence of entries")
	}
	last := best[len(best)-1]
	s = sequence{entries: best, head: (last.at + last.size) % l.length}
	for _, e := range best {
		s.writes += e.writes
	}
	return s, nil
}

// maxOverlay bounds what a read-only opening keeps in memory of a log.
const maxOverlay = 512 * mib

// maxGrowth is how much a replay may lengthen a file: more than any disk needs.
const maxGrowth = 2 * maxDisk

// maxEntry bounds the memory that one log entry takes to read.
const maxEntry = 256 * mib

// replay brings a file that was not closed up to date (2.3.3): in place, or, for
// a read-only opening, in memory.
func (im *Image) replay(size int64) error {
	l := logReader{im.b, int64(im.hdr.LogOffset), int64(im.hdr.LogLength)}
	if l.off+l.length > size {
		return ErrTruncated.at(headerOffset1, "the log (%#x+%#x) lies beyond the file's end %#x", l.off, l.length, size)
	}
	s, err := l.findSequence(im.hdr.LogGUID)
	if err != nil {
		return err
	}
	newest := s.entries[len(s.entries)-1]
	if newest.flushed > uint64(size) && !im.salvage {
		return ErrTruncated.at(size, "the file is %d bytes long, but the log says that %d were durable: it was truncated, restore it from a copy", size, newest.flushed)
	}
	// All is checked before anything is changed: how long the file becomes,
	// and that nothing replay depends on is written over.
	limit := size + maxGrowth
	if newest.last > uint64(limit) {
		return ErrAbsurdSize.at(l.off+newest.at, "the log speaks of a file of %d bytes, far beyond its end %#x", newest.last, size)
	}
	end := max(size, int64(newest.last))
	for _, e := range s.entries {
		if e.bad != 0 {
			return ErrLogTarget.at(l.off+e.at, "a log entry writes over the headers or the log, at %#x", e.bad)
		}
		if end = max(end, e.end); end > limit {
			return ErrAbsurdSize.at(l.off+e.at, "a log entry writes up to %#x, far beyond the file's end %#x", e.end, size)
		}
	}
	plan, err := l.plan(s, im.hdr.LogGUID)
	if err != nil {
		return err
	}
	most := im.zeroMost
	if most == 0 {
		most = maxZeroes
	}
	zeroes, next, err := plan.zeroes(&l, s, im.hdr.LogGUID, 0, size, most)
	if err != nil {
		return err
	}
	if im.ro {
		if next < size {
			return ErrAbsurdSize.unsupported(l.off, "the log has more than %d ranges of zeroes apart from each other; open the image for writing once", most)
		}
		if len(plan.pages)*logSector > maxOverlay {
			return ErrAbsurdSize.unsupported(l.off, "the log holds more changes than %d MiB; open the image for writing once", maxOverlay/mib)
		}
		o := &overlay{Backing: im.b, pages: map[int64][]byte{}, zeroes: zeroes, size: end}
		if err := plan.apply(&l, s, im.hdr.LogGUID, func(p []byte, off int64) error {
			o.pages[off] = p
			return nil
		}); err != nil {
			return err
		}
		im.b = o
		return nil
	}
	if err := im.begin(false); err != nil {
		return err
	}
	if end > size {
		if err := im.b.Truncate(end); err != nil {
			return err
		}
	}
	for {
		for _, z := range zeroes {
			if err := zeroIn(im.b, z.off, z.n, true); err != nil {
				return err
			}
		}
		if next >= size {
			break
		}
		if zeroes, next, err = plan.zeroes(&l, s, im.hdr.LogGUID, next, size, most); err != nil {
			return err
		}
	}
	if err := plan.apply(&l, s, im.hdr.LogGUID, func(p []byte, off int64) error {
		_, err := im.b.WriteAt(p, off)
		return err
	}); err != nil {
		return err
	}
	if err := im.b.Flush(); err != nil {
		return err
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	h := im.hdr
	h.LogGUID = GUID{}
	return im.writeHeaders(h, false)
}

// An overlay is a backing seen through a log replayed in memory.
type overlay struct {
	Backing
	size   int64
	pages  map[int64][]byte // by offset
	zeroes []zeroRange
}

func (o *overlay) Size() (int64, error) { return o.size, nil }

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off >= o.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), o.size-off)
	q := p[:n]
	if got, err := o.Backing.ReadAt(q, off); err != nil && err != io.EOF {
		return got, err
	} else {
		clear(q[got:])
	}
	i, _ := slices.BinarySearchFunc(o.zeroes, off, func(z zeroRange, off int64) int {
		if z.off+z.n <= off {
			return -1
		}
		return 1
	})
	for ; i < len(o.zeroes) && o.zeroes[i].off < off+n; i++ {
		z := o.zeroes[i]
		clear(q[max(z.off, off)-off : min(z.off+z.n, off+n)-off])
	}
	for at := off &^ (logSector - 1); at < off+n; at += logSector {
		if d := o.pages[at]; d != nil {
			lo, hi := max(at, off), min(at+logSector, off+n)
			copy(q[lo-off:hi-off], d[lo-at:hi-at])
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}
