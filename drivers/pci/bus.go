package pci

import (
	"fmt"
	"sync"
)

// A Bus is a PCI segment: all buses reachable from bus 0, and from those that
// scanPeers finds, through bridges.
type Bus struct {
	cfg     Config
	segment uint16

	functions []*Function // in the order of their addresses on each bus
	seen      [256]bool   // buses that were looked at

	mu      sync.Mutex
	claimed map[Address]string // function to the driver that has it
	windows []window           // register windows in use
}

type window struct {
	start, end uint64
	io         bool
	owner      Address
}

// Scan finds the functions of a segment.
func Scan(cfg Config, segment uint16) *Bus {
	b := &Bus{cfg: cfg, segment: segment, claimed: map[Address]string{}}
	b.scanBus(0)
	return b
}

// scanPeers finds the buses of host bridges beside the first: a server's slots hang
// off such roots, one or more of each processor. What says where they are is ACPI's
// AML, for which there is no interpreter, so every bus number is tried: through
// probe, since not all that the enhanced mechanism's window spans need exist.
func (b *Bus) scanPeers(probe Config) {
	for bus := range len(b.seen) {
		for dev := uint8(0); dev < 32 && !b.seen[bus]; dev++ {
			if absent(probe.Read(Address{b.segment, uint8(bus), dev, 0}, regVendor, 4)) {
				continue
			}
			b.scanBus(uint8(bus))
		}
	}
}

// scanBus lists a bus and what is behind its bridges. seen breaks loops a broken
// bridge could make; recursion is thereby at most 256 deep.
func (b *Bus) scanBus(bus uint8) {
	b.seen[bus] = true
	for dev := range uint8(32) {
		for fn := range uint8(8) {
			a := Address{b.segment, bus, dev, fn}
			f := b.read(a)
			if f == nil {
				if fn == 0 {
					break // PCI 3.2.2.3.4: function 0 always exists
				}
				continue
			}
			b.functions = append(b.functions, f)
			if f.header&headerLayout == headerBridge {
				next := uint8(b.cfg.Read(a, regSecondary, 1))
				if next != 0 && !b.seen[next] {
					b.scanBus(next)
				}
			}
			if fn == 0 && f.header&headerMulti == 0 {
				break
			}
		}
	}
}

// absent tells by a function's numbers whether there is none. Some bridges answer
// zeroes instead of ones.
func absent(id uint32) bool { return id&0xffff == noVendor || id&0xffff == 0 }

func (b *Bus) read(a Address) *Function {
	id := b.cfg.Read(a, regVendor, 4)
	if absent(id) {
		return nil
	}
	class := b.cfg.Read(a, regRevision, 4)
	f := &Function{
		Address:  a,
		Vendor:   uint16(id),
		Device:   uint16(id >> 16),
		Class:    Class(class >> 8),
		Revision: uint8(class),
		header:   uint8(b.cfg.Read(a, regHeaderType, 1)),
		bus:      b,
	}
	if f.header&headerLayout == headerNormal {
		f.SubVendor = uint16(b.cfg.Read(a, regSubVendor, 2))
		f.SubDevice = uint16(b.cfg.Read(a, regSubDevice, 2))
	}
	return f
}

// Functions lists what was found.
func (b *Bus) Functions() []*Function { return b.functions }

// Find returns the functions with one of the given vendor and device numbers,
// written as in a data sheet: vendor in the upper half, 0x8086100e.
func (b *Bus) Find(ids ...uint32) []*Function {
	var found []*Function
	for _, f := range b.functions {
		for _, id := range ids {
			if uint32(f.Vendor)<<16|uint32(f.Device) == id {
				found = append(found, f)
			}
		}
	}
	return found
}

// Driver tells which driver claimed a function, "" for none.
func (b *Bus) Driver(a Address) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.claimed[a]
}

// Claim gives a function to a driver, until Release.
func (f *Function) Claim(driver string) error {
	b := f.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if d, taken := b.claimed[f.Address]; taken {
		return fmt.Errorf("pci: %v is in use by driver %s", f.Address, d)
	}
	b.claimed[f.Address] = driver
	return nil
}

// Release takes bus mastering, interrupts and register windows from a function
// and makes it free to claim again.
func (f *Function) Release() {
	f.SetBusMaster(false)
	f.DisableMSI()
	f.update(regCommand, commandIntDisable, commandIntDisable)
	b := f.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.claimed, f.Address)
	kept := b.windows[:0]
	for _, w := range b.windows {
		if w.owner != f.Address {
			kept = append(kept, w)
		}
	}
	b.windows = kept
}

// claimWindow notes that a function's registers are in use, and refuses windows
// that overlap those of another function: firmware assigned them wrongly.
func (b *Bus) claimWindow(n window) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.windows {
		if w.io == n.io && n.start < w.end && w.start < n.end && w.owner != n.owner {
			return fmt.Errorf("pci: registers of %v at %#x overlap those of %v at %#x: firmware assigned them wrongly",
				n.owner, n.start, w.owner, w.start)
		}
	}
	b.windows = append(b.windows, n)
	return nil
}
