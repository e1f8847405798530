package replaymodel

import "math"

// Plan is what replaying a file's log comes to.
type Plan struct {
	Dirty  bool   // the current header has a LogGuid
	Tail   uint64 // offset in the log of the first entry replayed
	First  uint64 // sequence numbers of the first and last entry replayed
	Last   uint64
	Writes []Write // in order
	Size   uint64  // LastFileOffset of the head entry: the least size after
}

// sequence is a run of entries that follow one another in the log.
type sequence struct {
	at      []uint64 // their offsets in the log
	entries []*entry
	head    uint64 // offset just past the last one
}

// number is that of the head entry, 0 for the empty sequence.
func (s *sequence) number() uint64 {
	if len(s.entries) == 0 {
		return 0
	}
	return s.entries[len(s.entries)-1].sequence
}

// tail is the index of the entry that the head entry's tail names, or -1.
func (s *sequence) tail() int {
	if n := len(s.entries); n > 0 {
		for i, at := range s.at {
			if at == s.entries[n-1].tail {
				return i
			}
		}
	}
	return -1
}

// activeSequence is the search of 2.3.3, steps 1 to 7.
func activeSequence(log []byte, want guid) sequence {
	size := uint64(len(log))
	var candidate sequence // step 1
	for tail, old := uint64(0), uint64(0); size > 0; old = tail {
		current := sequence{head: tail} // step 2
		for {                           // step 3
			e := readEntry(log, current.head, want)
			if e == nil || len(current.entries) > 0 && (e.sequence-1 != current.number()) {
				break
			}
			current.at = append(current.at, current.head)
			current.entries = append(current.entries, e)
			current.head = (current.head + e.length) % size
		}
		valid := current.tail() >= 0 // step 4
		if valid && current.number() > candidate.number() {
			candidate = current // step 5
		}
		if valid { // step 6
			tail = current.head
		} else {
			tail = (tail + sector) % size
		}
		if tail <= old { // step 7
			break
		}
	}
	return candidate
}

// Find reads the headers and the log of file and says what replay must do, or
// why the file is refused. It does not change file.
func Find(file []byte) (Plan, error) {
	h, err := currentHeader(file)
	if err != nil {
		return Plan{}, err
	}
	if h.logGUID == (guid{}) {
		return Plan{}, nil
	}
	end := h.logOffset + uint64(h.logLength)
	if end < h.logOffset || end > uint64(len(file)) {
		return Plan{}, ErrLogRegion
	}
	s := activeSequence(file[h.logOffset:end], h.logGUID)
	if len(s.entries) == 0 {
		return Plan{}, ErrSequence
	}
	head := s.entries[len(s.entries)-1]
	if uint64(len(file)) < head.flushed {
		return Plan{}, ErrTruncated
	}
	t := s.tail()
	p := Plan{Dirty: true, Tail: s.at[t], First: s.entries[t].sequence, Last: head.sequence, Size: head.last}
	for _, e := range s.entries[t:] {
		for _, w := range e.writes {
			if w.Length == 0 {
				continue
			}
			if w.Offset > math.MaxUint64-w.Length {
				return Plan{}, ErrSize
			}
			if w.Offset < headersEnd || w.Offset < end && w.Offset+w.Length > h.logOffset {
				return Plan{}, ErrTarget
			}
			p.Writes = append(p.Writes, w)
		}
	}
	return p, nil
}

// End is the least size of the file after replay, in bytes.
func (p Plan) End() uint64 {
	size := p.Size
	for _, w := range p.Writes {
		size = max(size, w.Offset+w.Length)
	}
	return size
}

// Apply carries the plan out on file, which it may change or grow, and returns
// the bytes after replay. The headers stay as they were: what they become holds
// a new random GUID. A file that would pass limit bytes is ErrSize.
func (p Plan) Apply(file []byte, limit uint64) ([]byte, error) {
	grow := func(to uint64) {
		if n := uint64(len(file)); n < to {
			if to <= uint64(cap(file)) {
				file = file[:to]
				clear(file[n:])
			} else {
				file = append(file, make([]byte, to-n)...)
			}
		}
	}
	if p.End() > limit {
		return nil, ErrSize
	}
	for _, w := range p.Writes {
		grow(w.Offset + w.Length)
		to := file[w.Offset : w.Offset+w.Length]
		clear(to)
		copy(to, w.Data)
	}
	grow(p.Size)
	return file, nil
}

// Replay returns the bytes of file after its log is replayed: Find and Apply on
// a copy. A file without a log to replay comes back as it is.
func Replay(file []byte, limit uint64) ([]byte, error) {
	p, err := Find(file)
	if err != nil {
		return nil, err
	}
	return p.Apply(append([]byte(nil), file...), limit)
}
