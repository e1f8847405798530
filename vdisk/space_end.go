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
	for n := len(s.free); n > 0 && s.free[n-1].off+s.free[n-1].n == s.end; n-- {
		s.end = s.free[n-1].off
		s.free = s.free[:n-1]
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
	end := s.end
	for i := len(s.free) - 1; i >= 0 && s.free[i].off+s.free[i].n == end; i-- {
		end = s.free[i].off
	}
	return s.limit == 0 && end < s.size
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
	n := s.end
	for _, r := range s.free {
		n -= r.n
	}
	for _, r := range s.given {
		n -= r.n
	}
	return n
}

// takeOld takes the free regions that were not trimmed, for settle.
func (s *space) takeOld() (old []freeRegion) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.free[:0]
	for _, r := range s.free {
		if r.c == holdsOld {
			old = append(old, r)
		} else {
			kept = append(kept, r)
		}
	}
	s.free = kept
	return old
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
