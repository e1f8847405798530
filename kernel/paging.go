package kernel

import (
	"sync/atomic"
	"unsafe"
)

// Page table entry bits (SDM vol. 3, table 4-20).
const (
	ptePresent = 1 << 0
	pteWrite   = 1 << 1
	ptePWT     = 1 << 3
	ptePCD     = 1 << 4
	pteLarge   = 1 << 7
	pteGlobal  = 1 << 8
	pteNX      = 1 << 63
	pteAddr    = 0x000f_ffff_ffff_f000

	pteUncached = ptePCD | ptePWT // PAT entry 3, UC after reset (SDM vol. 3, table 12-12)
)

const (
	pageSize  = 4 << 10
	largePage = 2 << 20
	hugePage  = 1 << 30
)

// rootTable is the PML4 of every CPU. It lies in the image because a starting CPU
// loads CR3 in 16-bit mode and so needs it below 4 GiB.
var rootTable [2 * pageSize]byte

func rootPhys() uint64 {
	return (uint64(uintptr(unsafe.Pointer(&rootTable))) + pageSize - 1) &^ (pageSize - 1)
}

// tableAt returns the page table at a physical address, through the direct map,
// which the boot stub's tables provide at the same place for the first 4 GiB.
func tableAt(phys uint64) *[512]uint64 { return (*[512]uint64)(ptr(direct(phys))) }

// entry returns the page table entry of an address at a level (1: 4 KiB, 2: 2 MiB,
// 3: 1 GiB), making the tables above it if create is set. It returns nil if they
// are missing, or if a larger page is in the way; and if there is no memory.
func entry(addr uintptr, level int, create bool) *uint64 {
	t := tableAt(rootPhys())
	for l := 4; ; l-- {
		e := &t[addr>>(12+9*uint(l-1))&511]
		if l == level {
			return e
		}
		v := atomic.LoadUint64(e)
		if v&ptePresent == 0 {
			if !create {
				return nil
			}
			p, ok := allocFrame()
			if !ok {
				return nil
			}
			tablePages.Add(1)
			v = p | ptePresent | pteWrite
			if !atomic.CompareAndSwapUint64(e, 0, v) { // another CPU was quicker
				freeFrame(p)
				tablePages.Add(^uint64(0))
				v = atomic.LoadUint64(e)
			}
		}
		if v&pteLarge != 0 {
			return nil
		}
		t = tableAt(v & pteAddr)
	}
}

// mapRange maps [phys, phys+size) at addr with the largest pages that fit, up to
// maxPage. It reports false if there is no memory for tables or something is
// mapped there already.
func mapRange(addr uintptr, phys, size uint64, flags uint64, maxPage uint64) bool {
	for size > 0 {
		level, n, large := 1, uint64(pageSize), uint64(0)
		switch off := uint64(addr) | phys; {
		case maxPage >= hugePage && off%hugePage == 0 && size >= hugePage:
			level, n, large = 3, hugePage, pteLarge
		case maxPage >= largePage && off%largePage == 0 && size >= largePage:
			level, n, large = 2, largePage, pteLarge
		}
		e := entry(addr, level, true)
		if e == nil || !atomic.CompareAndSwapUint64(e, 0, phys|flags|large|ptePresent) {
			return false
		}
		addr, phys, size = addr+uintptr(n), phys+n, size-n
	}
	return true
}

// mapNew maps fresh zeroed frames at [addr, addr+size): all, or none if memory ends.
func mapNew(addr, size uintptr, flags uint64) bool {
	for a := addr; a < addr+size; a += pageSize {
		p, ok := allocFrame()
		if !ok || !mapRange(a, p, pageSize, flags, pageSize) {
			if ok {
				freeFrame(p)
			}
			for a > addr { // nobody has used these addresses: no TLB knows them
				a -= pageSize
				freeFrame(atomic.SwapUint64(entry(a, 1, false), 0) & pteAddr)
				kernelPages.Add(^uint64(0))
			}
			return false
		}
		kernelPages.Add(1)
	}
	return true
}

// unmapPage removes one 4 KiB mapping of the kernel's own. The caller sees to
// other CPUs' TLBs.
func unmapPage(addr uintptr) {
	if e := entry(addr, 1, false); e != nil {
		atomic.StoreUint64(e, 0)
		invlpg(addr)
	}
}

const (
	kernelData = pteWrite | pteGlobal | pteNX
	userData   = pteWrite | pteNX
	deviceData = pteWrite | pteGlobal | pteNX | pteUncached
)

// buildTables makes the kernel's page tables, for the image and for every range of
// memory the boot loader named, and switches to them.
func buildTables() {
	page := uint64(largePage)
	if _, _, _, d := CPUID(0x80000001, 0); d>>26&1 != 0 { // Page1GB
		page = hugePage
	}
	text, etext := uint64(imageText()), uint64(imageEtext())
	// The read-only segment goes on after rodata's end with the runtime's tables, up
	// to the page where variables begin.
	ro, data, end := uint64(imageRodata()), uint64(imageData()), uint64(imageTail())
	ero := data &^ (pageSize - 1)
	up := func(v uint64) uint64 { return (v + pageSize - 1) &^ (pageSize - 1) }
	down := func(v uint64) uint64 { return v &^ (pageSize - 1) }
	ok := mapRange(uintptr(down(text)), down(text), up(etext)-down(text), pteGlobal, pageSize) &&
		mapRange(uintptr(down(ro)), down(ro), up(ero)-down(ro), pteGlobal|pteNX, pageSize) &&
		mapRange(uintptr(down(data)), down(data), end-down(data), kernelData, largePage)
	if !ok {
		fatal("cannot map the image: no memory for page tables below 4 GiB")
	}
	// The direct map must not be a way around the image's write protection.
	if !mapRange(direct(down(text)), down(text), up(ero)-down(text), pteGlobal|pteNX, pageSize) {
		fatal("cannot map the image: no memory for page tables below 4 GiB")
	}
	for i := range boot.Mem[:boot.NMem] {
		r := &boot.Mem[i]
		if !mapsDirect(r.Type) || r.Start >= directLimit {
			continue
		}
		start, stop := down(r.Start), min(up(r.End), directLimit)
		if !mapDirect(start, stop, page) {
			fatal("cannot map all memory: no memory for page tables below 4 GiB")
		}
	}
	// Firmware leaves tables in the ROM area without naming it.
	if !mapDirect(0, 1<<20, pageSize) {
		fatal("cannot map the first MiB")
	}
	writeCR3(rootPhys())
	directComplete = true
}

// mapDirect maps a physical range into the direct map. Ranges may overlap: maps
// come from firmware. Large pages are used only where they lie wholly inside the
// range, so that none spans memory of another caching type.
func mapDirect(start, end, page uint64) bool {
	for p := start; p < end; {
		if physMapped(p) {
			p += pageSize
			continue
		}
		done := false
		for _, n := range [3]uint64{hugePage, largePage, pageSize} {
			// A large page fails where smaller ones are in its way.
			if n <= page && p%n == 0 && end-p >= n && mapRange(direct(p), p, n, kernelData, n) {
				p += n
				done = true
				break
			}
		}
		if !done {
			return false
		}
	}
	return true
}

// physMapped reports whether the direct map has the page at phys.
func physMapped(phys uint64) bool {
	if phys >= directLimit {
		return false
	}
	t := tableAt(rootPhys())
	a := direct(phys)
	for l := uint(4); l > 0; l-- {
		v := atomic.LoadUint64(&t[a>>(12+9*(l-1))&511])
		if v&ptePresent == 0 {
			return false
		}
		if v&pteLarge != 0 {
			return true
		}
		t = tableAt(v & pteAddr)
	}
	return true
}
