package vdisk

import "slices"

// maxChanges bounds the memory that planning a replay takes. The largest log has room
// for a quarter as many pages; it would need 128 MiB of descriptors of zeroes, none of
// which any writer has use for.
const maxChanges = 1 << 22

// A replayPlan is what a log makes of a file in the end. Each byte is written once, by
// the newest change: a log may name any range of zeroes any number of times.
type replayPlan struct {
	pages  map[int64]uint32 // by offset, which of the log's changes gives a page its data
	zeroes []zeroRange      // sorted, disjoint, and without any of pages
}

type zeroRange struct{ off, n int64 }

type change struct {
	off, end int64
	data     bool
}

// plan goes from the newest change to the oldest, and gives each what is left of its
// range; with more than most of them it refuses. Zeroes are wanted below limit only: behind
// it there is nothing else.
func (l *logReader) plan(s sequence, guid GUID, limit int64, most int) (p replayPlan, err error) {
	var cs []change
	for _, e := range s.entries {
		entry, _, ok, err := l.entry(e.at, guid, false)
		if err != nil {
			return p, err
		}
		if !ok {
			return p, ErrLog.at(l.off+e.at, "a log entry changed while it was being read")
		}
		for _, w := range entry.Writes {
			cs = append(cs, change{w.Offset, w.Offset + w.length(), w.Data != nil})
		}
		if len(cs) > most {
			return p, ErrAbsurdSize.unsupported(l.off+e.at, "a log of more than %d changes", most)
		}
	}
	var at []int64
	for _, c := range cs {
		at = append(at, c.off, c.end)
	}
	slices.Sort(at)
	at = slices.Compact(at)
	// next leads from a piece [at[i], at[i+1]) to the first from there on that no
	// change has yet.
	next := make([]uint32, len(at)+1)
	for i := range next {
		next[i] = uint32(i)
	}
	find := func(i uint32) uint32 {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	p.pages = map[int64]uint32{}
	for k := len(cs) - 1; k >= 0; k-- {
		c := cs[k]
		first, _ := slices.BinarySearch(at, c.off)
		for i := find(uint32(first)); int(i) < len(at) && at[i] < c.end; i = find(i) {
			if c.data {
				p.pages[at[i]] = uint32(k)
			} else if n := min(at[i+1], limit) - at[i]; n > 0 {
				p.zeroes = append(p.zeroes, zeroRange{at[i], n})
			}
			next[i] = i + 1
		}
	}
	slices.SortFunc(p.zeroes, func(a, b zeroRange) int {
		if a.off < b.off {
			return -1
		}
		return 1
	})
	joined := p.zeroes[:0]
	for _, z := range p.zeroes {
		if n := len(joined); n > 0 && joined[n-1].off+joined[n-1].n == z.off {
			joined[n-1].n += z.n
		} else {
			joined = append(joined, z)
		}
	}
	p.zeroes = joined
	return p, nil
}

// apply writes what the plan says to b, page by page as they come in the log.
func (p *replayPlan) apply(l *logReader, s sequence, guid GUID, put func(data []byte, off int64) error) error {
	k := uint32(0)
	for _, e := range s.entries {
		entry, _, ok, err := l.entry(e.at, guid, true)
		if err != nil {
			return err
		}
		if !ok {
			return ErrLog.at(l.off+e.at, "a log entry changed while it was being read")
		}
		for _, w := range entry.Writes {
			if by, ok := p.pages[w.Offset]; ok && by == k && w.Data != nil {
				if err := put(w.Data, w.Offset); err != nil {
					return err
				}
			}
			k++
		}
	}
	return nil
}
