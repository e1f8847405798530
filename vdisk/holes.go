package vdisk

import "io"

// Holes is what a Backing can offer besides: it knows where it holds nothing, so that
// who looks for data need not read terabytes of zeroes.
type Holes interface {
	// NextData is the first place at or behind off that may hold anything but
	// zeroes, or the backing's size.
	NextData(off int64) (int64, error)
}

// nextData asks b, if that knows.
func nextData(b Backing, off int64) (int64, error) {
	if h, ok := b.(Holes); ok {
		return h.NextData(off)
	}
	return off, nil
}

// readsZero tells whether a range holds nothing but zeroes, or lies behind the end. One
// that can not be read counts as holding something.
func readsZero(b Backing, off, n int64) bool {
	buf := make([]byte, min(mib, n))
	for end := off + n; off < end; {
		at, err := nextData(b, off)
		if err != nil {
			return false
		}
		if off = max(off, at); off >= end {
			break
		}
		p := buf[:min(int64(len(buf)), end-off)]
		m, err := b.ReadAt(p, off)
		if err != nil && err != io.EOF || !allZero(p[:m]) {
			return false
		}
		off += int64(len(p))
	}
	return true
}

// NextData probes pages as long as that is cheaper than looking at all there are.
func (m *Memory) NextData(off int64) (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if off >= m.size {
		return m.size, nil
	}
	page := off / memPage
	for range m.pages {
		if m.pages[page].data != nil {
			return max(off, page*memPage), nil
		}
		page++
	}
	next := m.size
	for at := range m.pages {
		if at >= page {
			next = min(next, at*memPage)
		}
	}
	return next, nil
}

func (s *Section) NextData(off int64) (int64, error) {
	if off >= s.n {
		return s.n, nil
	}
	at, err := nextData(s.b, s.off+off)
	return min(max(at-s.off, off), s.n), err
}

func (u unclosed) NextData(off int64) (int64, error) { return nextData(u.Backing, off) }
func (f *Faulty) NextData(off int64) (int64, error)  { return nextData(f.Backing, off) }
func (s *scratch) NextData(off int64) (int64, error) {
	at, err := nextData(s.Backing, off)
	if err != nil {
		return off, err
	}
	at = min(max(at, off), s.size)
	for page := range s.own {
		if page >= off/logSector {
			at = min(at, max(off, page*logSector))
		}
	}
	return at, nil
}
