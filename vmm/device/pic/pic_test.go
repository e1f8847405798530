package pic

import (
	"testing"

	"godwit/vmm/device/devicetest"
)

// start makes a PIC as Linux programs it: vectors 30h and 38h, all inputs open.
func start() (*PIC, *devicetest.Line) { return startWith(1) }

func startWith(icw4 uint32) (*PIC, *devicetest.Line) {
	out := &devicetest.Line{}
	p := New(out)
	for i, base := range []uint16{Master, Slave} {
		p.Out(base, 1, 0x11)
		p.Out(base+1, 1, uint32(0x30+8*i))
		p.Out(base+1, 1, []uint32{4, 2}[i])
		p.Out(base+1, 1, icw4)
		p.Out(base+1, 1, 0)
	}
	return p, out
}

func want(t *testing.T, p *PIC, out *devicetest.Line, vector uint8) {
	t.Helper()
	if !out.Level || !p.Pending() {
		t.Fatalf("INTR is low, want vector %#x", vector)
	}
	if v := p.Acknowledge(); v != vector {
		t.Fatalf("vector %#x, want %#x", v, vector)
	}
}

func (p *PIC) eoi(irq int) {
	if irq >= 8 {
		p.Out(Slave, 1, uint32(0x60|irq&7))
		irq = cascade
	}
	p.Out(Master, 1, uint32(0x60|irq))
}

func TestPriorityAndNesting(t *testing.T) {
	p, out := start()
	p.Line(4).Set(true)
	p.Line(1).Set(true)
	want(t, p, out, 0x31)
	if out.Level {
		t.Error("a less urgent request gets through")
	}
	p.Line(0).Set(true)
	want(t, p, out, 0x30)
	p.eoi(0)
	p.eoi(1)
	want(t, p, out, 0x34)
	p.Out(Master, 1, 0x20) // non-specific
	if p.In(Master, 1) != 0 || out.Level {
		t.Errorf("IRR %#x after all", p.In(Master, 1))
	}
}

func TestSlaveInterruptsThroughTheCascade(t *testing.T) {
	p, out := start()
	p.Line(14).Set(true)
	p.Line(8).Set(true)
	p.Line(3).Set(true)
	want(t, p, out, 0x38)
	p.Out(Slave, 1, 0x0b)
	p.Out(Master, 1, 0x0b)
	if p.In(Slave, 1) != 1 || p.In(Master, 1) != 1<<cascade {
		t.Errorf("ISRs are %#x, %#x", p.In(Master, 1), p.In(Slave, 1))
	}
	p.eoi(8)
	want(t, p, out, 0x3e)
	p.eoi(14)
	want(t, p, out, 0x33)
}

func TestVanishedRequestIsSpurious(t *testing.T) {
	p, out := start()
	p.Line(4).Set(true)
	p.Line(4).Set(false)
	if out.Level {
		t.Error("INTR stays up")
	}
	if v := p.Acknowledge(); v != 0x37 {
		t.Errorf("vector %#x", v)
	}
	p.Out(Master, 1, 0x0b)
	if p.In(Master, 1) != 0 {
		t.Error("a spurious interrupt is in service")
	}
}

func TestEdgeAndLevelInputs(t *testing.T) {
	p, out := start()
	p.Line(5).Set(true)
	want(t, p, out, 0x35)
	p.eoi(5)
	if out.Level {
		t.Error("an edge asked twice")
	}
	p.Line(5).Set(false)
	p.Out(ELCR, 1, 0xff)
	if v := p.In(ELCR, 1); v != 0xf8 {
		t.Errorf("ELCR is %#x", v)
	}
	p.Line(5).Set(true)
	want(t, p, out, 0x35)
	p.eoi(5)
	want(t, p, out, 0x35)
	p.Line(5).Set(false)
	p.eoi(5)
	if out.Level {
		t.Error("a level asks after it dropped")
	}
}

func TestMaskHoldsTheRequest(t *testing.T) {
	p, out := start()
	p.Out(Master+1, 1, 0xfb)
	p.Line(0).Set(true)
	if out.Level || p.In(Master, 1) != 1 || p.In(Master+1, 1) != 0xfb {
		t.Errorf("INTR %v, IRR %#x", out.Level, p.In(Master, 1))
	}
	p.Out(Master+1, 1, 0xfa)
	want(t, p, out, 0x30)
}

func TestAutoEOI(t *testing.T) {
	p, out := start()
	p.Out(Master, 1, 0x11)
	p.Out(Master+1, 1, 0x30)
	p.Out(Master+1, 1, 4)
	p.Out(Master+1, 1, 3)
	p.Line(0).Set(true)
	want(t, p, out, 0x30)
	p.Line(0).Set(false)
	p.Line(0).Set(true)
	want(t, p, out, 0x30)
	p.Line(1).Set(true)
	want(t, p, out, 0x31)
}

func TestRotation(t *testing.T) {
	p, out := start()
	p.Line(1).Set(true)
	p.Line(2 + 1).Set(true)
	p.Line(0).Set(true)
	want(t, p, out, 0x30)
	p.Out(Master, 1, 0xa0) // EOI with rotation: 0 is the last now
	p.Line(0).Set(false)
	p.Line(0).Set(true)
	want(t, p, out, 0x31)
	p.Out(Master, 1, 0x20)
	want(t, p, out, 0x33)
	p.Out(Master, 1, 0x20)
	want(t, p, out, 0x30)
	p.Out(Master, 1, 0x20)
	p.Out(Master, 1, 0xc4) // 4 is the last, 5 the first
	p.Line(6).Set(true)
	p.Line(4).Set(true)
	want(t, p, out, 0x36)
}

func TestSpecialMaskMode(t *testing.T) {
	p, out := start()
	p.Line(0).Set(true)
	want(t, p, out, 0x30)
	p.Line(6).Set(true)
	p.Out(Master+1, 1, 1)
	if out.Level {
		t.Error("lower priority gets through")
	}
	p.Out(Master, 1, 0x68)
	want(t, p, out, 0x36)
}

func TestPoll(t *testing.T) {
	p, out := start()
	p.Line(3).Set(true)
	p.Out(Master, 1, 0x0c)
	if v := p.In(Master, 1); v != 0x83 {
		t.Errorf("poll gives %#x", v)
	}
	if out.Level {
		t.Error("INTR stays up")
	}
	p.Out(Master, 1, 0x0c)
	if v := p.In(Master, 1); v != 0 {
		t.Errorf("poll with nothing to do gives %#x", v)
	}
}

func TestNoInterruptDuringInitialization(t *testing.T) {
	p, out := start()
	p.Out(ELCR, 1, 0x20)
	p.Line(5).Set(true)
	p.Out(Master, 1, 0x11)
	if out.Level {
		t.Error("INTR is up between ICW1 and ICW4")
	}
	p.Out(Master+1, 1, 0x48)
	p.Out(Master+1, 1, 4)
	p.Out(Master+1, 1, 1)
	want(t, p, out, 0x4d)
}

func TestStateRoundTrip(t *testing.T) {
	a, _ := start()
	z := New(&devicetest.Line{})
	a.Line(14).Set(true)
	a.Line(1).Set(true)
	a.Acknowledge()
	a.Out(ELCR+1, 1, 0x0c)
	devicetest.RoundTrip(t, a, z)
	a.eoi(1)
	z.eoi(1)
	if v, w := a.Acknowledge(), z.Acknowledge(); v != w || v != 0x3e {
		t.Errorf("vector %#x, after the move %#x", v, w)
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 1, 0xff, "requests without lines")
	devicetest.Refused(t, z, good, 4, 1, "timer input level-triggered")
	devicetest.Refused(t, z, good, 5, 1, "odd vector base")
	devicetest.Refused(t, z, good, 6, 8, "ninth input")
	devicetest.Refused(t, z, good, 7, 5, "ICW5")
	devicetest.Refused(t, z, good, 8, 2, "boolean of two")
}

func TestSpecialFullyNestedModeLetsOnlyTheSlaveIn(t *testing.T) {
	p, out := startWith(0x11)
	p.Line(10).Set(true)
	want(t, p, out, 0x3a)
	p.Line(3).Set(true)
	if out.Level {
		t.Error("IRQ 3 interrupts the slave's service")
	}
	p.Line(8).Set(true)
	want(t, p, out, 0x38)
	p.Out(Slave, 1, 0x60) // IRQ 10 is still in service: no EOI for the master
	p.Line(10).Set(false)
	p.Line(10).Set(true)
	if out.Level {
		t.Error("IRQ 10 interrupts its own service")
	}
	p.Out(Slave, 1, 0x62)
	want(t, p, out, 0x3a)
}

func TestInputThatBecomesALevelAsksWhileItIsUp(t *testing.T) {
	p, out := start()
	p.Line(9).Set(true)
	want(t, p, out, 0x39)
	p.eoi(9)
	if out.Level {
		t.Fatal("an edge asked twice")
	}
	p.Out(ELCR+1, 1, 1<<1)
	want(t, p, out, 0x39)
}
