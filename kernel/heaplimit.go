package kernel

import (
	"runtime/debug"
	"sync"
)

// The Go heap and the guests share the machine's memory. The runtime is told how
// much it may use: what it has, and three quarters of what is free. Near that limit it
// collects garbage more often instead of growing. What is free changes by much only
// when a guest's memory is taken or given back, so that is when the limit is set.

const (
	heapFloor  = 32 << 20 // a lower limit would only make it collect without end
	largeBlock = 2 << 20  // smaller ones do not count
)

var heapLimit struct {
	sync.Mutex
	set uint64
}

// heapBudget is the limit for a heap of so many bytes and so much free memory.
func heapBudget(heap, free uint64) uint64 { return max(heapFloor, heap+free/4*3) }

// limitHeap sets the limit anew if it should differ by an eighth. Setting it stops the
// world for a moment.
func limitHeap() {
	m := Memory()
	want := heapBudget(m.GoHeap, m.Free)
	heapLimit.Lock()
	defer heapLimit.Unlock()
	if old := heapLimit.set; max(want, old)-min(want, old) > old/8 {
		heapLimit.set = want
		debug.SetMemoryLimit(int64(want))
	}
}

func init() {
	if Running() {
		limitHeap()
	}
}

// worthCollecting is how large a heap must be for somebody who found no memory to
// wait for a collection.
const worthCollecting = 16 << 20

// collect makes the runtime give back what it does not need, and tells whether that
// may have been something.
func collect() bool {
	if Memory().GoHeap < worthCollecting {
		return false
	}
	debug.FreeOSMemory()
	return true
}
