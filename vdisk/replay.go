package vdisk

import "io"

// A sequence is a run of log entries to be replayed, oldest first.
type sequence struct {
	entries []located
	head    int64 // offset in the log behind the newest entry
}

type located struct {
	at, size int64
	seq      uint64
	tail     int64
	flushed  uint64
	last     uint64
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
	b := make([]byte, size)
	if err := l.read(b, at); err != nil {
		return e, 0, false, err
	}
	e, ok = decodeLogEntry(b, guid, withData)
	return e, size, ok && int64(e.Tail) < l.length, nil
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
			at[o] = located{o, size, e.Sequence, int64(e.Tail), e.Flushed, e.Last}
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
		last := run[len(run)-1]
		for i, e := range run {
			if e.at == last.tail {
				if best == nil || last.seq > best[len(best)-1].seq {
					best = run[i:]
				}
				break
			}
		}
	}
	if best == nil {
		return s, corrupt(l.off, "the log is in use but holds no valid sequence of entries")
	}
	last := best[len(best)-1]
	return sequence{best, (last.at + last.size) % l.length}, nil
}
