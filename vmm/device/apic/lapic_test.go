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
