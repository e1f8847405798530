package acpipm

import (
	"testing"

	"godwit/vmm/device/devicetest"
	"godwit/vmm/device/vclock"
)

type board struct {
	*PM
	clock      *vclock.Fake
	sci        *devicetest.Line
	off, reset int
}

func newBoard() *board {
	b := &board{clock: &vclock.Fake{}, sci: &devicetest.Line{}}
	b.PM = New(b.clock, b.sci, Events{PowerOff: func() { b.off++ }, Reset: func() { b.reset++ }})
	return b
}

func (b *board) get(off uint16, size int) uint32    { return b.In(Base+off, size) }
func (b *board) put(off uint16, size int, v uint32) { b.Out(Base+off, size, v) }

func TestTimerCountsAtItsFrequencyAndWraps(t *testing.T) {
	b := newBoard()
	b.clock.Advance(1e9)
	if v := b.get(PMTimer, 4); v != Frequency {
		t.Errorf("%d after a second", v)
	}
	b.clock.Advance(9e9)
	if v := b.get(PMTimer, 4); v != 10*Frequency&timerMask {
		t.Errorf("%d after ten seconds", v)
	}
	if v := b.get(PMTimer+1, 1); v != 10*Frequency>>8&0xff {
		t.Errorf("its second byte is %#x", v)
	}
}

func TestTimerStatusAndInterrupt(t *testing.T) {
	b := newBoard()
	b.put(PM1Enable, 2, pm1Timer)
	half := vclock.Nanoseconds(1<<23, Frequency)
	b.clock.Advance(half - 1)
	if b.sci.Level {
		t.Error("too early")
	}
	b.clock.Advance(1)
	if !b.sci.Level || b.get(PM1Status, 2) != pm1Timer {
		t.Error("no interrupt when the top bit changes")
	}
	b.put(PM1Status, 2, pm1Timer)
	if b.sci.Level {
		t.Error("the interrupt stays")
	}
	b.clock.Advance(half)
	if !b.sci.Level {
		t.Error("none at the next change")
	}
	b.put(PM1Enable, 2, 0)
	if b.sci.Level || b.clock.Armed() != 0 {
		t.Error("still there when disabled")
	}
}

func TestPowerButton(t *testing.T) {
	b := newBoard()
	b.PressPower()
	if b.sci.Level {
		t.Error("an SCI that is not enabled")
	}
	b.put(PM1Enable, 2, pm1Power|pm1Global)
	if !b.sci.Level || b.get(PM1Status, 4) != (pm1Power|pm1Global)<<16|pm1Power {
		t.Errorf("event block is %#x", b.get(PM1Status, 4))
	}
	b.put(PM1Status+1, 1, pm1Power>>8)
	if b.sci.Level || b.get(PM1Status, 2) != 0 {
		t.Error("a byte-wide write does not clear it")
	}
}

func TestSleepStateS5PowersOff(t *testing.T) {
	b := newBoard()
	if b.get(PM1Control, 2) != cntSCI {
		t.Errorf("control is %#x", b.get(PM1Control, 2))
	}
	b.put(PM1Control, 2, S5<<10) // as ACPICA does: the type, then with SLP_EN
	b.put(PM1Control, 2, 3<<10|cntSleepEn)
	if b.off != 0 {
		t.Fatal("powered off by another sleep type")
	}
	b.put(PM1Control, 2, S5<<10|cntSleepEn)
	if b.off != 1 || b.get(PM1Control, 2)&cntSleepEn != 0 {
		t.Error("not powered off")
	}
}

func TestResetRegister(t *testing.T) {
	b := newBoard()
	b.put(Reset, 1, 0)
	b.put(Reset+1, 1, ResetValue)
	if b.reset != 0 {
		t.Error("reset by another value or port")
	}
	b.put(Reset, 1, ResetValue)
	if b.reset != 1 {
		t.Error("no reset")
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, z := newBoard(), newBoard()
	a.put(PM1Enable, 2, pm1Power|pm1Timer)
	a.PressPower()
	a.put(PM1Control, 2, S5<<10)
	a.clock.Advance(1e9)
	z.clock.Advance(1e9)
	devicetest.RoundTrip(t, a.PM, z.PM)
	if z.sci.Edges != 0 {
		t.Error("loading made an edge")
	}
	if x, y := a.get(PMTimer, 4), z.get(PMTimer, 4); x != y {
		t.Errorf("timer %d, after the move %d", x, y)
	}
	z.put(PM1Status, 2, pm1Power)
	z.clock.Advance(3e9)
	if !z.sci.Level {
		t.Error("no timer interrupt after the move")
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 0, 2, "status")
	devicetest.Refused(t, z, good, 2, 2, "enable")
	devicetest.Refused(t, z, good, 5, 0x20, "control")
	devicetest.Refused(t, z, good, 6, 9, "overflows to come")
}
