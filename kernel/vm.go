package kernel

import (
	"sync/atomic"
	"unsafe"

	"godwit/kernel/internal/vma"
)

// The Go runtime's address space. Pages appear when first touched and go when the
// runtime says so (MADV_DONTNEED, munmap, or mapping over them).
var space struct {
	mu    spinlock
	areas vma.Map
}

// Linux's numbers (include/uapi/asm-generic/mman*.h, errno-base.h).
const (
	mapFixed = 0x10
	mapAnon  = 0x20

	madvDontNeed = 4
	madvFree     = 8

	pfPresent = 1 << 0 // page fault error code (SDM vol. 3, figure 4-12)
	pfWrite   = 1 << 1
	pfFetch   = 1 << 4
)

func pageUp(a uintptr) uintptr { return (a + pageSize - 1) &^ (pageSize - 1) }

// inUser reports whether [addr, addr+size) lies in the runtime's part.
func inUser(addr, size uintptr) bool {
	return addr >= userStart && addr <= userEnd && size <= userEnd-addr
}

// mmap answers the system call of that name, for anonymous memory.
func mmap(addr, size uintptr, prot, flags uint32, fd int32) uintptr {
	if size == 0 || flags&mapAnon == 0 || fd >= 0 {
		return errno(einval)
	}
	if size = pageUp(size); size == 0 {
		return errno(enomem)
	}
	if flags&mapFixed != 0 {
		if addr%pageSize != 0 || !inUser(addr, size) {
			return errno(einval)
		}
		space.mu.lock()
		used := !space.areas.Free(addr, addr+size)
		ok := space.areas.Set(addr, addr+size, vma.Prot(prot))
		space.mu.unlock()
		if !ok {
			return errno(enomem)
		}
		if used {
			dropPages(addr, addr+size)
		}
		return addr
	}
	addr &^= pageSize - 1
	space.mu.lock()
	if addr == 0 || !inUser(addr, size) || !space.areas.Free(addr, addr+size) {
		var ok bool
		if addr, ok = space.areas.Gap(mmapStart, userEnd, size); !ok {
			space.mu.unlock()
			return errno(enomem)
		}
	}
	ok := space.areas.Set(addr, addr+size, vma.Prot(prot))
	space.mu.unlock()
	if !ok {
		return errno(enomem)
	}
	return addr
}

func munmap(addr, size uintptr) uintptr {
	size = pageUp(size)
	if addr%pageSize != 0 || size == 0 || !inUser(addr, size) {
		return errno(einval)
	}
	space.mu.lock()
	ok := space.areas.Remove(addr, addr+size)
	space.mu.unlock()
	if !ok {
		return errno(enomem)
	}
	dropPages(addr, addr+size)
	return 0
}

func madvise(addr, size uintptr, advice uint32) uintptr {
	if advice != madvDontNeed && advice != madvFree {
		return 0 // advice about large pages and the like may be ignored
	}
	whole := pageUp(size)
	if whole < size || addr%pageSize != 0 || !inUser(addr, whole) {
		return errno(einval)
	}
	dropPages(addr, addr+whole)
	return 0
}

// mprotect changes the protection of whole mapped areas.
func mprotect(addr, size uintptr, prot uint32) uintptr {
	size = pageUp(size)
	if addr%pageSize != 0 || !inUser(addr, size) {
		return errno(einval)
	}
	space.mu.lock()
	ok := space.areas.Set(addr, addr+size, vma.Prot(prot))
	changed := false
	if ok {
		eachPage(addr, addr+size, func(a uintptr, e *uint64) bool {
			v := *e &^ uint64(pteWrite|ptePresent)
			if vma.Prot(prot)&vma.Write != 0 {
				v |= pteWrite
			}
			if vma.Prot(prot) != vma.None {
				v |= ptePresent
			}
			atomic.StoreUint64(e, v)
			changed = true
			return true
		})
	}
	space.mu.unlock()
	if !ok {
		return errno(enomem)
	}
	if changed {
		shootdown()
	}
	return 0
}

// eachPage calls f for every page table entry in use in [start, end), skipping
// what has no table, until f returns false.
func eachPage(start, end uintptr, f func(addr uintptr, e *uint64) bool) {
	for a := start; a < end; {
		if e := entry(a, 1, false); e != nil {
			if atomic.LoadUint64(e) != 0 && !f(a, e) {
				return
			}
			a += pageSize
			continue
		}
		// Skip what the missing table would have covered.
		switch {
		case entry(a, 2, false) != nil:
			a = a&^(largePage-1) + largePage
		case entry(a, 3, false) != nil:
			a = a&^(hugePage-1) + hugePage
		default:
			a = a&^(512*hugePage-1) + 512*hugePage
		}
	}
}

// dropBatch is how many frames one shootdown frees.
const dropBatch = 256

// dropPages gives back the frames of [start, end): entries go first, then every
// CPU's TLB forgets them, and only then may the frames be used again.
func dropPages(start, end uintptr) {
	var batch [dropBatch]uint64
	for start < end {
		n := 0
		next := end
		space.mu.lock()
		eachPage(start, end, func(a uintptr, e *uint64) bool {
			if n == dropBatch {
				next = a
				return false
			}
			batch[n] = atomic.SwapUint64(e, 0) & pteAddr
			n++
			return true
		})
		space.mu.unlock()
		if n > 0 {
			shootdown()
			freeUserFrames(batch[:n])
			userPages.Add(-uint64(n))
		}
		start = next
	}
}

// homeOf is where the frame for addr should lie: where it fits to those of the pages
// around it that have such a place; 0 if none has. unused tells that there is no page
// at all in these 2 MiB. Other CPUs may change the entries meanwhile; then that frame
// will not be free.
func homeOf(addr uintptr) (at uint64, unused bool) {
	first := entry(addr&^(largePage-1), 1, false)
	if first == nil {
		return 0, true
	}
	table := (*[512]uint64)(unsafe.Pointer(first))
	own := int(addr / pageSize % 512)
	unused = true
	for d := 1; d < 512; d++ {
		for _, i := range [2]int{own - d, own + d} {
			if i < 0 || i > 511 {
				continue
			}
			v := atomic.LoadUint64(&table[i]) & pteAddr
			if v == 0 {
				continue
			}
			if v/pageSize%512 == uint64(i) {
				return v&^(largePage-1) + uint64(own)*pageSize, false
			}
			unused = false
		}
	}
	return 0, unused
}

// writable reports whether all of the 2 MiB around addr is, as where the heap lies.
// Smaller mappings are the runtime's own books, and stay.
func writable(addr uintptr) bool {
	base := addr &^ (largePage - 1)
	space.mu.lock()
	a, ok := space.areas.Find(addr)
	space.mu.unlock()
	return ok && a.Prot&vma.Write != 0 && a.Start <= base && a.End-base >= largePage
}

// populate makes the page at addr present, if the access is one the runtime
// mapped it for.
func populate(addr uintptr, write bool) bool {
	if (addr < userStart || addr >= userEnd) && (addr < imageTail() || addr >= imageEnd()) {
		return false
	}
	addr &^= pageSize - 1
	p, ok := allocUserFrame(addr)
	if !ok {
		outOfMemory()
	}
	frame := [1]uint64{p}
	space.mu.lock()
	a, ok := space.areas.Find(addr)
	if !ok || a.Prot == vma.None || write && a.Prot&vma.Write == 0 {
		space.mu.unlock()
		freeUserFrames(frame[:])
		return false
	}
	flags := uint64(ptePresent | pteNX)
	if a.Prot&vma.Write != 0 {
		flags |= pteWrite
	}
	e := entry(addr, 1, true)
	if e == nil {
		space.mu.unlock()
		outOfMemory()
	}
	if atomic.LoadUint64(e) != 0 { // another CPU touched it first
		space.mu.unlock()
		freeUserFrames(frame[:])
		return true
	}
	atomic.StoreUint64(e, p|flags)
	space.mu.unlock()
	userPages.Add(1)
	return true
}

// handlePageFault answers a #PF at addr. It reports false if the access was wrong.
func handlePageFault(addr uintptr, code uint64) bool {
	if code&pfFetch != 0 {
		return false
	}
	if code&pfPresent != 0 {
		// Another CPU may have raised the entry's permission meanwhile.
		if addr < userStart || addr >= userEnd {
			return false
		}
		e := entry(addr, 1, false)
		if e != nil && code&pfWrite != 0 && atomic.LoadUint64(e)&(ptePresent|pteWrite) == ptePresent|pteWrite {
			invlpg(addr)
			return true
		}
		return false
	}
	this().stat.faults++
	return populate(addr, code&pfWrite != 0)
}
