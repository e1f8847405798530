package rtc

import (
	"testing"
	"time"

	"godwit/vmm/device/devicetest"
	"godwit/vmm/device/vclock"
)

type board struct {
	*RTC
	clock *vclock.Fake
	irq   *devicetest.Line
	start time.Time
}

func newBoard(start time.Time) *board {
	b := &board{clock: &vclock.Fake{}, irq: &devicetest.Line{}, start: start}
	b.RTC = New(b.clock, func() int64 { return b.start.UnixNano() + b.clock.Now() }, b.irq)
	return b
}

var someDay = time.Date(2026, time.November, 22, 15, 59, 58, 0, time.UTC)

func (b *board) get(i uint8) uint8 {
	b.Out(Base, 1, uint32(i))
	return uint8(b.In(Base+1, 1))
}

func (b *board) put(i, v uint8) {
	b.Out(Base, 1, uint32(i))
	b.Out(Base+1, 1, uint32(v))
}

func (b *board) want(t *testing.T, what string, regs map[uint8]uint8) {
	t.Helper()
	for i, v := range regs {
		if got := b.get(i); got != v {
			t.Errorf("%s: register %#x is %#x, want %#x", what, i, got, v)
		}
	}
}

func TestTimeInAllFormats(t *testing.T) {
	b := newBoard(someDay)
	b.want(t, "BCD", map[uint8]uint8{0: 0x58, 2: 0x59, 4: 0x15, 6: 1, 7: 0x22, 8: 0x11, 9: 0x26, 0x32: 0x20, 0x0d: 0x80})
	b.put(regB, bBinary|b24h)
	b.want(t, "binary", map[uint8]uint8{0: 58, 2: 59, 4: 15, 7: 22, 8: 11, 9: 26, 0x32: 0x20})
	b.put(regB, 0)
	b.want(t, "12 hours", map[uint8]uint8{4: 0x83})
	b.clock.Advance(9 * 3600e9)
	b.want(t, "after midnight", map[uint8]uint8{0: 0x58, 4: 0x12, 7: 0x23, 6: 2})
}

// mc146818_set_time: SET, divider reset, the time, and back.
func TestLinuxSetsTheTime(t *testing.T) {
	b := newBoard(someDay)
	b.put(regB, b.get(regB)|bSet)
	b.put(regA, 0x76)
	for i, v := range map[uint8]uint8{9: 0x31, 8: 0x02, 7: 0x28, 4: 0x23, 2: 0x59, 0: 0x59, 0x32: 0x20} {
		b.put(i, v)
	}
	b.clock.Advance(5e9)
	b.want(t, "while SET", map[uint8]uint8{0: 0x59, 2: 0x59, 9: 0x31})
	b.put(regB, b.get(regB)&^bSet)
	b.put(regA, 0x26)
	b.clock.Advance(499e6)
	b.want(t, "before the first update", map[uint8]uint8{0: 0x59})
	b.clock.Advance(2e6)
	b.want(t, "after it", map[uint8]uint8{0: 0, 2: 0, 4: 0, 7: 1, 8: 3, 9: 0x31, 6: 7})
	b.put(4, 0x12) // without SET
	b.want(t, "an hour written", map[uint8]uint8{4: 0x12, 7: 1, 8: 3})
}

// The interrupt is an edge: a flag that rises while register C is read must make one, or none would ever come again.
func TestAnUpdateWhileRegisterCIsReadInterrupts(t *testing.T) {
	for look := range 8 {
		b := newBoard(someDay)
		looks := 0
		wall := b.wall
		b.wall = func() int64 {
			if looks--; looks == 0 {
				b.start = b.start.Add(time.Second)
			}
			return wall()
		}
		b.put(regB, b24h|bUIE)
		b.clock.Advance(1e9)
		edges := b.irq.Edges
		if edges != 1 || !b.irq.Level {
			t.Fatalf("%d interrupts after a second", edges)
		}
		looks = look + 1
		b.get(regC)
		if b.irq.Level && b.irq.Edges == edges {
			t.Errorf("an update at look %d: the line never fell", look)
		}
	}
}

func TestUIPPrecedesTheUpdate(t *testing.T) {
	b := newBoard(someDay)
	b.clock.Advance(1e9 - 245e3)
	if b.get(regA)&aUIP != 0 {
		t.Error("UIP is up too early")
	}
	b.clock.Advance(2e3)
	if b.get(regA)&aUIP == 0 || b.get(0) != 0x58 {
		t.Error("UIP is not up before the update")
	}
	b.clock.Advance(243e3)
	if b.get(regA)&aUIP != 0 || b.get(0) != 0x59 {
		t.Error("UIP stays up after the update")
	}
}

func TestUpdateEndedInterrupt(t *testing.T) {
	b := newBoard(someDay.Add(time.Millisecond))
	b.put(regB, b24h|bUIE)
	b.get(regC)
	b.clock.Advance(998e6)
	if b.irq.Level {
		t.Error("too early")
	}
	b.clock.Advance(1e6)
	if !b.irq.Level || b.get(regC)&^cPF != cIRQF|cUF || b.irq.Level {
		t.Error("no interrupt, or it does not go")
	}
	n := b.irq.Edges
	for range 10 {
		b.clock.Advance(1e9)
		b.get(regC)
	}
	if b.irq.Edges != n+10 {
		t.Errorf("%d interrupts in ten seconds", b.irq.Edges-n)
	}
	b.put(regB, b24h)
	if b.clock.Armed() != 0 {
		t.Error("ticks with interrupts off")
	}
}

func TestPeriodicInterrupt(t *testing.T) {
	for rate, hz := range map[uint8]int{6: 1024, 15: 2, 3: 8192, 1: 256, 2: 128} {
		b := newBoard(someDay)
		b.put(regA, 0x20|rate)
		b.put(regB, b24h|bPIE)
		start := b.irq.Edges
		for range 20000 {
			b.clock.Advance(50e3)
			if b.irq.Level && b.get(regC)&cPF == 0 {
				t.Fatal("an interrupt without its flag")
			}
		}
		if n := b.irq.Edges - start; n < hz-1 || n > hz {
			t.Errorf("rate %d: %d interrupts in a second, want %d", rate, n, hz)
		}
	}
	// A guest that does not answer is interrupted once, and costs no ticks.
	b := newBoard(someDay)
	b.put(regB, b24h|bPIE)
	b.clock.Advance(1e9)
	if b.irq.Edges != 1 || b.clock.Armed() != 0 {
		t.Errorf("%d interrupts unanswered", b.irq.Edges)
	}
}

func TestAlarm(t *testing.T) {
	b := newBoard(someDay)
	for i, v := range map[uint8]uint8{1: 0x05, 3: 0x00, 5: 0xc0} { // 7 s from now, any hour
		b.put(i, v)
	}
	b.put(regB, b24h|bAIE)
	b.get(regC)
	b.clock.Advance(6999e6)
	if b.irq.Level {
		t.Error("too early")
	}
	b.clock.Advance(1e6)
	if !b.irq.Level || b.get(regC)&(cIRQF|cAF) != cIRQF|cAF {
		t.Error("no alarm")
	}
	b.clock.Advance(3600e9)
	if !b.irq.Level {
		t.Error("no alarm an hour later")
	}
}

func TestFlagsRiseWithInterruptsOff(t *testing.T) {
	b := newBoard(someDay)
	b.get(regC)
	b.clock.Advance(1e9)
	if v := b.get(regC); v != cUF|cPF {
		t.Errorf("register C is %#x", v)
	}
	b.put(1, 0xff)
	b.put(3, 0xff)
	b.put(5, 0xff)
	b.clock.Advance(1e9)
	if v := b.get(regC); v != cUF|cPF|cAF {
		t.Errorf("register C is %#x", v)
	}
}

func TestNonsenseDatesAreTaken(t *testing.T) {
	b := newBoard(someDay)
	b.put(regB, bSet|bBinary)
	for _, i := range []uint8{0, 2, 4, 6, 7, 8, 9, 0x32} {
		b.put(i, 0xff)
	}
	b.put(regB, bBinary)
	b.clock.Advance(1e9)
	if m := b.get(8); m < 1 || m > 12 {
		t.Errorf("month %d", m)
	}
	devicetest.RoundTrip(t, b.RTC, newBoard(someDay).RTC)
}

func TestMemorySizes(t *testing.T) {
	b := newBoard(someDay)
	b.SetMemory(3<<30, 5<<30)
	word := func(i uint8) int { return int(b.get(i)) | int(b.get(i+1))<<8 }
	if word(0x15) != 640 || word(0x17) != 0xffff || word(0x34) != (3<<30-16<<20)>>16 || word(0x5b) != 5<<30>>16&0xffff {
		t.Errorf("%#x %#x %#x %#x", word(0x15), word(0x17), word(0x34), word(0x5b))
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, z := newBoard(someDay), newBoard(someDay.Add(time.Second))
	a.put(regB, bSet|b24h)
	a.put(9, 0x30)
	a.put(regB, b24h|bUIE)
	a.put(0x40, 0x77)
	a.Out(Base, 1, 0x80|0x40)
	a.clock.Advance(5e9)
	z.clock.Advance(4e9)
	devicetest.RoundTrip(t, a.RTC, z.RTC)
	if !z.NMIMasked() || z.In(Base+1, 1) != 0x77 {
		t.Error("index or memory differs")
	}
	for _, i := range []uint8{0, 2, 4, 7, 8, 9} {
		if x, y := a.get(i), z.get(i); x != y {
			t.Errorf("register %#x is %#x, after the move %#x", i, x, y)
		}
	}
	z.irq.Level = true
	z.get(regC)
	z.clock.Advance(1e9)
	if z.irq.Edges != 1 {
		t.Error("no interrupt after the move")
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 0, 0x80, "index")
	devicetest.Refused(t, z, good, 2, 127, "memory size")
	devicetest.Refused(t, z, good, 6+regD, 0, "an empty battery")
	devicetest.Refused(t, z, good, 6+regA, aUIP, "UIP")
	devicetest.Refused(t, z, good, 6+128+7, 0x7f, "offset")
}

func TestResetStartsAClockThatWasBeingSet(t *testing.T) {
	b := newBoard(someDay)
	b.put(regB, b24h|bSet|bPIE)
	b.clock.Advance(5e9)
	b.Reset()
	b.want(t, "after a reset", map[uint8]uint8{regB: b24h, regSecond: 0x58, regC: 0})
	b.clock.Advance(1e9)
	b.want(t, "a second later", map[uint8]uint8{regSecond: 0x59})
	if b.irq.Level {
		t.Error("it interrupts")
	}
}
