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

// allocUserFrame takes one frame, zeroed, for a page of the runtime's. Where the heap
// lies, pages that are neighbours have neighbouring frames, so that what the heap gives
// back are whole blocks of 2 MiB, which guests are made of: see package frames. Page
// tables, stacks and the like stay, and have blocks of their own.
func allocUserFrame(addr uintptr) (p uint64, ok bool) {
	at, unused := homeOf(addr)
	switch {
	case at != 0:
		framesLock.lock()
		p, ok = at, ram.AllocAt(at)
		framesLock.unlock()
	case unused && writable(addr):
		framesLock.lock()
		p, ok = ram.OpenHome(uint64(addr))
		framesLock.unlock()
	}
	if !ok {
		return allocFrame()
	}
	clear(bytesAt(direct(p), pageSize))
	return p, true
}

// freeUserFrames gives frames of the runtime's pages back, past this CPU's cache: what
// took them from there would stay in the heap's blocks. Interrupts are off.
func freeUserFrames(frames []uint64) {
	for len(frames) > 0 {
		n := min(len(frames), len(cpu{}.pages)/2) // others wait for the lock
		framesLock.lock()
		for _, p := range frames[:n] {
			if !ram.Release(p, pageSize) {
				fatal("a page was given back that nobody had")
			}
		}
		framesLock.unlock()
		frames = frames[n:]
	}
}
