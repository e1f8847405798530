package pci

import "fmt"

// A Region is what a base address register describes.
type Region struct {
	Address uint64
	Size    uint64
	IO      bool // ports rather than memory
	Wide    bool // a 64-bit register: takes this index and the next
}

// Base address registers, PCI 6.2.5.1.
const (
	barIO         = 1 << 0
	barType       = 3 << 1
	barType32     = 0 << 1
	barTypeLow    = 1 << 1 // below 1 MiB; PCI 2.x, still seen
	barType64     = 2 << 1
	barIOMask     = 0xffff_fffc
	barMemoryMask = 0xffff_fff0
)

// Region reads and sizes base address register i and claims what it describes,
// so that no two functions' registers overlap. Firmware must have assigned it an
// address. The function must not be doing anything: its decoding is off for the
// moment that sizing takes.
func (f *Function) Region(i int) (Region, error) {
	r, err := f.size(i)
	if err != nil {
		return Region{}, err
	}
	if r.Address == 0 {
		return Region{}, fmt.Errorf("pci: %v BAR %d has no address: firmware did not assign it", f, i)
	}
	if err := f.bus.claimWindow(window{r.Address, r.Address + r.Size, r.IO, f.Address}); err != nil {
		return Region{}, err
	}
	bit := uint16(commandMemory)
	if r.IO {
		bit = commandIO
	}
	f.update(regCommand, bit, bit)
	return r, nil
}

func (f *Function) size(i int) (Region, error) {
	count := 6
	switch f.header & headerLayout {
	case headerBridge:
		count = 2
	case headerCardBus:
		count = 0
	}
	if i < 0 || i >= count {
		return Region{}, fmt.Errorf("pci: %v has no BAR %d", f, i)
	}
	// PCI 6.2.5.1, implementation note: decoding is off while the register
	// holds all ones, or the function would answer at the top of memory.
	command := f.Config16(regCommand)
	f.SetConfig16(regCommand, command&^(commandIO|commandMemory))
	defer f.SetConfig16(regCommand, command)

	off := regBAR0 + 4*i
	low, lowMask := f.probe(off)
	if lowMask == 0 {
		return Region{}, fmt.Errorf("pci: %v does not implement BAR %d", f, i)
	}
	if low&barIO != 0 {
		mask := lowMask & barIOMask
		if mask>>16 == 0 { // a function may decode 16 bits of port address only
			mask |= 0xffff_0000
		}
		return f.region(i, uint64(low&barIOMask), uint64(^mask)+1, Region{IO: true})
	}
	switch low & barType {
	case barType32, barTypeLow:
		return f.region(i, uint64(low&barMemoryMask), uint64(^(lowMask&barMemoryMask))+1, Region{})
	case barType64:
		if i+1 >= count {
			return Region{}, fmt.Errorf("pci: %v BAR %d is 64 bits wide, but the last", f, i)
		}
		high, highMask := f.probe(off + 4)
		mask := uint64(highMask)<<32 | uint64(lowMask&barMemoryMask)
		return f.region(i, uint64(high)<<32|uint64(low&barMemoryMask), ^mask+1, Region{Wide: true})
	}
	return Region{}, fmt.Errorf("pci: %v BAR %d has reserved type %#x", f, i, low&barType>>1)
}

// probe returns a register's value and which of its bits can be written.
func (f *Function) probe(off int) (value, mask uint32) {
	value = f.Config32(off)
	f.SetConfig32(off, 0xffff_ffff)
	mask = f.Config32(off)
	f.SetConfig32(off, value)
	return value, mask
}

func (f *Function) region(i int, address, size uint64, r Region) (Region, error) {
	if size == 0 || size&(size-1) != 0 || address&(size-1) != 0 || address+size < address {
		return Region{}, fmt.Errorf("pci: %v BAR %d: address %#x with size %#x cannot be", f, i, address, size)
	}
	r.Address, r.Size = address, size
	return r, nil
}
