package vdisk

import (
	"cmp"
	"slices"
)

// What a log makes of a file in the end: each byte is written once, by the newest
// change, though a log may name any range of zeroes any number of times. A log of 4 GiB
// has room for a million pages and 128 million ranges of zeroes. The pages are planned at
// once; of the zeroes no more than fit maxZeroes, from lower places to higher ones, and
// the log is read again for the rest.

// maxZeroes is how many ranges of zeroes, joined where they touch, are held at a time:
// 64 MiB of them.
const maxZeroes = 1 << 22

// A replayPlan is what it makes of pages.
type replayPlan struct {
	pages map[int64]uint32 // by offset, which of the log's changes gives a page its data
	at    []int64          // their offsets, sorted
}

type zeroRange struct{ off, n int64 }

// eachBack calls f for the log's changes, the newest first; k counts from the oldest.
func (l *logReader) eachBack(s sequence, guid GUID, f func(k uint32, w *logWrite)) error {
	k := uint32(s.writes)
	for i := len(s.entries) - 1; i >= 0; i-- {
		e := s.entries[i]
		entry, _, ok, err := l.entry(e.at, guid, false)
		if err != nil {
			return err
		}
		if !ok || len(entry.Writes) > int(k) {
			return l.changed(e)
		}
		for j := len(entry.Writes) - 1; j >= 0; j-- {
			k--
			f(k, &entry.Writes[j])
		}
	}
	return nil
}

func (l *logReader) changed(e located) error {
	return ErrLog.at(l.off+e.at, "a log entry changed while it was being read")
}

// plan gives each page that some change has data for to its newest change, if that is
// not of zeroes.
func (l *logReader) plan(s sequence, guid GUID) (p replayPlan, err error) {
	var at []int64
	if err := l.eachBack(s, guid, func(_ uint32, w *logWrite) {
		if w.Data != nil {
			at = append(at, w.Offset)
		}
	}); err != nil {
		return p, err
	}
	slices.Sort(at)
	at = slices.Compact(at)
	// next leads from a page to the first from there on that no change has yet.
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
	if err := l.eachBack(s, guid, func(k uint32, w *logWrite) {
		first, _ := slices.BinarySearch(at, w.Offset)
		for i := find(uint32(first)); int(i) < len(at) && at[i] < w.Offset+w.length(); i = find(i) {
			if w.Data != nil {
				p.pages[at[i]] = k
			}
			next[i] = i + 1
		}
	}); err != nil {
		return p, err
	}
	for off := range p.pages {
		p.at = append(p.at, off)
	}
	slices.Sort(p.at)
	return p, nil
}

// zeroes are what becomes zero from lo up to next, which is limit unless that were more
// than most ranges: sorted, disjoint, and without the plan's pages.
func (p *replayPlan) zeroes(l *logReader, s sequence, guid GUID, lo, limit int64, most int) (zs []zeroRange, next int64, err error) {
	next = limit
	err = l.eachBack(s, guid, func(_ uint32, w *logWrite) {
		off, end := max(w.Offset, lo), min(w.Offset+w.length(), next)
		if w.Data != nil || off >= end {
			return
		}
		if n := len(zs); n > 0 && zs[n-1].off+zs[n-1].n == off {
			zs[n-1].n += end - off
			return
		}
		if zs = append(zs, zeroRange{off, end - off}); len(zs) < 2*most {
			return
		}
		if zs = joined(zs); len(zs) > most {
			next = zs[most].off
			zs = zs[:most]
		}
	})
	if zs = joined(zs); len(zs) > most {
		next = zs[most].off
		zs = zs[:most]
	}
	return p.without(zs), next, err
}

// joined sorts ranges and makes one of those that touch or overlap.
func joined(zs []zeroRange) []zeroRange {
	slices.SortFunc(zs, func(a, b zeroRange) int { return cmp.Compare(a.off, b.off) })
	out := zs[:0]
	for _, z := range zs {
		if n := len(out); n > 0 && out[n-1].off+out[n-1].n >= z.off {
			out[n-1].n = max(out[n-1].n, z.off+z.n-out[n-1].off)
		} else {
			out = append(out, z)
		}
	}
	return out
}

// without cuts the plan's pages out of ranges.
func (p *replayPlan) without(zs []zeroRange) (out []zeroRange) {
	for _, z := range zs {
		i, _ := slices.BinarySearch(p.at, z.off)
		for ; i < len(p.at) && p.at[i] < z.off+z.n; i++ {
			if n := p.at[i] - z.off; n > 0 {
				out = append(out, zeroRange{z.off, n})
			}
			z = zeroRange{p.at[i] + logSector, z.off + z.n - p.at[i] - logSector}
		}
		if z.n > 0 {
			out = append(out, z)
		}
	}
	return out
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
			return l.changed(e)
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
