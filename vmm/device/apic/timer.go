package apic

// Timer modes in the LVT timer entry (SDM vol. 3, section 10.5.1).
const (
	modeOneShot = iota
	modePeriodic
	modeTSCDeadline
	modeReserved
)

// Frequency of the timer before its divider, in Hz: one tick a nanosecond.
const Frequency = 1000000000

// minPeriod bounds how often a periodic timer interrupts: a guest that asks for
// more gets that many, so that it can not occupy the host with its timer.
const minPeriod = 100e3 // ns

func timerMode(lvt uint32) uint32 { return lvt >> 17 & 3 }

// shift is log2 of what a divide configuration divides by (SDM vol. 3, figure
// 10-10): 000b means 2, 110b 128 and 111b 1.
func shift(divide uint32) uint32 { return ((divide&3 | divide>>1&4) + 1) & 7 }

// period is the time from initial count to zero. self.mu is held.
func (l *LAPIC) period() int64 { return int64(l.self.initial) << shift(l.self.divide) }

// schedule sets when the timer fires. self.mu is held.
func (l *LAPIC) schedule(at int64) {
	l.self.at.Store(at)
	if t := l.self.t; t != nil {
		if at == never {
			t.Stop()
		} else {
			t.Arm(at)
		}
	}
}

// Deadline is the time of the Clock at which the timer fires next; false if it
// is stopped. Callable from anywhere.
func (l *LAPIC) Deadline() (at int64, ok bool) {
	at = l.self.at.Load()
	return at, at != never
}

// PollTimer delivers the timer's interrupt if it is due. Callable from anywhere.
func (l *LAPIC) PollTimer() {
	now := l.cfg.Clock.Now()
	if l.self.at.Load() > now {
		return
	}
	s := &l.self
	s.mu.Lock()
	at := s.at.Load()
	if at > now { // set anew meanwhile
		s.mu.Unlock()
		return
	}
	next := int64(never)
	switch timerMode(l.lvt[lvtTimer].Load()) {
	case modePeriodic:
		p := max(l.period(), minPeriod)
		if next = at + p; next <= now { // late: ticks that no one saw are one interrupt
			next = now + p - (now-at)%p
		}
	case modeTSCDeadline:
		s.deadline = 0
	}
	l.schedule(next)
	s.mu.Unlock()
	l.local(lvtTimer)
}

func (l *LAPIC) resetTimer() {
	s := &l.self
	s.mu.Lock()
	defer s.mu.Unlock()
	s.initial, s.divide, s.deadline = 0, 0, 0
	l.schedule(never)
}

func (l *LAPIC) initialCount() uint32 {
	l.self.mu.Lock()
	defer l.self.mu.Unlock()
	return l.self.initial
}

func (l *LAPIC) divideConfig() uint32 {
	l.self.mu.Lock()
	defer l.self.mu.Unlock()
	return l.self.divide
}

// setInitialCount starts the timer, or stops it with zero. In TSC-deadline mode
// the write is ignored (SDM vol. 3, section 10.5.4.1).
func (l *LAPIC) setInitialCount(v uint32) {
	s := &l.self
	s.mu.Lock()
	defer s.mu.Unlock()
	mode := timerMode(l.lvt[lvtTimer].Load())
	if mode >= modeTSCDeadline {
		return
	}
	s.initial = v
	if v == 0 {
		l.schedule(never)
		return
	}
	l.schedule(l.cfg.Clock.Now() + l.period())
}

func (l *LAPIC) currentCount() uint32 {
	l.self.mu.Lock()
	defer l.self.mu.Unlock()
	return l.current()
}

// current is the current count. self.mu is held.
func (l *LAPIC) current() uint32 {
	at := l.self.at.Load()
	if at == never || timerMode(l.lvt[lvtTimer].Load()) >= modeTSCDeadline {
		return 0
	}
	left := at - l.cfg.Clock.Now()
	if left <= 0 {
		return 0 // due; whoever polls restarts it
	}
	n := (left-1)>>shift(l.self.divide) + 1
	return uint32(min(n, int64(l.self.initial)))
}

// setDivide changes the speed of a count that goes on.
func (l *LAPIC) setDivide(v uint32) {
	s := &l.self
	s.mu.Lock()
	defer s.mu.Unlock()
	n := l.current()
	s.divide = v
	if n != 0 {
		l.schedule(l.cfg.Clock.Now() + int64(n)<<shift(v))
	}
}

// timerModeChanged: a switch to or from TSC-deadline mode disarms the timer
// (SDM vol. 3, section 10.5.4.1).
func (l *LAPIC) timerModeChanged(old, new uint32) {
	o, n := timerMode(old), timerMode(new)
	if (o >= modeTSCDeadline) == (n >= modeTSCDeadline) && o != modeReserved && n != modeReserved {
		return
	}
	s := &l.self
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline, s.initial = 0, 0
	l.schedule(never)
}

func (l *LAPIC) tscDeadline() uint64 {
	l.self.mu.Lock()
	defer l.self.mu.Unlock()
	return l.self.deadline
}

// setTSCDeadline arms the timer; zero disarms it. Outside of TSC-deadline mode
// the write is ignored.
func (l *LAPIC) setTSCDeadline(v uint64) {
	s := &l.self
	s.mu.Lock()
	if timerMode(l.lvt[lvtTimer].Load()) != modeTSCDeadline {
		s.mu.Unlock()
		return
	}
	s.deadline = v
	at := int64(never)
	if v != 0 {
		at = l.tscTime(v)
	}
	due := at <= l.cfg.Clock.Now()
	if due && s.t != nil {
		// Spare the clock's goroutine: the interrupt is due before the write ends.
		s.at.Store(at)
		s.t.Stop()
	} else {
		l.schedule(at)
	}
	s.mu.Unlock()
	if due {
		l.PollTimer()
	}
}

// tscTime is when a deadline is reached, for a timer's use.
func (l *LAPIC) tscTime(deadline uint64) int64 {
	return min(max(l.cfg.TSCTime(deadline), 0), never-1)
}
