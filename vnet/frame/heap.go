package frame

import (
	"fmt"
	"sync"
	"unsafe"
)

// HeapMemory is buffer memory on the Go heap, for devices that are software:
// models in tests and links between stacks. Bus addresses are numbers of its own;
// At finds what they stand for.
type HeapMemory struct {
	mu   sync.Mutex
	next uint64
	live map[uint64][]byte
}

func (h *HeapMemory) Alloc(size, align uint64) (uint64, []byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live == nil {
		h.live = map[uint64][]byte{}
		h.next = 1 << 32 // so that a driver that drops the upper half is caught
	}
	words := make([]uint64, (size+7)/8)
	data := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)
	bus := (h.next + align - 1) &^ (align - 1)
	h.next = bus + size + 4096 // a gap, so that running over an end is caught
	h.live[bus] = data
	return bus, data, nil
}

func (h *HeapMemory) Free(bus, size uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.live[bus]; !ok || uint64(len(b)) != size {
		panic(fmt.Sprintf("frame: free of %#x, %#x bytes: not allocated so", bus, size))
	}
	delete(h.live, bus)
}

// At returns the n bytes at a bus address, or nil if they are not memory.
func (h *HeapMemory) At(bus, n uint64) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	for start, b := range h.live {
		if bus >= start && bus-start <= uint64(len(b)) && uint64(len(b))-(bus-start) >= n {
			return b[bus-start : bus-start+n]
		}
	}
	return nil
}

// Live is how many allocations there are.
func (h *HeapMemory) Live() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.live)
}
