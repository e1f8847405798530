package vdisk

import (
	"fmt"
	"sync"
)

// content is what a free region of the file holds: it decides what reusing it costs.
type content uint8

const (
	holdsZeroes content = iota // reads as zero, durably: a new block needs neither zeroing nor a flush
	holdsHoles                 // reads as zero, durably after the next flush: a new block needs that flush before the BAT says so
	holdsOld                   // some other block's bytes: zero what is not overwritten, and flush before the BAT says so
)

type freeRegion struct {
	off, n int64
	c      content
}

// space knows which parts of the file are free: those behind its end, and those
// given back since it was opened or found by a scan. Regions are whole MiB.
type space struct {
	b     Backing
	limit int64 // the backing's capacity; 0 if it grows

	mu    sync.Mutex
	end   int64 // first byte never allocated
	size  int64 // of the backing: allocated ahead of end, reads as zero from end on
	free  freeMap
	given []freeRegion // given back, but the metadata that says so is not durable yet
	holes bool         // some of free may hold holes
}

// ahead is how much the file grows at a time: fewer truncations, and their
// durability rides with that of the next log entry.
const ahead = 64 * mib

// alloc finds n bytes, whole MiB.
func (s *space) alloc(n int64) (off int64, c content, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for want := holdsZeroes; want <= holdsOld; want++ {
		if m, ok := s.free.find(want, n/mib); ok {
			return m * mib, want, s.cut(m*mib, n)
		}
	}
	if s.limit != 0 && s.end+n > s.limit || s.end+n > maxInUse {
		return 0, 0, fmt.Errorf("%w: %d bytes more do not fit behind %d; trim and compact the image, or enlarge its place", ErrNoSpace, n, s.end)
	}
	if s.end+n > s.size {
		size := s.end + max(n, ahead)
		if s.limit != 0 {
			size = min(size, s.limit)
		}
		if err := s.b.Truncate(size); err != nil {
			return 0, 0, err
		}
		s.size = size
	}
	off = s.end
	s.end += n
	if s.limit != 0 {
		return off, holdsOld, nil // a partition may hold anything
	}
	return off, holdsZeroes, nil
}

// allocBelow finds n bytes as near to the file's start as can be, all of them below
// limit; ok is false if there are none.
func (s *space) allocBelow(n, limit int64) (off int64, c content, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := int64(-1)
	for have := holdsZeroes; have <= holdsOld; have++ {
		if m, found := s.free.find(have, n/mib); found && m*mib+n <= limit && (best < 0 || m*mib < best) {
			best, c = m*mib, have
		}
	}
	if best < 0 {
		return 0, 0, false, nil
	}
	return best, c, true, s.cut(best, n)
}

// cut takes n free bytes. mu is held.
func (s *space) cut(off, n int64) error {
	if end := off + n; end > s.size {
		// The file ends within its last MiB; what is allocated must
		// be in it, or a crash leaves a block that reaches beyond.
		if err := s.b.Truncate(end); err != nil {
			return err
		}
		s.size = end
	}
	s.free.take(off/mib, n/mib)
	return nil
}

// giveBack takes a region that durable metadata may still refer to.
func (s *space) giveBack(off, n int64) { s.giveBackAs(off, n, holdsOld) }

// giveBackAs does so with a region that is known to read as zero now.
func (s *space) giveBackAs(off, n int64, c content) {
	s.mu.Lock()
	s.given = append(s.given, freeRegion{off, n, c})
	s.mu.Unlock()
}

// putBack takes a region that no metadata ever referred to.
func (s *space) putBack(off, n int64) {
	s.mu.Lock()
	s.insert(freeRegion{off, n, holdsOld})
	s.mu.Unlock()
}

// takeGiven is called before a commit takes the changed pages and flushes, settle
// with its answer after it: the regions may be reused then.
func (s *space) takeGiven() []freeRegion {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.given
	s.given = nil
	return g
}

// harden is called when a commit's flush has made durable what settle punched before
// that commit.
func (s *space) harden() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holes {
		s.free.harden()
		s.holes = false
	}
}

func (s *space) settle(g []freeRegion) {
	for i := range g {
		// The host's storage gets the space back at once. What it promises
		// about reading zeroes is durable only with the next flush, unless it
		// was all zeroes before, which that commit's flush has hardened.
		switch zero, err := s.b.Trim(g[i].off, g[i].n); {
		case err != nil || !zero:
			g[i].c = holdsOld
		case g[i].c != holdsZeroes:
			g[i].c = holdsHoles
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range g {
		s.insert(r)
		s.holes = s.holes || r.c == holdsHoles
	}
}

func (s *space) insert(r freeRegion) {
	if !s.free.put(r.off/mib, r.n/mib, r.c) {
		panic(fmt.Sprintf("vdisk: of region %#x+%#x some was free already", r.off, r.n))
	}
}

// wholeMiB lengthens a file that ends within a MiB: the log speaks of sizes in MiB
// only, and none below the file's (2.3.1.1).
func (s *space) wholeMiB() (grown bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := roundUp(s.size, mib)
	if size == s.size {
		return false, nil
	}
	if err := s.b.Truncate(size); err != nil {
		return false, err
	}
	s.size = size
	return true, nil
}

func (s *space) fileEnd() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}
