package vdisk

import "io"

// A scratch is a backing whose changes stay in memory, for rehearsals.
type scratch struct {
	Backing
	m    *Memory
	own  map[int64]bool // pages of 4 KiB that are in m
	size int64
}

func newScratch(b Backing) (*scratch, error) {
	size, err := b.Size()
	return &scratch{Backing: b, m: NewMemory(), own: map[int64]bool{}, size: size}, err
}

func (s *scratch) Size() (int64, error) { return s.size, nil }
func (s *scratch) Flush() error         { return nil }
func (s *scratch) Close() error         { return nil }

func (s *scratch) Capacity() int64 {
	if c, ok := s.Backing.(interface{ Capacity() int64 }); ok {
		return c.Capacity()
	}
	return 0
}

func (s *scratch) Trim(int64, int64) (bool, error) { return false, nil }

func (s *scratch) Truncate(size int64) error {
	if c := s.Capacity(); c == 0 {
		s.size = size
	} else if size > c {
		return ErrNoSpace
	}
	return nil
}

func (s *scratch) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(p)), s.size-off)))
	for i := 0; i < n; {
		at := off + int64(i)
		q := p[i:min(n, i+int(logSector-at%logSector))]
		if s.own[at/logSector] {
			clear(q)
			s.m.ReadAt(q, at)
		} else if m, err := s.Backing.ReadAt(q, at); err == io.EOF {
			clear(q[m:])
		} else if err != nil && m < len(q) {
			return i + m, err
		}
		i += len(q)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *scratch) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); {
		at := off + int64(i)
		q := p[i:min(len(p), i+int(logSector-at%logSector))]
		if page := at / logSector; !s.own[page] {
			var old [logSector]byte
			if n, err := s.Backing.ReadAt(old[:], page*logSector); err != nil && err != io.EOF {
				return i + n, err
			}
			s.m.WriteAt(old[:], page*logSector)
			s.own[page] = true
		}
		s.m.WriteAt(q, at)
		i += len(q)
	}
	s.size = max(s.size, off+int64(len(p)))
	return len(p), nil
}
