package vmm

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"godwit/vmm/device"
)

// A portRange is claimed by a device.
type portRange struct {
	first, last uint16
	dev         device.PortDevice
}

// portTable holds the ranges by their first port. Below isaPorts, where a PC's own
// devices are, isa has each port's, and one whom an access of one byte goes to, past a
// device.Bytes.
type portTable struct {
	ranges []portRange
	isa    [isaPorts]device.PortDevice
	one    [isaPorts]device.PortDevice
}

const isaPorts = 0x400

func newPortTable(ranges []portRange) *portTable {
	t := &portTable{ranges: ranges}
	for _, r := range ranges {
		one := r.dev
		if b, ok := r.dev.(*device.Bytes); ok {
			one = b.Device
		}
		for p := int(r.first); p <= int(r.last) && p < isaPorts; p++ {
			t.isa[p], t.one[p] = r.dev, one
		}
	}
	return t
}

// An mmioRange is claimed by a device.
type mmioRange struct {
	start, size uint64
	dev         device.MMIODevice
}

// bus finds the device behind an address. Looking up takes no lock: tables are
// sorted slices that are replaced whole when a device is added.
type bus struct {
	ports atomic.Pointer[portTable]
	mmio  atomic.Pointer[[]mmioRange]

	lostPort atomic.Uint64 // accesses that no device answered
	lostMMIO atomic.Uint64

	mu sync.Mutex // serialises changes
}

func newBus() *bus {
	b := new(bus)
	b.ports.Store(newPortTable(nil))
	b.mmio.Store(new([]mmioRange))
	return b
}

// AddPorts gives n ports from first on to d.
func (b *bus) AddPorts(first, n uint16, d device.PortDevice) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := portRange{first, first + n - 1, d}
	if n == 0 || r.last < r.first {
		return fmt.Errorf("ports %#x+%#x wrap around or are none", first, n)
	}
	old := b.ports.Load().ranges
	i, _ := slices.BinarySearchFunc(old, first, func(x portRange, p uint16) int { return int(x.first) - int(p) })
	if i > 0 && old[i-1].last >= first || i < len(old) && old[i].first <= r.last {
		return fmt.Errorf("ports %#x+%#x are taken", first, n)
	}
	b.ports.Store(newPortTable(slices.Insert(slices.Clone(old), i, r)))
	return nil
}

// AddMMIO gives a window to d.
func (b *bus) AddMMIO(start, size uint64, d device.MMIODevice) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if size == 0 || start+size < start {
		return fmt.Errorf("window %#x+%#x is empty or wraps around", start, size)
	}
	old := *b.mmio.Load()
	i := 0
	for i < len(old) && old[i].start < start {
		i++
	}
	if i > 0 && old[i-1].start+old[i-1].size > start || i < len(old) && old[i].start < start+size {
		return fmt.Errorf("window %#x+%#x is taken", start, size)
	}
	t := slices.Insert(slices.Clone(old), i, mmioRange{start, size, d})
	b.mmio.Store(&t)
	return nil
}

// at is the device at a port, nil if there is none.
func (t *portTable) at(p uint16, size int) device.PortDevice {
	if p < isaPorts {
		if size == 1 {
			return t.one[p]
		}
		return t.isa[p]
	}
	return t.search(p)
}

// search is apart so that at is inlined.
//
//go:noinline
func (all *portTable) search(p uint16) device.PortDevice {
	t := all.ranges
	lo, hi := 0, len(t)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch r := &t[m]; {
		case p < r.first:
			hi = m
		case p > r.last:
			lo = m + 1
		default:
			return r.dev
		}
	}
	return nil
}

// In reads a port; nobody's ports read as ones, as on a PC's bus.
func (b *bus) In(p uint16, size int) uint32 {
	if d := b.ports.Load().at(p, size); d != nil {
		return d.In(p, size)
	}
	b.lostPort.Add(1)
	return uint32(1<<(8*uint(size)) - 1)
}

func (b *bus) Out(p uint16, size int, v uint32) {
	if d := b.ports.Load().at(p, size); d != nil {
		d.Out(p, size, v)
		return
	}
	b.lostPort.Add(1)
}

// window finds the device whose window holds n bytes at gpa.
func (b *bus) window(gpa, n uint64) (device.MMIODevice, uint64) {
	t := *b.mmio.Load()
	lo, hi := 0, len(t)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch r := &t[m]; {
		case gpa < r.start:
			hi = m
		case gpa-r.start >= r.size:
			lo = m + 1
		default:
			if off := gpa - r.start; n <= r.size-off {
				return r.dev, off
			}
			return nil, 0
		}
	}
	return nil, 0
}

func (b *bus) ReadMMIO(gpa uint64, p []byte) {
	if d, off := b.window(gpa, uint64(len(p))); d != nil && powerOfTwo(len(p)) {
		d.ReadMMIO(off, p)
		return
	}
	if b.straddles(gpa, p) {
		for i := range p {
			b.ReadMMIO(gpa+uint64(i), p[i:i+1])
		}
		return
	}
	b.lostMMIO.Add(1)
	for i := range p {
		p[i] = 0xff
	}
}

func (b *bus) WriteMMIO(gpa uint64, p []byte) {
	if d, off := b.window(gpa, uint64(len(p))); d != nil && powerOfTwo(len(p)) {
		d.WriteMMIO(off, p)
		return
	}
	if b.straddles(gpa, p) {
		for i := range p {
			b.WriteMMIO(gpa+uint64(i), p[i:i+1])
		}
		return
	}
	b.lostMMIO.Add(1)
}

// straddles tells whether an access only begins or only ends in a window. It goes to
// each device byte by byte.
func (b *bus) straddles(gpa uint64, p []byte) bool {
	n := uint64(len(p))
	if n < 2 {
		return false
	}
	first, _ := b.window(gpa, 1)
	last, _ := b.window(gpa+n-1, 1)
	return first != nil || last != nil
}

// powerOfTwo: devices take 1, 2, 4 and 8 bytes.
func powerOfTwo(n int) bool { return n&(n-1) == 0 }
