package kernel

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"godwit/kernel/internal/bootinfo"
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

// mapsDirect says which kinds of memory the direct map shows: RAM, and what
// firmware keeps in RAM and we only read.
func mapsDirect(typ uint32) bool {
	return typ == bootinfo.RAM || typ == bootinfo.ACPIReclaim || typ == bootinfo.ACPINVS
}

// bootMemory reads physical memory through the direct map.
type bootMemory struct{}

func (bootMemory) Bytes(addr, n uint64) []byte {
	if addr+n < addr || addr+n > directLimit {
		return nil
	}
	if !directComplete {
		if addr+n > 1<<32 {
			return nil
		}
	} else {
		for p := addr &^ (pageSize - 1); p < addr+n; p += pageSize {
			if !physMapped(p) {
				return nil
			}
		}
	}
	return bytesAt(direct(addr), uintptr(n))
}

// tableMemory reads firmware's tables, which may lie in memory the map calls
// reserved: pages the direct map lacks are added to it, read-only.
type tableMemory struct{}

func (tableMemory) Bytes(addr, n uint64) []byte {
	if addr+n < addr || addr+n > directLimit || n == 0 {
		return nil
	}
	for p := addr &^ (pageSize - 1); p < addr+n; p += pageSize {
		if !physMapped(p) && !mapRange(direct(p), p, pageSize, pteGlobal|pteNX, pageSize) {
			return nil
		}
	}
	return bytesAt(direct(addr), uintptr(n))
}

// A span is a range of physical addresses.
type span struct{ start, end uint64 }

// reserved is what the allocator must not hand out.
var (
	reserved  [bootinfo.MaxModules + 4]span
	nreserved int
)

func reserve(start, end uint64) {
	start, end = start&^(pageSize-1), (end+pageSize-1)&^(pageSize-1)
	if start >= end {
		return
	}
	reserved[nreserved] = span{start, end}
	nreserved++
	reservedBytes += end - start
}

// eachFree calls f for every part of [start, end) outside the reserved spans.
func eachFree(start, end uint64, f func(start, end uint64)) {
	for start < end {
		stop, next := end, end
		for _, r := range reserved[:nreserved] {
			if r.start <= start && start < r.end { // inside a span: go on after it
				stop, next = start, r.end
				break
			}
			if r.start > start && r.start < stop {
				stop, next = r.start, r.end
			}
		}
		if stop > start {
			f(start, stop)
		}
		start = next
	}
}

// imageTail is where the part of the image begins that gets memory only when it is
// touched. The linker lays variables out by size, so that beyond the largest of this
// package lie only larger ones of others: in practice 32 MiB that crypto's jitter
// entropy would use on a CPU without a generator of its own.
func imageTail() uintptr {
	return pageUp(uintptr(unsafe.Pointer(&hostLog)) + unsafe.Sizeof(hostLog))
}

// initMemory starts the frame allocator with the RAM below 4 GiB, which the boot
// stub's tables reach.
func initMemory() {
	for i := range boot.Mem[:boot.NMem] {
		if r := &boot.Mem[i]; r.Type == bootinfo.RAM {
			ramTop = max(ramTop, min(r.End, directLimit))
		}
	}
	reserve(0, 1<<20) // firmware's; the AP trampoline borrows a page of it
	reserve(1<<20, uint64(imageTail()))
	for i := range boot.Mod[:boot.NMod] {
		reserve(boot.Mod[i].Start, boot.Mod[i].End)
	}
	size, at := stateSize(ramTop), uint64(0)
	for at = roomBelow4G(size); at == 0 && ramTop > 1<<32; at = roomBelow4G(size) {
		ramTop /= 2
		size = stateSize(ramTop)
		print1("kernel: no room below 4 GiB to keep account of so much memory; what lies above ")
		printHex(ramTop, 16)
		print1(" is not used\n")
	}
	if at == 0 {
		fatal("no room below 4 GiB for the frame allocator's state")
	}
	state := bytesAt(direct(at), uintptr(size))
	clear(state)
	reserve(at, at+size)
	ram.Init(directMap, state)
	addMemory(0, 1<<32)
}

func stateSize(top uint64) uint64 {
	return (frames.StateSize(top) + pageSize - 1) &^ (pageSize - 1)
}

// roomBelow4G finds free RAM below 4 GiB, 0 if there is none.
func roomBelow4G(size uint64) (at uint64) {
	for i := range boot.Mem[:boot.NMem] {
		r := &boot.Mem[i]
		if r.Type != bootinfo.RAM || at != 0 {
			continue
		}
		eachFree(r.Start, min(r.End, 1<<32), func(start, end uint64) {
			start = (start + pageSize - 1) &^ (pageSize - 1)
			if at == 0 && start < end && end-start >= size {
				at = start
			}
		})
	}
	return at
}

// addMemory gives the allocator the RAM in [from, to).
func addMemory(from, to uint64) {
	for i := range boot.Mem[:boot.NMem] {
		r := &boot.Mem[i]
		if r.Type != bootinfo.RAM {
			continue
		}
		eachFree(max(r.Start, from), min(r.End, to), func(start, end uint64) {
			if !ram.Add(start, end) {
				print1("kernel: the memory map has overlapping RAM; a part of it is not used\n")
			}
		})
	}
}

// allocFrame takes one frame, not zeroed. Interrupts are off.
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

// MemInfo says where the machine's memory is. All values are bytes.
type MemInfo struct {
	Total  uint64 // RAM the boot loader reported usable
	Free   uint64
	Kernel uint64 // image, modules, page tables, stacks, per-CPU areas, the allocator's own
	GoHeap uint64 // pages behind the Go runtime's mappings
	Phys   uint64 // held by callers of AllocPhys
}

// Memory reports the current use of memory.
func Memory() MemInfo {
	var m MemInfo
	if !Running() {
		return m
	}
	critical(memoryInfo, unsafe.Pointer(&m))
	for i := range boot.Mem[:boot.NMem] {
		if r := &boot.Mem[i]; r.Type == bootinfo.RAM {
			m.Total += r.End - r.Start
		}
	}
	return m
}

func memoryInfo(arg unsafe.Pointer) {
	m := (*MemInfo)(arg)
	var cached uint64
	for i := uint64(0); i < ncpu; i++ {
		cached += uint64(cpuAt(i).npages) * pageSize
	}
	framesLock.lock()
	free := ram.Free()
	framesLock.unlock()
	*m = MemInfo{
		Free:   free + cached,
		Kernel: reservedBytes + (kernelPages.Load()+tablePages.Load())*pageSize,
		GoHeap: userPages.Load() * pageSize,
		Phys:   physBytes.Load(),
	}
}

type physCall struct {
	size, align, phys uint64
	ok                bool
}

// AllocPhys returns zeroed, physically contiguous memory: size bytes, a multiple of
// 4 KiB up to 1 GiB, aligned to align, a power of two up to 1 GiB. data is the
// direct map's view of it (write-back).
func AllocPhys(size, align uint64) (phys uint64, data []byte, err error) {
	if !Running() {
		return 0, nil, errNotRunning
	}
	a := physCall{size: size, align: max(align, pageSize)}
	if size == 0 || size%pageSize != 0 || size > hugePage || a.align > hugePage || a.align&(a.align-1) != 0 {
		return 0, nil, fmt.Errorf("kernel: AllocPhys of %#x bytes aligned to %#x: size must be a multiple of 4 KiB up to 1 GiB, alignment a power of two up to 1 GiB", size, align)
	}
	critical(allocPhys, unsafe.Pointer(&a))
	if !a.ok && collect() {
		critical(allocPhys, unsafe.Pointer(&a))
	}
	if !a.ok {
		return 0, nil, fmt.Errorf("kernel: no %d KiB of contiguous memory left (%d MiB free in all)", size>>10, Memory().Free>>20)
	}
	if size >= largeBlock {
		limitHeap()
	}
	data = bytesAt(direct(a.phys), uintptr(size))
	clear(data)
	return a.phys, data, nil
}

func allocPhys(arg unsafe.Pointer) {
	a := (*physCall)(arg)
	size, align := a.size, a.align
	framesLock.lock()
	p, ok := ram.Alloc(size, align)
	framesLock.unlock()
	a.phys, a.ok = p, ok
	if ok {
		physBytes.Add(size)
	}
}

// FreePhys gives back what AllocPhys returned, wholly or in part. Giving back what
// is not allocated panics.
func FreePhys(phys, size uint64) {
	a := physCall{phys: phys, size: size}
	critical(freePhys, unsafe.Pointer(&a))
	if !a.ok {
		panic(fmt.Sprintf("kernel: FreePhys of %#x bytes at %#x, which are not allocated", size, phys))
	}
	if size >= largeBlock {
		limitHeap()
	}
}

func freePhys(arg unsafe.Pointer) {
	a := (*physCall)(arg)
	phys, size := a.phys, a.size
	framesLock.lock()
	ok := ram.Release(phys, size)
	framesLock.unlock()
	a.ok = ok
	if ok {
		physBytes.Add(-size)
	}
}

// PhysBytes is the direct map's view of memory, uncopied. It panics if the range
// is not RAM.
func PhysBytes(phys, size uint64) []byte {
	b := bootMemory{}.Bytes(phys, size)
	if b == nil {
		panic(fmt.Sprintf("kernel: PhysBytes of %#x bytes at %#x, which is not RAM", size, phys))
	}
	return b
}

// PhysOf translates an address inside the direct map or the kernel image.
// It panics for any other address, such as one in the Go heap.
func PhysOf(p unsafe.Pointer) uint64 {
	a := uintptr(p)
	switch {
	case a >= directMap && a < directMap+directLimit:
		return uint64(a - directMap)
	case a >= imageText() && a < imageTail():
		return uint64(a)
	}
	panic(fmt.Sprintf("kernel: PhysOf(%#x): neither direct map nor image", a))
}

var errNotRunning = errors.New("kernel: not on bare hardware")
