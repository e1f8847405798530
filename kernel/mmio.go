package kernel

import (
	"fmt"
	"sync"
	"unsafe"
)

// windows are the mappings of device registers. They are never removed: a driver
// that starts again gets its old one.
var windows struct {
	sync.Mutex
	next uintptr
	all  []window
}

type window struct {
	phys, size uint64
	addr       uintptr
}

// MapMMIO maps a window of device registers, uncached. The same window always
// gives the same mapping. RAM is refused: it is mapped already, cached, and a
// second mapping of another type would be incoherent (SDM vol. 3, 12.12.4).
func MapMMIO(phys, size uint64) ([]byte, error) {
	if !Running() {
		return nil, errNotRunning
	}
	if size == 0 || size > mmioEnd-mmioStart || phys >= 1<<52-size {
		return nil, fmt.Errorf("kernel: MapMMIO of %#x+%#x: no such addresses", phys, size)
	}
	first, last := phys&^(pageSize-1), (phys+size+pageSize-1)&^(pageSize-1)
	for p := first; p < last && p < 1<<45; p += pageSize {
		if physMapped(p) {
			return nil, fmt.Errorf("kernel: MapMMIO of %#x+%#x: %#x is memory, not device registers", phys, size, p)
		}
	}
	windows.Lock()
	defer windows.Unlock()
	for _, w := range windows.all {
		if w.phys <= phys && phys+size <= w.phys+w.size {
			return bytesAt(w.addr+uintptr(phys-w.phys), uintptr(size)), nil
		}
	}
	if windows.next == 0 {
		windows.next = mmioStart
	}
	w := window{first, last - first, windows.next}
	if uint64(mmioEnd-w.addr) < w.size {
		return nil, fmt.Errorf("kernel: MapMMIO of %#x+%#x: no address space left for device registers", phys, size)
	}
	c := mmioCall{window: w}
	critical(mapWindow, unsafe.Pointer(&c))
	windows.next += uintptr(w.size) + pageSize // a page between windows catches overruns
	if !c.ok {
		return nil, fmt.Errorf("kernel: MapMMIO of %#x+%#x: no memory for page tables", phys, size)
	}
	windows.all = append(windows.all, w)
	return bytesAt(w.addr+uintptr(phys-first), uintptr(size)), nil
}

type mmioCall struct {
	window
	ok bool
}

func mapWindow(arg unsafe.Pointer) {
	c := (*mmioCall)(arg)
	c.ok = mapRange(c.addr, c.phys, c.size, deviceData, pageSize)
}
