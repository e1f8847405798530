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

// eachPiece reads the BAT's first n bytes, a MiB at a time, without its holes; at is
// where in the BAT a piece lies. It answers how much there was, less than n if the
// file ends within it.
func (im *Image) eachPiece(n int64, f func(at int64, p []byte) error) (there int64, err error) {
	size, err := im.b.Size()
	if err != nil {
		return 0, err
	}
	whole := im.batOff+n <= size
	buf := make([]byte, min(mib, n))
	for at := int64(0); at < n; at += mib {
		if next, err := nextData(im.b, im.batOff+at); err == nil && whole {
			if at = max(at, (next-im.batOff)&^(mib-1)); at >= n {
				break
			}
		}
		p := buf[:min(mib, n-at)]
		m, err := im.b.ReadAt(p, im.batOff+at)
		if err != nil && err != io.EOF {
			return at, err
		}
		if err := f(at, p[:m]); err != nil || m < len(p) {
			return at + int64(m), err
		}
	}
	return n, nil
}

// NextData is the first place of the disk at or behind off that may hold anything but
// zeroes, or its size, while nobody writes. It looks at tables and at the holes of
// files, here and below, not at data.
func (im *Image) NextData(off int64) (int64, error) { return im.dataBefore(off, im.Size()) }

// dataBefore is NextData that looks no further than limit, or the disk's end, and is that
// where there is none.
func (im *Image) dataBefore(off, limit int64) (int64, error) {
	bs := int64(im.p.BlockSize)
	limit = min(limit, im.Size())
	for n := uint64(off / bs); ; n++ {
		start := int64(n) * bs
		if start >= limit {
			return limit, nil
		}
		e, there, err := im.lookup(n)
		if err != nil || !there {
			return limit, err
		}
		at, end := max(off, start), min(start+bs, limit)
		next := end
		switch {
		case e.state() == partial:
			next = at
		case e.state() == present:
			here, err := nextData(im.b, e.offset()+at-start)
			if err != nil {
				return 0, err
			}
			next = here - e.offset() + start
		case e.state() == notPresent && im.parent != nil && at < im.parent.Size():
			last := min(end, im.parent.Size())
			if next, err = im.parent.dataBefore(at, last); err != nil {
				return 0, err
			}
			if next == last {
				next = end
			}
		}
		if next < end {
			return max(at, next), nil
		}
	}
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

// NextData looks for pages of the log in what is a hole below.
func (o *overlay) NextData(off int64) (int64, error) {
	at, err := nextData(o.Backing, off)
	if err != nil {
		return off, err
	}
	if below, err := o.Backing.Size(); err != nil {
		return off, err
	} else if at >= below {
		at = o.size
	}
	at = min(max(at, off), o.size)
	if (at-off)/logSector <= int64(len(o.pages)) {
		for page := off &^ (logSector - 1); page < at; page += logSector {
			if o.pages[page] != nil {
				return max(off, page), nil
			}
		}
		return at, nil
	}
	for page := range o.pages {
		if page+logSector > off {
			at = min(at, max(off, page))
		}
	}
	return at, nil
}
