package pci

import (
	"errors"
	"fmt"

	"godwit/drivers/mmio"
)

// ErrNoMSI tells that a function has no message-signalled interrupts.
var ErrNoMSI = errors.New("function has no message-signalled interrupts")

// MSI capability, PCI 6.8.1.
const (
	msiControl  = 0x02
	msiAddress  = 0x04
	msiData32   = 0x08 // data, if addresses have 32 bits
	msiAddrHigh = 0x08
	msiData64   = 0x0c // data, if addresses have 64 bits

	msiEnable   = 1 << 0
	msiMultiple = 7 << 4 // log2 of the messages in use
	msiWide     = 1 << 7
	msiMaskable = 1 << 8
)

// EnableMSI makes the function signal its one interrupt by writing data to
// address, instead of by its pin.
func (f *Function) EnableMSI(address uint64, data uint32) error {
	off, ok := f.capability(CapMSI)
	if !ok {
		return ErrNoMSI
	}
	control := f.Config16(off + msiControl)
	size := 0x0a
	if control&msiWide != 0 {
		size = 0x0e
	}
	if control&msiMaskable != 0 {
		size += 10 // two bytes reserved, mask, pending
	}
	if off+size > legacySize {
		return fmt.Errorf("pci: %v: MSI capability at %#x runs past the space", f, off)
	}
	f.SetConfig16(off+msiControl, control&^(msiEnable|msiMultiple))
	f.SetConfig32(off+msiAddress, uint32(address))
	dataAt := msiData32
	if control&msiWide != 0 {
		f.SetConfig32(off+msiAddrHigh, uint32(address>>32))
		dataAt = msiData64
	} else if address>>32 != 0 {
		return fmt.Errorf("pci: %v: MSI address %#x does not fit the function's 32 bits", f, address)
	}
	f.SetConfig16(off+dataAt, uint16(data))
	if control&msiMaskable != 0 {
		mask := off + dataAt + 4
		f.SetConfig32(mask, f.Config32(mask)&^1)
	}
	f.update(regCommand, commandIntDisable, commandIntDisable)
	f.SetConfig16(off+msiControl, control&^msiMultiple|msiEnable)
	return nil
}

// DisableMSI turns message-signalled interrupts of either kind off.
func (f *Function) DisableMSI() {
	if off, ok := f.capability(CapMSI); ok {
		f.update(off+msiControl, msiEnable, 0)
	}
	if off, ok := f.capability(CapMSIX); ok && off+12 <= legacySize {
		f.update(off+msixControl, msixEnable, 0)
	}
}

// MSI-X capability and table, PCI 6.8.2.
const (
	msixControl = 0x02
	msixTable   = 0x04 // offset, with the BAR's index in the low three bits

	msixEnable    = 1 << 15
	msixMaskAll   = 1 << 14
	msixTableSize = 0x7ff // less one

	msixEntry       = 16
	msixEntryLow    = 0
	msixEntryHigh   = 4
	msixEntryData   = 8
	msixEntryVector = 12
	msixMasked      = 1 << 0
)

// MSIX is a function's table of messages, all masked until set.
type MSIX struct {
	f     *Function
	off   int
	table mmio.Window
	n     int
}

// EnableMSIX turns the function's MSI-X on with all messages masked.
func (f *Function) EnableMSIX(m Mapper) (*MSIX, error) {
	off, ok := f.capability(CapMSIX)
	if !ok {
		return nil, ErrNoMSI
	}
	if off+12 > legacySize {
		return nil, fmt.Errorf("pci: %v: MSI-X capability at %#x runs past the space", f, off)
	}
	control := f.Config16(off + msixControl)
	n := int(control&msixTableSize) + 1
	where := f.Config32(off + msixTable)
	bar, start := int(where&7), uint64(where&^7)
	r, err := f.Region(bar)
	if err != nil {
		return nil, fmt.Errorf("MSI-X table: %w", err)
	}
	size := uint64(n) * msixEntry
	if r.IO || start > r.Size || r.Size-start < size {
		return nil, fmt.Errorf("pci: %v: MSI-X table of %d at %#x is not inside BAR %d of %#x bytes", f, n, start, bar, r.Size)
	}
	mem, err := m(r.Address, r.Size)
	if err != nil {
		return nil, fmt.Errorf("pci: %v: map BAR %d: %w", f, bar, err)
	}
	x := &MSIX{f: f, off: off, table: mmio.Window(mem[start : start+size]), n: n}
	f.SetConfig16(off+msixControl, control|msixEnable|msixMaskAll)
	for i := range n {
		x.Mask(i)
	}
	f.update(regCommand, commandIntDisable, commandIntDisable)
	f.SetConfig16(off+msixControl, control&^msixMaskAll|msixEnable)
	return x, nil
}

// Len is the number of messages the function has.
func (x *MSIX) Len() int { return x.n }

// Set makes message i a write of data to address, and unmasks it.
func (x *MSIX) Set(i int, address uint64, data uint32) {
	x.Mask(i) // PCI 6.8.2.9: an entry changes only while masked
	at := uint64(i) * msixEntry
	x.table.Write32(at+msixEntryLow, uint32(address))
	x.table.Write32(at+msixEntryHigh, uint32(address>>32))
	x.table.Write32(at+msixEntryData, data)
	x.table.Write32(at+msixEntryVector, x.table.Read32(at+msixEntryVector)&^msixMasked)
}

// Mask holds message i back.
func (x *MSIX) Mask(i int) {
	at := uint64(i)*msixEntry + msixEntryVector
	x.table.Write32(at, x.table.Read32(at)|msixMasked)
}
