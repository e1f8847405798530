package main

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	pageBytes = 4096
	pageWords = pageBytes / 8
)

// slab is the part of memory one worker owns: nobody else touches it, so every difference between what was written
// and what is read is the machine's fault. A page holds the sequence that grows from its seed.
type slab struct {
	pages []([pageWords]uint64)
	seeds []uint64
	rng   uint64
	next  int // the page to check next

	writes, checks, passes atomic.Uint64
}

func newSlab(bytes uint64, seed uint64) (*slab, error) {
	n := int(bytes / pageBytes)
	mem, err := unix.Mmap(-1, 0, n*pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d pages: %w", n, err)
	}
	s := &slab{
		pages: unsafe.Slice((*[pageWords]uint64)(unsafe.Pointer(unsafe.SliceData(mem))), n),
		seeds: make([]uint64, n),
		rng:   seed | 1,
	}
	return s, nil
}

// step is xorshift64 (Marsaglia, "Xorshift RNGs", 2003): a full period over all values but zero.
func step(x uint64) uint64 {
	x ^= x << 13
	x ^= x >> 7
	return x ^ x<<17
}

func (s *slab) random() uint64 { s.rng = step(s.rng); return s.rng }

func (s *slab) write(page int) {
	x := s.random()
	s.seeds[page] = x
	p := &s.pages[page]
	for i := range p {
		x = step(x)
		p[i] = x
	}
	s.writes.Add(1)
}

// check compares one page with its seed's sequence and folds its words.
func (s *slab) check(page int) (sum uint64, err error) {
	x := s.seeds[page]
	p := &s.pages[page]
	for i := range p {
		x = step(x)
		if got := p[i]; got != x {
			return 0, fmt.Errorf("memory page %d of %d word %d holds %#016x instead of %#016x seed %#x", page, len(s.pages), i, got, x, s.seeds[page])
		}
		sum = (sum ^ x) * 0x100000001b3 // FNV-1's prime
	}
	s.checks.Add(1)
	return sum, nil
}

// fill writes every page once.
func (s *slab) fill() {
	for i := range s.pages {
		s.write(i)
	}
}

// work writes n random pages and checks 2n in turn.
func (s *slab) work(n int) error {
	for range n {
		s.write(int(s.random() % uint64(len(s.pages))))
	}
	for range 2 * n {
		if _, err := s.check(s.next); err != nil {
			return err
		}
		if s.next++; s.next == len(s.pages) {
			s.next = 0
			s.passes.Add(1)
		}
	}
	return nil
}

// sum checks all pages and folds them into one number.
func (s *slab) sum() (sum uint64, err error) {
	for i := range s.pages {
		v, err := s.check(i)
		if err != nil {
			return 0, err
		}
		sum = (sum ^ v) * 0x100000001b3
	}
	return sum, nil
}

// pace spreads rate pages a second over short sleeps; it tells how many are due now.
type pace struct {
	rate int // 0: no limit
	last time.Time
	debt float64
}

func (p *pace) due() int {
	const burst = 64 // pages at once: bounds the catching up after a pause
	if p.rate == 0 {
		return burst
	}
	now := time.Now()
	p.debt = min(burst, p.debt+now.Sub(p.last).Seconds()*float64(p.rate))
	p.last = now
	n := int(p.debt)
	p.debt -= float64(n)
	return n
}
