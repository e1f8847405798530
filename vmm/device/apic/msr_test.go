package apic

import "testing"

func TestAPICBaseTransitions(t *testing.T) {
	const off, xapic, x2 = 0, baseEnable, baseEnable | baseX2
	for _, c := range []struct {
		from, to uint64
		ok       bool
	}{
		{xapic, x2, true}, {xapic, off, true}, {x2, off, true}, {off, xapic, true}, {x2, x2, true},
		{off, x2, false}, {x2, xapic, false}, {xapic, baseX2, false}, {off, baseX2, false},
	} {
		l := newBoard(1).lapics[0]
		switch c.from {
		case x2:
			l.enterX2(t)
		case off:
			l.WriteMSR(MSRBase, DefaultBase)
		}
		if ok := l.WriteMSR(MSRBase, DefaultBase|c.to); ok != c.ok {
			t.Errorf("from %#x to %#x: %v", c.from, c.to, ok)
		}
		if got := l.base & x2; c.ok && got != c.to || !c.ok && got != c.from {
			t.Errorf("from %#x to %#x: now %#x", c.from, c.to, got)
		}
	}
}

func TestAPICBaseReservedBits(t *testing.T) {
	l := newBoard(1).lapics[0]
	for _, bad := range []uint64{1, 1 << 7, 1 << 9, 1 << 36, 1 << 63} {
		if l.WriteMSR(MSRBase, DefaultBase|baseEnable|bad) {
			t.Errorf("bit %#x is taken", bad)
		}
	}
	if !l.WriteMSR(MSRBase, 0x12345000|baseEnable) {
		t.Error("another address is refused")
	}
	if gpa, mapped := l.Base(); gpa != 0x12345000 || !mapped {
		t.Errorf("now at %#x, %v", gpa, mapped)
	}
	l.WriteMSR(MSRBase, DefaultBase|baseEnable|baseX2)
	if _, mapped := l.Base(); mapped {
		t.Error("registers in memory in x2APIC mode")
	}
}

func TestDisablingForgetsEverything(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(regTPR, 0x20)
	b.Send(Message{Vector: 0x55})
	l.WriteMSR(MSRBase, DefaultBase)
	if b.Send(Message{Vector: 0x56}) || l.Class() != 0 {
		t.Error("a disabled APIC takes interrupts")
	}
	l.WriteMSR(MSRBase, DefaultBase|baseEnable)
	if l.get(regTPR) != 0 || l.get(regSVR) != 0xff || l.Class() != 0 {
		t.Error("state survived")
	}
}

func TestX2APICRegisters(t *testing.T) {
	b := newBoard(2)
	l := b.lapics[1]
	if _, ok := l.ReadMSR(0x802); ok {
		t.Error("MSRs answer in xAPIC mode")
	}
	l.enterX2(t)
	for msr, want := range map[uint32]uint64{0x802: 1, 0x803: version, 0x80d: 1 << 1, 0x80f: 0x1ff, 0x832: 0x10000} {
		if v, ok := l.ReadMSR(msr); !ok || v != want {
			t.Errorf("MSR %#x is %#x, %v", msr, v, ok)
		}
	}
	for _, msr := range []uint32{0x800, 0x801, 0x809, 0x80b, 0x80c, 0x80e, 0x831, 0x83f, 0x840, 0x8ff, 0x82f} {
		if _, ok := l.ReadMSR(msr); ok {
			t.Errorf("MSR %#x reads", msr)
		}
	}
	for _, c := range []struct {
		msr uint32
		v   uint64
		ok  bool
	}{
		{0x808, 0xff, true}, {0x808, 0x100, false}, {0x808, 1 << 32, false},
		{0x80b, 0, true}, {0x80b, 1, false}, {0x828, 0, true}, {0x828, 1, false},
		{0x80f, 0x1ff, true}, {0x80f, 0x11ff, false}, {0x832, 0x300ff, true}, {0x832, 0x800ff, false},
		{0x835, 0x1e7ff &^ 0x800, true}, {0x835, 0x20000, false}, {0x83e, 0xb, true}, {0x83e, 4, false},
		{0x802, 0, false}, {0x803, 0, false}, {0x80a, 0, false}, {0x80d, 0, false}, {0x80e, 0, false},
		{0x831, 0, false}, {0x839, 0, false}, {0x810, 0, false}, {0x83f, 0x20, true}, {0x83f, 0x100, false},
		{0x830, 1<<20 | 0x55, false}, {0x830, 0x4055, true},
	} {
		if ok := l.WriteMSR(c.msr, c.v); ok != c.ok {
			t.Errorf("WRMSR %#x, %#x: %v", c.msr, c.v, ok)
		}
	}
}

func TestNoTSCDeadlineWithoutATSC(t *testing.T) {
	b := newBoard(1)
	l := b.Add(Config{Clock: b.clock, Wake: func() {}})
	if l.WriteMSR(MSRTSCDeadline, 1) {
		t.Error("the MSR is there")
	}
	l.mmio(regSVR, 0x1ff)
	l.mmio(0x32, 2<<17|0xec)
	if l.get(0x32) != 0xec {
		t.Errorf("LVT timer is %#x", l.get(0x32))
	}
}
