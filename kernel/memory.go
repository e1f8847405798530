package kernel

import (
	"sync/atomic"

	"godwit/kernel/internal/frames"
)

var (
	framesLock spinlock
	ram        frames.Allocator

	directComplete bool // our own tables are in use: the direct map is all there

	kernelPages, tablePages, userPages atomic.Uint64
	physBytes                          atomic.Uint64
	reservedBytes                      uint64 // image, modules and allocator state
	ramTop                             uint64 // RAM above is not used
)

// allocFrame takes one frame, zeroed. Interrupts are off.
func allocFrame() (uint64, bool) {
	c := this()
	if c.npages == 0 {
		framesLock.lock()
		for c.npages < len(c.pages)/2 {
			p, ok := ram.AllocOrder(0)
			if !ok {
				break
			}
			c.pages[c.npages] = p
			c.npages++
		}
		framesLock.unlock()
		if c.npages == 0 {
			return 0, false
		}
	}
	c.npages--
	p := c.pages[c.npages]
	clear(bytesAt(direct(p), pageSize))
	return p, true
}

// freeFrame gives one frame back. Interrupts are off.
func freeFrame(p uint64) {
	c := this()
	if c.npages == len(c.pages) {
		framesLock.lock()
		for c.npages > len(c.pages)/2 {
			c.npages--
			if !ram.Release(c.pages[c.npages], pageSize) {
				fatal("a page was given back that nobody had")
			}
		}
		framesLock.unlock()
	}
	c.pages[c.npages] = p
	c.npages++
}
