package kernel

import (
	"errors"
	"fmt"
	"unsafe"

	"godwit/kernel/internal/bootinfo"
)

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
	// In pieces: the runtime can not stop the world within one clear, and a GiB takes a
	// tenth of a second, for which every exit of a guest may wait.
	for rest := data; len(rest) > 0; {
		n := min(len(rest), largeBlock)
		clear(rest[:n])
		rest = rest[n:]
	}
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
