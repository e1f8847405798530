package vdisk

// The end of a file, and what a compaction asks about space.

// trimEnd gives back what was allocated ahead, and what is free at the end.
func (s *space) trimEnd() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fold()
	if s.limit != 0 || s.end >= s.size {
		return nil
	}
	if err := s.b.Truncate(s.end); err != nil {
		return err
	}
	s.size = s.end
	return nil
}

// fold makes what is free at the end never allocated. mu is held.
func (s *space) fold() {
	if n := s.free.before(s.end / mib); n > 0 {
		s.end -= n * mib
		s.free.take(s.end/mib, n)
	}
}

// reach makes the file long enough for a place that ends at end.
func (s *space) reach(end int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end <= s.size {
		return nil
	}
	if err := s.b.Truncate(end); err != nil {
		return err
	}
	s.size = end
	return nil
}

// mayDrop tells whether the file has a free end that a truncation would give back.
func (s *space) mayDrop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limit == 0 && s.end-s.free.before(s.end/mib)*mib < s.size
}

// inUse is how far the file reaches, of a partition how far into it anything lies.
func (s *space) inUse() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit != 0 {
		return s.end
	}
	return s.size
}

// packed is where the file would end if there were no gaps in it.
func (s *space) packed() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.end - s.free.total*mib
	for _, r := range s.given {
		n -= r.n
	}
	return n
}

// takeOld takes free regions that were not trimmed, for settle, from one place on; ok
// is false behind the last. With them it answers where to go on.
func (s *space) takeOld(from int64) (old []freeRegion, next int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(old) < 4096 {
		m, n, c, any := s.free.next(from / mib)
		if !any {
			return old, from, len(old) > 0
		}
		if from = (m + n) * mib; c == holdsOld {
			s.free.take(m, n)
			old = append(old, freeRegion{m * mib, n * mib, c})
		}
	}
	return old, from, true
}

// trimBehind trims the rest of a partition.
func (s *space) trimBehind() error {
	s.mu.Lock() // nothing is allocated there meanwhile
	defer s.mu.Unlock()
	s.fold()
	if s.limit <= s.end {
		return nil
	}
	_, err := s.b.Trim(s.end, s.limit-s.end)
	return err
}
