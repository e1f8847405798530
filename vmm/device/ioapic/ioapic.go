// Package ioapic is the I/O APIC: 24 pins that become messages to local APICs.
// Reference: Intel 82093AA datasheet (290566-001), section 3, and for the EOI
// register, which version 20h has, the ICH9 datasheet (316972), section 13.5.
package ioapic

import (
	"encoding/binary"
	"fmt"
	"sync"

	"godwit/vmm/device/apic"
	"godwit/vmm/state"
)

// Where a PC has it.
const (
	Base = 0xfec00000
	Size = 0x1000
	Pins = 24
)

// MMIO registers.
const (
	regSelect = 0x00
	regWindow = 0x10
	regEOI    = 0x40
)

// Indirect registers.
const (
	indexID          = 0x00
	indexVersion     = 0x01
	indexArbitration = 0x02
	indexTable       = 0x10 // low and high half of each entry in turn
)

const version = 0x20 | (Pins-1)<<16

// Redirection table entries.
const (
	entryVector    = 0xff
	entryRemoteIRR = 1 << 14
	entryLevel     = 1 << 15
	entryMasked    = 1 << 16

	// What software can write: vector, delivery mode, destination mode,
	// polarity, trigger mode, mask, destination.
	entryWritable = 0xff000000_0001afff
	entryAll      = entryWritable | entryRemoteIRR
)

// An IOAPIC is one I/O APIC. Its lines' levels mean asserted or not, whatever
// the polarity: a board is wired so that both ends agree.
type IOAPIC struct {
	bus *apic.Bus
	id  uint8 // after reset

	mu       sync.Mutex
	selected uint8
	apicID   uint8
	lines    uint32 // asserted pins
	table    [Pins]uint64
}

// New makes an IOAPIC with this ID and puts it on the bus.
func New(bus *apic.Bus, id uint8) *IOAPIC {
	a := &IOAPIC{bus: bus, id: id & 15}
	a.Reset()
	bus.AddEOIHandler(a)
	return a
}

// Reset implements device.Device.
func (a *IOAPIC) Reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.selected, a.lines, a.apicID = 0, 0, a.id
	for i := range a.table {
		a.table[i] = entryMasked
	}
}

// Line is the input of a pin.
func (a *IOAPIC) Line(pin int) Line {
	if pin < 0 || pin >= Pins {
		panic(fmt.Sprintf("ioapic: there is no pin %d", pin))
	}
	return Line{a, uint8(pin)}
}

// A Line implements device.Line.
type Line struct {
	a   *IOAPIC
	pin uint8
}

// Set implements device.Line.
func (l Line) Set(level bool) {
	a, bit := l.a, uint32(1)<<l.pin
	a.mu.Lock()
	defer a.mu.Unlock()
	if level == (a.lines&bit != 0) {
		return
	}
	a.lines ^= bit
	if level {
		// An edge on a masked pin is lost; a level is still there when the
		// pin is unmasked.
		a.service(int(l.pin))
	}
}

// service sends what an asserted pin asks for. mu is held.
func (a *IOAPIC) service(pin int) {
	e := &a.table[pin]
	if *e&entryMasked != 0 {
		return
	}
	if *e&entryLevel == 0 {
		a.bus.Send(apic.Redirection(*e))
		return
	}
	if *e&entryRemoteIRR != 0 {
		return
	}
	m := apic.Redirection(*e)
	switch m.Mode {
	case apic.Fixed, apic.LowestPriority:
		// Remote IRR first: the EOI may come before Send returns. It waits
		// for mu, and then finds it set.
		if a.bus.Send(m) {
			*e |= entryRemoteIRR
		}
	default: // NMI and the like are always edges (section 3.2.4)
		m.Level = false
		a.bus.Send(m)
	}
}

// EOI implements apic.EOIHandler.
func (a *IOAPIC) EOI(vector uint8) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for pin := range a.table {
		e := &a.table[pin]
		if *e&(entryRemoteIRR|entryLevel) != entryRemoteIRR|entryLevel || uint8(*e&entryVector) != vector {
			continue
		}
		*e &^= entryRemoteIRR
		if a.lines>>pin&1 != 0 {
			a.service(pin)
		}
	}
}

// ReadMMIO implements device.MMIODevice.
func (a *IOAPIC) ReadMMIO(off uint64, b []byte) {
	clear(b)
	a.mu.Lock()
	defer a.mu.Unlock()
	var v uint32
	switch off &^ 3 {
	case regSelect:
		v = uint32(a.selected)
	case regWindow:
		v = a.read(a.selected)
	}
	var r [4]byte
	binary.LittleEndian.PutUint32(r[:], v)
	copy(b, r[off&3:])
}

func (a *IOAPIC) read(index uint8) uint32 {
	switch index {
	case indexID, indexArbitration:
		return uint32(a.apicID) << 24
	case indexVersion:
		return version
	}
	if pin := (int(index) - indexTable) / 2; index >= indexTable && pin < Pins {
		return uint32(a.table[pin] >> (32 * (index & 1)))
	}
	return 0
}

// WriteMMIO implements device.MMIODevice: aligned 32-bit stores, of which the
// index needs only the first byte.
func (a *IOAPIC) WriteMMIO(off uint64, b []byte) {
	a.mu.Lock()
	switch {
	case off == regSelect:
		a.selected = b[0]
	case off == regWindow && len(b) >= 4:
		a.write(a.selected, binary.LittleEndian.Uint32(b))
	case off == regEOI && len(b) >= 1:
		a.mu.Unlock()
		a.EOI(b[0])
		return
	}
	a.mu.Unlock()
}

func (a *IOAPIC) write(index uint8, v uint32) {
	if index == indexID {
		a.apicID = uint8(v>>24) & 15
		return
	}
	pin := (int(index) - indexTable) / 2
	if index < indexTable || pin >= Pins {
		return
	}
	e := &a.table[pin]
	shift := 32 * (index & 1)
	writable := uint64(entryWritable) & (0xffffffff << shift)
	*e = *e&^writable | uint64(v)<<shift&writable
	if *e&entryLevel == 0 {
		*e &^= entryRemoteIRR // an edge has no remote IRR: software uses this as an EOI
	} else if a.lines>>pin&1 != 0 {
		a.service(pin)
	}
}

// StateName implements state.Device.
func (a *IOAPIC) StateName() string { return "ioapic" }

// StateVersion implements state.Device.
func (a *IOAPIC) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (a *IOAPIC) SaveState(w *state.Writer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.U8(a.selected)
	w.U8(a.apicID)
	w.U32(a.lines)
	for _, e := range a.table {
		w.U64(e)
	}
}

// LoadState implements state.Device.
func (a *IOAPIC) LoadState(_ uint16, r *state.Reader) error {
	selected, id, lines := r.U8(), r.U8(), r.U32()
	if id > 15 {
		r.Fail(fmt.Errorf("the ID is %d", id))
	}
	if lines>>Pins != 0 {
		r.Fail(fmt.Errorf("pins beyond the last are asserted: %#x", lines))
	}
	var table [Pins]uint64
	for i := range table {
		table[i] = r.U64()
		if e := table[i]; e&^entryAll != 0 || e&entryRemoteIRR != 0 && e&entryLevel == 0 {
			r.Fail(fmt.Errorf("entry %d is %#x", i, e))
		}
	}
	if r.Err() != nil {
		return r.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.selected, a.apicID, a.lines, a.table = selected, id, lines, table
	return nil
}
