package ioapic

import (
	"encoding/binary"
	"testing"

	"godwit/vmm/device/apic"
	"godwit/vmm/device/devicetest"
	"godwit/vmm/device/vclock"
)

type board struct {
	*IOAPIC
	bus *apic.Bus
	cpu *apic.LAPIC
}

func newBoard() *board {
	bus := apic.NewBus()
	b := &board{bus: bus, cpu: bus.Add(apic.Config{BSP: true, Clock: &vclock.Fake{}, Wake: func() {}})}
	b.cpu.Firmware()
	b.IOAPIC = New(bus, 4)
	return b
}

func (b *board) put(index uint8, v uint32) {
	b.WriteMMIO(regSelect, []byte{index, 0, 0, 0})
	b.WriteMMIO(regWindow, binary.LittleEndian.AppendUint32(nil, v))
}

func (b *board) get(index uint8) uint32 {
	b.WriteMMIO(regSelect, []byte{index})
	var r [4]byte
	b.ReadMMIO(regWindow, r[:])
	return binary.LittleEndian.Uint32(r[:])
}

func (b *board) eoi() { b.cpu.WriteMMIO(0xb0, []byte{0, 0, 0, 0}) }

func (b *board) want(t *testing.T, vector uint8) {
	t.Helper()
	v, ok := b.cpu.Acknowledge()
	if ok != (vector != 0) || ok && v != vector {
		t.Fatalf("vector %#x (%v) delivered, want %#x", v, ok, vector)
	}
}

func TestRegistersAfterReset(t *testing.T) {
	b := newBoard()
	if b.get(0) != 4<<24 || b.get(1) != 0x170020 || b.get(0x10) != 0x10000 || b.get(0x3f) != 0 || b.get(0x40) != 0 {
		t.Errorf("ID %#x, version %#x, entry 0 %#x", b.get(0), b.get(1), b.get(0x10))
	}
	b.put(0, 0xff<<24)
	if b.get(0) != 15<<24 || b.get(2) != 15<<24 {
		t.Errorf("ID %#x, arbitration %#x", b.get(0), b.get(2))
	}
	b.put(0x10, 0xffffffff)
	b.put(0x11, 0xffffffff)
	if b.get(0x10) != 0x1afff || b.get(0x11) != 0xff000000 {
		t.Errorf("writable bits are %#x, %#x", b.get(0x10), b.get(0x11))
	}
}

func TestEdgeIsDeliveredOnce(t *testing.T) {
	b := newBoard()
	l := b.Line(4)
	l.Set(true) // lost: masked
	b.put(0x18, 0x34)
	b.want(t, 0)
	l.Set(false)
	l.Set(true)
	l.Set(true)
	b.want(t, 0x34)
	b.eoi()
	b.want(t, 0)
}

func TestLevelIsDeliveredUntilItDrops(t *testing.T) {
	b := newBoard()
	l := b.Line(9)
	l.Set(true)
	b.put(0x22, entryLevel|0x41) // unmasked with the line up
	b.want(t, 0x41)
	if b.get(0x22)&entryRemoteIRR == 0 {
		t.Error("remote IRR is clear")
	}
	b.want(t, 0)
	b.eoi()
	b.want(t, 0x41) // still asserted
	l.Set(false)
	b.eoi()
	b.want(t, 0)
	if b.get(0x22)&entryRemoteIRR != 0 {
		t.Error("remote IRR stays")
	}
	l.Set(true)
	b.want(t, 0x41)
}

func TestEOIRegisterAndTriggerModeClearRemoteIRR(t *testing.T) {
	b := newBoard()
	b.put(0x22, entryLevel|0x41)
	b.Line(9).Set(true)
	b.Line(9).Set(false)
	b.WriteMMIO(regEOI, []byte{0x41, 0, 0, 0})
	if b.get(0x22)&entryRemoteIRR != 0 {
		t.Error("the EOI register does nothing")
	}
	b.Line(9).Set(true)
	b.put(0x22, entryMasked|0x41) // how software without that register does it
	b.put(0x22, entryMasked|entryLevel|0x41)
	if b.get(0x22)&entryRemoteIRR != 0 {
		t.Error("switching to edge and back does nothing")
	}
}

func TestUndeliverableLevelIsNotLost(t *testing.T) {
	b := newBoard()
	b.put(0x23, 9<<24) // nobody
	b.put(0x22, entryLevel|0x41)
	b.Line(9).Set(true)
	b.want(t, 0)
	b.put(0x23, 0)
	b.want(t, 0x41)
}

func TestNMIEntry(t *testing.T) {
	b := newBoard()
	b.put(0x22, uint32(apic.NMI)<<8)
	b.Line(9).Set(true)
	if !b.cpu.TakeNMI() {
		t.Error("no NMI")
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, z := newBoard(), newBoard()
	a.put(0x22, entryLevel|0x41)
	a.put(0x18, 0x34)
	a.Line(9).Set(true)
	a.Line(4).Set(true)
	devicetest.RoundTrip(t, a.IOAPIC, z.IOAPIC)
	z.EOI(0x41)
	z.want(t, 0x41) // the line is still up
	z.Line(4).Set(true)
	z.want(t, 0) // and no edge came of the move
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 1, 16, "ID")
	devicetest.Refused(t, z, good, 5, 1, "pin 24")
	devicetest.Refused(t, z, good, 6+4, 1, "reserved bits of entry 0")
	devicetest.Refused(t, z, good, 6+1, 0x40, "remote IRR of an edge")
}

func BenchmarkLevelInterruptAndEOI(b *testing.B) {
	m := newBoard()
	m.put(0x22, entryLevel|0x41)
	l := m.Line(9)
	eoi := []byte{0, 0, 0, 0}
	b.ReportAllocs()
	for b.Loop() {
		l.Set(true)
		m.cpu.Acknowledge()
		l.Set(false)
		m.cpu.WriteMMIO(0xb0, eoi)
	}
}
