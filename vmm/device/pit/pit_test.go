package pit

import (
	"testing"

	"godwit/vmm/device/devicetest"
	"godwit/vmm/device/vclock"
)

func board() (*PIT, *vclock.Fake, *devicetest.Line) {
	clock, irq := &vclock.Fake{}, &devicetest.Line{}
	return New(clock, irq), clock, irq
}

func (p *PIT) program(ch, mode uint8, count uint16) {
	p.Out(portControl, 1, uint32(ch<<6|3<<4|mode<<1))
	p.Out(Base+uint16(ch), 1, uint32(count&0xff))
	p.Out(Base+uint16(ch), 1, uint32(count>>8))
}

// count latches and reads a channel.
func (p *PIT) count(ch uint8) uint16 {
	p.Out(portControl, 1, uint32(ch)<<6)
	lo := p.In(Base+uint16(ch), 1)
	return uint16(p.In(Base+uint16(ch), 1)<<8 | lo)
}

const tick = 1e9 / float64(Frequency)

func ticks(n float64) int64 { return int64(n*tick) + 1 }

func TestRateGeneratorTicksAtItsRate(t *testing.T) {
	for _, mode := range []uint8{2, 3} {
		p, clock, irq := board()
		p.program(0, mode, 11932) // 100 Hz
		start := irq.Edges
		clock.Advance(10e9)
		if n := irq.Edges - start; n != 999 && n != 1000 {
			t.Errorf("mode %d: %d ticks in ten seconds", mode, n)
		}
	}
}

func TestOneShotModesInterruptOnce(t *testing.T) {
	for _, mode := range []uint8{0, 4} {
		p, clock, irq := board()
		p.program(0, mode, 1000)
		start := irq.Edges
		clock.Advance(ticks(999))
		if irq.Edges != start {
			t.Errorf("mode %d: too early", mode)
		}
		clock.Advance(ticks(1))
		if irq.Edges != start+1 {
			t.Errorf("mode %d: %d interrupts", mode, irq.Edges-start)
		}
		clock.Advance(1e9)
		if irq.Edges != start+1 || clock.Armed() != 0 {
			t.Errorf("mode %d: goes on", mode)
		}
		// Linux's one-shot clock event writes a new count only.
		p.Out(Base, 1, 100)
		p.Out(Base, 1, 0)
		clock.Advance(ticks(101))
		if irq.Edges != start+2 {
			t.Errorf("mode %d: not started again by a count", mode)
		}
	}
}

func TestCountsDown(t *testing.T) {
	p, clock, _ := board()
	p.program(0, 2, 10000)
	clock.Advance(ticks(2500))
	if n := p.count(0); n != 7500 {
		t.Errorf("mode 2: %d after 2500 ticks", n)
	}
	clock.Advance(ticks(10000))
	if n := p.count(0); n != 7500 && n != 7499 {
		t.Errorf("mode 2: %d one period later", n)
	}
	p.program(0, 3, 10000)
	clock.Advance(ticks(2500))
	if n := p.count(0); n != 5000 {
		t.Errorf("mode 3 counts by two: %d after 2500 ticks", n)
	}
	p.program(0, 0, 100)
	clock.Advance(ticks(101))
	if n := p.count(0); n != 0xffff {
		t.Errorf("mode 0 goes on past zero: %#x", n)
	}
	p.program(0, 2, 0)
	if n := p.count(0); n != 0 {
		t.Errorf("a count of 65536 reads %#x at its start", n)
	}
}

// quick_pit_calibrate and pit_hpet_ptimer_calibrate_cpu: channel 2 by port 61h.
func TestLinuxCalibratesWithChannel2(t *testing.T) {
	p, clock, _ := board()
	p.Out(Port61, 1, p.In(Port61, 1)&^p61Speaker|p61Gate)
	p.program(2, 0, 0xffff)
	for want := uint32(0xff); want > 0xf0; want-- {
		p.In(Base+2, 1) // the low byte
		if got := p.In(Base+2, 1); got != want {
			t.Fatalf("the high byte is %#x, want %#x", got, want)
		}
		clock.Advance(ticks(256))
	}
	// 50 ms in mode 0, until OUT2.
	p.program(2, 0, Frequency/20)
	clock.Advance(49e6)
	if p.In(Port61, 1)&p61Out != 0 {
		t.Error("OUT2 is up too early")
	}
	clock.Advance(1e6)
	if p.In(Port61, 1)&p61Out == 0 {
		t.Error("OUT2 is not up after 50 ms")
	}
}

func TestGateStopsTheCount(t *testing.T) {
	p, clock, _ := board()
	p.program(2, 0, 1000)
	clock.Advance(ticks(500))
	if p.count(2) != 1000 {
		t.Error("counts with a low gate")
	}
	p.Out(Port61, 1, p61Gate)
	clock.Advance(ticks(400))
	p.Out(Port61, 1, 0)
	n := p.count(2)
	clock.Advance(ticks(500))
	if p.count(2) != n || n > 601 || n < 599 {
		t.Errorf("count %d, later %d", n, p.count(2))
	}
	p.Out(Port61, 1, p61Gate)
	clock.Advance(ticks(601))
	if p.In(Port61, 1)&p61Out == 0 {
		t.Error("does not end after the pause")
	}
	// Mode 1 is started by the gate only.
	p.Out(Port61, 1, 0)
	p.program(2, 1, 100)
	if p.In(Port61, 1)&p61Out == 0 {
		t.Error("mode 1: the output is low before the trigger")
	}
	p.Out(Port61, 1, p61Gate)
	if p.In(Port61, 1)&p61Out != 0 {
		t.Error("mode 1: not triggered")
	}
	clock.Advance(ticks(100))
	if p.In(Port61, 1)&p61Out == 0 {
		t.Error("mode 1: does not end")
	}
}

func TestRefreshBitToggles(t *testing.T) {
	p, clock, _ := board()
	flips, last := 0, p.In(Port61, 1)&p61Refresh
	for range 1000 {
		clock.Advance(1000)
		if b := p.In(Port61, 1) & p61Refresh; b != last {
			flips, last = flips+1, b
		}
	}
	if flips != 66 {
		t.Errorf("%d changes in a millisecond, want 66", flips)
	}
}

func TestReadBackAndStatus(t *testing.T) {
	p, clock, _ := board()
	p.Out(portControl, 1, 0x34)
	p.Out(portControl, 1, 0xe2) // status of channel 0
	if v := p.In(Base, 1); v != 0xf4 {
		t.Errorf("status with no count is %#x", v)
	}
	p.program(0, 2, 1000)
	clock.Advance(ticks(10))
	p.Out(portControl, 1, 0xc2) // status and count
	clock.Advance(ticks(500))
	if v := p.In(Base, 1); v != 0xb4 {
		t.Errorf("status is %#x", v)
	}
	if v := p.In(Base, 1) | p.In(Base, 1)<<8; v != 990 {
		t.Errorf("latched count is %d", v)
	}
}

func TestLowAndHighByteAccess(t *testing.T) {
	p, clock, _ := board()
	p.Out(portControl, 1, 0x14) // low byte only, mode 2
	p.Out(Base, 1, 200)
	clock.Advance(ticks(50))
	if v := p.In(Base, 1); v != 150 {
		t.Errorf("low byte is %d", v)
	}
	p.Out(portControl, 1, 0x24)
	p.Out(Base, 1, 2)
	if v := p.In(Base, 1); v != 2 {
		t.Errorf("high byte is %d", v)
	}
}

func TestBCD(t *testing.T) {
	p, clock, _ := board()
	p.Out(portControl, 1, 0x35)
	p.Out(Base, 1, 0x00)
	p.Out(Base, 1, 0x10) // 1000
	clock.Advance(ticks(1))
	if n := p.count(0); n != 0x999 {
		t.Errorf("count is %#x", n)
	}
}

func TestAbsurdRateIsBounded(t *testing.T) {
	p, clock, irq := board()
	p.program(0, 2, 2)
	start := irq.Edges
	clock.Advance(1e9)
	if n := irq.Edges - start; n > 1e9/minPeriod {
		t.Errorf("%d interrupts in a second", n)
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, clockA, _ := board()
	z, clockZ, irqZ := board()
	a.program(0, 2, 11932)
	a.Out(Port61, 1, p61Gate)
	a.program(2, 0, 5000)
	a.program(1, 3, 18)
	clockA.Advance(1e9 + 12345)
	a.Out(Port61, 1, 0)
	a.Out(portControl, 1, 0xd8)
	clockZ.Advance(1e9 + 12345)
	devicetest.RoundTrip(t, a, z)
	irqZ.Level = a.level
	clockA.Advance(1e9)
	clockZ.Advance(1e9)
	if irqZ.Edges != 100 {
		t.Errorf("%d ticks in the second after the move", irqZ.Edges)
	}
	for ch := range uint8(3) {
		if x, y := a.count(ch), z.count(ch); x != y {
			t.Errorf("channel %d reads %d, after the move %d", ch, x, y)
		}
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 7, 6, "mode 6")
	devicetest.Refused(t, z, good, 3, 0, "channel 0's gate is low")
	devicetest.Refused(t, z, good, 7+5+2+2, 2, "a count above 65536")
	devicetest.Refused(t, z, good, 7+5+2+4+7, 0x7f, "began in the future")
	devicetest.Refused(t, z, good, len(good)-10, 1, "port 61h's gate differs from the channel's")
}
