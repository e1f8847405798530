// Package mem is where machines get host memory from: the kernel's frames on a
// host, ordinary memory in tests on Linux.
package mem

import (
	"fmt"
	"sync"
)

// A Block is physically contiguous host memory.
type Block struct {
	Phys uint64 // host-physical address
	Data []byte
}

// An Allocator hands out zeroed Blocks.
type Allocator interface {
	// Alloc returns size bytes aligned to align (a power of two, at least 4096).
	Alloc(size, align uint64) (Block, error)
	Free(Block)
}

// Bounded is what an Allocator may be besides: it tells before anything is taken why size bytes can not be had.
type Bounded interface {
	Fits(size uint64) error
}

// Simulated is an Allocator for tests: addresses are made up but unique, and
// Live tells what was not freed. Many goroutines may use it.
type Simulated struct {
	mu   sync.Mutex
	next uint64
	live map[uint64]uint64
	// Limit bounds the live bytes; zero means 1 TiB.
	Limit uint64
}

func (s *Simulated) Alloc(size, align uint64) (Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Limit != 0 && s.sum()+size > s.Limit {
		return Block{}, fmt.Errorf("mem: no %d contiguous bytes left", size)
	}
	if s.live == nil {
		s.live = map[uint64]uint64{}
		s.next = 1 << 32
	}
	s.next = (s.next + align - 1) &^ (align - 1)
	b := Block{Phys: s.next, Data: make([]byte, size)}
	s.next += size
	s.live[b.Phys] = size
	return b, nil
}

func (s *Simulated) Free(b Block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[b.Phys] != uint64(len(b.Data)) {
		panic(fmt.Sprintf("mem: block %#x+%#x was not allocated", b.Phys, len(b.Data)))
	}
	delete(s.live, b.Phys)
}

// Live is the number of bytes allocated and not freed.
func (s *Simulated) Live() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum()
}

func (s *Simulated) sum() (n uint64) {
	for _, v := range s.live {
		n += v
	}
	return n
}
