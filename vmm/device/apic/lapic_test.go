package apic

import (
	"encoding/binary"
	"testing"

	"godwit/vmm/device/vclock"
)

// board is a machine's interrupt side with n processors; wakes counts per CPU.
type board struct {
	*Bus
	clock *vclock.Fake
	wakes []int
}

func newBoard(n int) *board {
	b := &board{Bus: NewBus(), clock: &vclock.Fake{}, wakes: make([]int, n)}
	for i := range n {
		b.Add(Config{
			BSP:     i == 0,
			Clock:   b.clock,
			Wake:    func() { b.wakes[i]++ },
			TSCTime: func(tsc uint64) int64 { return int64(tsc / 2) }, // a 2 GHz counter
		})
	}
	for _, l := range b.lapics {
		l.mmio(regSVR, 0x1ff)
	}
	return b
}

func (l *LAPIC) mmio(reg uint32, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	l.WriteMMIO(uint64(reg)<<4, b[:])
}

func (l *LAPIC) get(reg uint32) uint32 {
	var b [4]byte
	l.ReadMMIO(uint64(reg)<<4, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (l *LAPIC) want(t *testing.T, vector uint8) {
	t.Helper()
	v, ok := l.Acknowledge()
	if vector == 0 {
		if ok {
			t.Fatalf("vector %#x delivered, want none", v)
		}
		return
	}
	if !ok || v != vector {
		t.Fatalf("vector %#x (%v) delivered, want %#x", v, ok, vector)
	}
}

func TestHighestVectorIsDeliveredFirst(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	for _, v := range []uint8{0x31, 0x92, 0x93, 0x40} {
		b.Send(Message{Vector: v})
	}
	l.want(t, 0x93)
	l.want(t, 0) // the rest is in no higher class
	l.mmio(regEOI, 0)
	l.want(t, 0x92)
	b.Send(Message{Vector: 0xa0})
	l.want(t, 0xa0) // nests
	l.mmio(regEOI, 0)
	l.want(t, 0)
	l.mmio(regEOI, 0)
	l.want(t, 0x40)
	l.mmio(regEOI, 0)
	l.want(t, 0x31)
	l.mmio(regEOI, 0)
	l.want(t, 0)
}

func TestTPRHoldsOffItsClassAndBelow(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(regTPR, 0x45)
	b.Send(Message{Vector: 0x4f})
	l.want(t, 0)
	if l.Class() != 4 || l.Deliverable() {
		t.Errorf("class %d, deliverable %v: the loop would ask for no window", l.Class(), l.Deliverable())
	}
	if b.wakes[0] != 1 {
		t.Error("not woken for what only TPR holds off")
	}
	if l.CR8() != 4 || l.get(regPPR) != 0x45 {
		t.Errorf("CR8 %d, PPR %#x", l.CR8(), l.get(regPPR))
	}
	l.SetCR8(4)
	if l.get(regTPR) != 0x45 {
		t.Error("an unchanged CR8 lost the sub-class")
	}
	l.SetCR8(3)
	if l.get(regTPR) != 0x30 {
		t.Errorf("TPR is %#x", l.get(regTPR))
	}
	l.want(t, 0x4f)
	if l.get(regPPR) != 0x40 {
		t.Errorf("PPR in service is %#x", l.get(regPPR))
	}
}

func TestWakesOnlyForNewAndMoreUrgent(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	b.Send(Message{Vector: 0x50})
	b.Send(Message{Vector: 0x50})
	if b.wakes[0] != 1 {
		t.Fatalf("%d wakes for one request made twice", b.wakes[0])
	}
	l.want(t, 0x50)
	b.Send(Message{Vector: 0x51})
	if b.wakes[0] != 1 {
		t.Error("woken for what must wait for the EOI, which is an exit")
	}
	b.Send(Message{Vector: 0x60})
	if b.wakes[0] != 2 {
		t.Error("not woken for a more urgent vector")
	}
}

type eoiLog []uint8

func (e *eoiLog) EOI(v uint8) { *e = append(*e, v) }

func TestEOIIsBroadcastForLevelTriggeredOnly(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	var log eoiLog
	b.AddEOIHandler(&log)
	b.Send(Message{Vector: 0x50, Level: true})
	b.Send(Message{Vector: 0x40})
	l.want(t, 0x50)
	if l.get(regTMR+2) != 1<<16 {
		t.Errorf("TMR word 2 is %#x", l.get(regTMR+2))
	}
	l.mmio(regEOI, 0)
	l.want(t, 0x40)
	l.mmio(regEOI, 0)
	l.mmio(regEOI, 0) // nothing in service: nothing happens
	if len(log) != 1 || log[0] != 0x50 {
		t.Errorf("EOIs broadcast: %#x", []uint8(log))
	}
}

func TestSoftwareDisableMasksAllLocalVectors(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(0x35, 0x700)
	l.mmio(regSVR, 0xff)
	if l.get(0x35) != 0x10700 {
		t.Errorf("LVT LINT0 is %#x", l.get(0x35))
	}
	l.mmio(0x35, 0x700)
	if l.get(0x35) != 0x10700 {
		t.Error("it could be opened while the APIC is disabled")
	}
}

func TestRegistersAfterReset(t *testing.T) {
	b := NewBus()
	clock := &vclock.Fake{}
	l := b.Add(Config{BSP: true, Clock: clock, Wake: func() {}})
	if base, ok := l.ReadMSR(MSRBase); !ok || base != 0xfee00900 {
		t.Errorf("IA32_APIC_BASE is %#x", base)
	}
	for _, c := range []struct{ reg, want uint32 }{
		{regID, 0}, {regVersion, 0x50014}, {regSVR, 0xff}, {regDFR, 0xffffffff}, {regLDR, 0}, {regTPR, 0},
		{0x32, 0x10000}, {0x35, 0x10000}, {0x37, 0x10000}, {regInitial, 0}, {regCurrent, 0}, {regDivide, 0},
	} {
		if got := l.get(c.reg); got != c.want {
			t.Errorf("register %#x is %#x, want %#x", c.reg<<4, got, c.want)
		}
	}
}

func TestNarrowAndWideAccesses(t *testing.T) {
	b := newBoard(2)
	l := b.lapics[1]
	var one [1]byte
	l.ReadMMIO(0x23, one[:])
	if one[0] != 1 {
		t.Errorf("the ID's last byte is %#x", one[0])
	}
	eight := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	l.ReadMMIO(0x30, eight[:])
	if eight != [8]byte{0x14, 0, 5, 0} {
		t.Errorf("8 bytes of the version: % x", eight)
	}
	l.WriteMMIO(0x80, []byte{0x50, 0}) // undefined: ignored
	l.WriteMMIO(0x84, []byte{0x50, 0, 0, 0})
	if l.get(regTPR) != 0 {
		t.Error("an undefined store changed TPR")
	}
}

// pic answers for the 8259s.
type pic struct {
	pending bool
	vector  uint8
}

func (p *pic) Pending() bool      { return p.pending }
func (p *pic) Acknowledge() uint8 { p.pending = false; return p.vector }

func TestVirtualWireDeliversThe8259sInterrupts(t *testing.T) {
	b := newBoard(2)
	p := &pic{vector: 0x38}
	b.SetINTA(p)
	for _, l := range b.lapics {
		l.Firmware()
	}
	bsp, ap := b.lapics[0], b.lapics[1]
	bsp.mmio(regTPR, 0xff) // an ExtINT does not mind
	p.pending = true
	b.SetINTR(true)
	if b.wakes[0] != 1 || bsp.Class() != 15 || !bsp.Deliverable() {
		t.Fatalf("woken %d times, class %d", b.wakes[0], bsp.Class())
	}
	if ap.Class() != 0 {
		t.Error("the other processor would take it too")
	}
	bsp.want(t, 0x38)
	b.SetINTR(false)
	if bsp.Class() != 0 || bsp.isr.highest() != 0 {
		t.Error("an ExtINT stays in the APIC")
	}
	// Masked, then opened with the pin up, as Linux does for a moment.
	bsp.mmio(0x35, 0x10700)
	p.pending = true
	b.SetINTR(true)
	if bsp.Class() != 0 {
		t.Error("delivered through a masked pin")
	}
	bsp.mmio(0x35, 0x700)
	if bsp.Class() != 15 || b.wakes[0] != 2 {
		t.Error("not delivered when unmasked")
	}
	// The fixed virtual wire that Linux's check_timer tries.
	b.SetINTR(false)
	bsp.mmio(regTPR, 0)
	bsp.mmio(0x35, 0x31)
	b.SetINTR(true)
	bsp.want(t, 0x31)
	// APIC off: LINT0 is INTR.
	if !bsp.WriteMSR(MSRBase, DefaultBase|baseBSP) || bsp.Class() != 15 {
		t.Error("not delivered to a processor without APIC")
	}
}

func TestNMIButtonGoesWhereLINT1Leads(t *testing.T) {
	b := newBoard(2)
	b.lapics[0].mmio(0x36, 0x400)
	b.NMI()
	if !b.lapics[0].TakeNMI() || b.lapics[1].TakeNMI() {
		t.Error("the NMI went elsewhere")
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	b := newBoard(4)
	l := b.lapics[1]
	if n := testing.AllocsPerRun(100, func() {
		b.Message(0xfee01000, 0x4055)
		b.Send(Message{Dest: 1, Vector: 0x61, Level: true})
		for range 2 {
			l.Acknowledge()
			l.mmio(regEOI, 0)
		}
		l.setTSCDeadline(1)
		l.sendIPI(2)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
