package pci

import "fmt"

// A Capability is an entry of a function's list.
type Capability struct {
	ID       uint16
	Offset   int
	Extended bool // in the PCI Express list, whose IDs are its own
}

// Capability IDs, PCI appendix H.
const (
	CapPowerManagement = 0x01
	CapMSI             = 0x05
	CapExpress         = 0x10
	CapMSIX            = 0x11
)

// Capabilities walks the function's capability lists. The lists are the
// device's: a loop or an offset outside the space ends the walk with an error,
// and what was found up to there is returned too.
func (f *Function) Capabilities() ([]Capability, error) {
	caps, err := f.legacyCapabilities()
	if err != nil {
		return caps, err
	}
	ext, err := f.extendedCapabilities()
	return append(caps, ext...), err
}

// legacyCapabilities walks the list of PCI 6.7.
func (f *Function) legacyCapabilities() ([]Capability, error) {
	if f.Config16(regStatus)&statusCapabilities == 0 || f.header&headerLayout == headerCardBus {
		return nil, nil
	}
	var caps []Capability
	var seen [legacySize / 4]bool
	// PCI 6.7: the two low bits are reserved and masked.
	for off := int(f.Config8(regCapPointer)) &^ 3; off != 0; off = int(f.Config8(off+1)) &^ 3 {
		if off < 0x40 {
			return caps, fmt.Errorf("pci: %v: capability at %#x lies in the header", f, off)
		}
		if seen[off/4] {
			return caps, fmt.Errorf("pci: %v: capability list loops at %#x", f, off)
		}
		seen[off/4] = true
		id := f.Config8(off)
		if id == 0xff {
			return caps, fmt.Errorf("pci: %v: nothing answers at capability %#x", f, off)
		}
		caps = append(caps, Capability{ID: uint16(id), Offset: off})
	}
	return caps, nil
}

// extendedCapabilities walks the list of PCIe 7.9.
func (f *Function) extendedCapabilities() ([]Capability, error) {
	if f.bus.cfg.Size(f.Address) < extendedSize {
		return nil, nil
	}
	var caps []Capability
	var seen [extendedSize / 4]bool
	for off := legacySize; off != 0; {
		if off < legacySize {
			return caps, fmt.Errorf("pci: %v: extended capability at %#x lies below %#x", f, off, legacySize)
		}
		if seen[off/4] {
			return caps, fmt.Errorf("pci: %v: extended capability list loops at %#x", f, off)
		}
		seen[off/4] = true
		h := f.Config32(off)
		// PCIe 7.9.1: an empty list is a header of zeroes; a conventional
		// function behind the mechanism may answer ones.
		if off == legacySize && (h == 0 || h == 0xffff_ffff) {
			return nil, nil
		}
		caps = append(caps, Capability{ID: uint16(h), Offset: off, Extended: true})
		off = int(h>>20) &^ 3
	}
	return caps, nil
}

// capability finds the first entry of the conventional list with an ID.
func (f *Function) capability(id uint16) (off int, ok bool) {
	caps, _ := f.legacyCapabilities() // what comes before the fault is usable
	for _, c := range caps {
		if c.ID == id {
			return c.Offset, true
		}
	}
	return 0, false
}
