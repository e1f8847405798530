package apic

import "testing"

// fired counts timer interrupts at vector 0xec, which it ends.
func (l *LAPIC) fired() (n int) {
	for {
		v, ok := l.Acknowledge()
		if !ok || v != 0xec {
			return n
		}
		n++
		l.eoi()
	}
}

func TestOneShotTimerFiresOnce(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(0x32, 0xec)
	l.mmio(regDivide, 3) // by 16
	l.mmio(regInitial, 1000)
	b.clock.Advance(8000)
	if got := l.get(regCurrent); got != 500 {
		t.Errorf("half-way the count is %d", got)
	}
	b.clock.Advance(7999)
	if l.fired() != 0 {
		t.Error("too early")
	}
	b.clock.Advance(1)
	if l.fired() != 1 || l.get(regCurrent) != 0 {
		t.Error("did not fire once")
	}
	b.clock.Advance(1e9)
	if l.fired() != 0 || b.clock.Armed() != 0 {
		t.Error("fired again")
	}
}

func TestPeriodicTimerKeepsItsGrid(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(0x32, 1<<17|0xec)
	l.mmio(regDivide, 0xb) // by 1
	l.mmio(regInitial, 1e6)
	n := 0
	for range 1000 {
		b.clock.Advance(1e6)
		n += l.fired()
	}
	if n != 1000 {
		t.Errorf("%d ticks in a thousand periods", n)
	}
	b.clock.Advance(3e5)
	if got := l.get(regCurrent); got != 7e5 {
		t.Errorf("count %d", got)
	}
	l.mmio(regInitial, 0)
	b.clock.Advance(1e9)
	if l.fired() != 0 {
		t.Error("fired after it was stopped")
	}
}

func TestAbsurdPeriodIsBounded(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	calls := 0
	l.cfg.Wake = func() { calls++; l.fired() }
	l.mmio(0x32, 1<<17|0xec)
	l.mmio(regDivide, 0xb)
	l.mmio(regInitial, 1)
	b.clock.Advance(1e9)
	if calls > 1e9/minPeriod+1 {
		t.Errorf("%d interrupts in a second", calls)
	}
}

func TestMaskedTimerCountsWithoutInterrupt(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(0x32, 1<<16|0xec)
	l.mmio(regDivide, 0xb)
	l.mmio(regInitial, 1000)
	b.clock.Advance(400)
	if l.get(regCurrent) != 600 {
		t.Errorf("count %d", l.get(regCurrent))
	}
	b.clock.Advance(1000)
	l.mmio(0x32, 0xec)
	if l.fired() != 0 {
		t.Error("an expiry while masked was kept")
	}
}

func TestDivideChangesTheSpeedOfARunningCount(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	l.mmio(0x32, 0xec)
	l.mmio(regDivide, 0xb)
	l.mmio(regInitial, 1000)
	b.clock.Advance(500)
	l.mmio(regDivide, 0) // by 2
	b.clock.Advance(999)
	if l.get(regCurrent) != 1 || l.fired() != 0 {
		t.Errorf("count %d", l.get(regCurrent))
	}
	b.clock.Advance(1)
	if l.fired() != 1 {
		t.Error("did not fire")
	}
}

func TestDivideConfigurations(t *testing.T) {
	for cfg, want := range map[uint32]uint32{0: 1, 1: 2, 2: 3, 3: 4, 8: 5, 9: 6, 10: 7, 11: 0} {
		if got := shift(cfg); got != want {
			t.Errorf("configuration %#x divides by 1<<%d, want 1<<%d", cfg, got, want)
		}
	}
}

func TestTSCDeadline(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	deadline := func(v uint64) {
		t.Helper()
		if !l.WriteMSR(MSRTSCDeadline, v) {
			t.Fatal("refused")
		}
	}
	deadline(5000)
	if v, _ := l.ReadMSR(MSRTSCDeadline); v != 0 {
		t.Error("armed in one-shot mode")
	}
	l.mmio(0x32, 2<<17|0xec)
	deadline(5000) // of a 2 GHz counter: 2500 ns
	if at, ok := l.Deadline(); !ok || at != 2500 {
		t.Errorf("fires at %d", at)
	}
	l.mmio(regInitial, 77) // ignored in this mode
	if l.get(regInitial) != 0 || l.get(regCurrent) != 0 {
		t.Error("counts in TSC-deadline mode")
	}
	b.clock.Advance(2499)
	if l.fired() != 0 {
		t.Error("too early")
	}
	b.clock.Advance(1)
	if v, _ := l.ReadMSR(MSRTSCDeadline); l.fired() != 1 || v != 0 {
		t.Errorf("did not fire and disarm: %d", v)
	}
	deadline(1) // past: at once
	if l.fired() != 1 {
		t.Error("a past deadline does not fire")
	}
	deadline(1 << 40)
	deadline(0)
	if _, ok := l.Deadline(); ok || b.clock.Armed() != 0 {
		t.Error("zero does not disarm")
	}
	deadline(1 << 40)
	l.mmio(0x32, 0xec)
	if _, ok := l.Deadline(); ok {
		t.Error("leaving the mode does not disarm")
	}
}

func TestPolledTimerUsesNoClockTimer(t *testing.T) {
	b := newBoard(1)
	woken := 0
	l := b.Add(Config{Clock: b.clock, Wake: func() { woken++ }, PollTimer: true})
	l.mmio(regSVR, 0x1ff)
	l.mmio(0x32, 0xec)
	l.mmio(regDivide, 0xb)
	l.mmio(regInitial, 1000)
	if b.clock.Armed() != 0 {
		t.Error("a timer of the clock is armed")
	}
	b.clock.Advance(999)
	l.PollTimer()
	if l.fired() != 0 {
		t.Error("too early")
	}
	b.clock.Advance(1)
	l.PollTimer()
	l.PollTimer()
	if l.fired() != 1 || woken != 1 {
		t.Error("not delivered once by polling")
	}
}
