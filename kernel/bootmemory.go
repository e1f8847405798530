package kernel

import (
	"unsafe"

	"godwit/kernel/internal/bootinfo"
	"godwit/kernel/internal/frames"
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
		ramTop = max(ramTop/2, 1<<32)
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
