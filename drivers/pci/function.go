package pci

import "fmt"

// A Function is one function of a PCI device.
type Function struct {
	Address
	Vendor, Device       uint16
	SubVendor, SubDevice uint16
	Class                Class
	Revision             uint8

	header uint8
	bus    *Bus
}

// String names a function for the log: "00:03.0 8086:100e Ethernet controller".
func (f *Function) String() string {
	return fmt.Sprintf("%v %04x:%04x %v", f.Address, f.Vendor, f.Device, f.Class)
}

// Config8 and its likes read the function's configuration space.
func (f *Function) Config8(off int) uint8   { return uint8(f.bus.cfg.Read(f.Address, off, 1)) }
func (f *Function) Config16(off int) uint16 { return uint16(f.bus.cfg.Read(f.Address, off, 2)) }
func (f *Function) Config32(off int) uint32 { return f.bus.cfg.Read(f.Address, off, 4) }

func (f *Function) SetConfig16(off int, v uint16) { f.bus.cfg.Write(f.Address, off, 2, uint32(v)) }
func (f *Function) SetConfig32(off int, v uint32) { f.bus.cfg.Write(f.Address, off, 4, v) }

// update changes the bits of a 16-bit register that mask names.
func (f *Function) update(off int, mask, bits uint16) {
	f.SetConfig16(off, f.Config16(off)&^mask|bits&mask)
}

// SetBusMaster lets the function read and write memory by itself, or stops it.
func (f *Function) SetBusMaster(on bool) {
	var bits uint16
	if on {
		bits = commandMaster
	}
	f.update(regCommand, commandMaster, bits)
}

// Line is the interrupt input firmware routed the function's INTx pin to: an
// ISA interrupt number of a PC's interrupt controllers. ok is false when the
// function has no pin or firmware left it unconnected.
//
// On a machine with an I/O APIC the pin may be wired to other inputs too, which
// only ACPI's AML tells. The number given here works in both modes on chipsets
// whose router feeds both controllers (440FX/PIIX and Q35/ICH9 do).
func (f *Function) Line() (irq int, ok bool) {
	pin, line := f.Config8(regIntPin), f.Config8(regIntLine)
	// PCI 6.2.4: 0xff and other values above 15 mean no connection.
	if pin == 0 || pin > 4 || line == 0 || line > 15 {
		return 0, false
	}
	return int(line), true
}

// EnableLine lets the function use its INTx pin.
func (f *Function) EnableLine() { f.update(regCommand, commandIntDisable, 0) }
