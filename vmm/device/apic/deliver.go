package apic

// Events that are not vectors, in the word that Events returns.
const (
	EventNMI    = 1 << 0
	EventINIT   = 1 << 1
	EventSIPI   = 1 << 2
	EventExtINT = 1 << 3 // an ExtINT message, not yet acknowledged

	sipiShift = 8
	sipiMask  = 0xff << sipiShift
)

func (l *LAPIC) postEvent(e uint32) {
	if l.events.Or(e)&e == 0 {
		l.cfg.Wake()
	}
}

// postINIT: an INIT also forgets an earlier SIPI, which would have been taken
// before it.
func (l *LAPIC) postINIT() {
	for {
		old := l.events.Load()
		if l.events.CompareAndSwap(old, old&^(EventSIPI|sipiMask)|EventINIT) {
			break
		}
	}
	l.cfg.Wake()
}

// postSIPI keeps the first vector: the processor takes one SIPI after an INIT,
// and software sends two.
func (l *LAPIC) postSIPI(vector uint8) {
	for {
		old := l.events.Load()
		if old&EventSIPI != 0 {
			return
		}
		if l.events.CompareAndSwap(old, old&^uint32(sipiMask)|EventSIPI|uint32(vector)<<sipiShift) {
			break
		}
	}
	l.cfg.Wake()
}

// Events are the pending events that are not vectors; zero in the common case.
func (l *LAPIC) Events() uint32 { return l.events.Load() & (EventNMI | EventINIT | EventSIPI) }

// TakeNMI takes a pending NMI; it is called when the processor can take one.
func (l *LAPIC) TakeNMI() bool { return l.events.And(^uint32(EventNMI))&EventNMI != 0 }

// TakeINIT takes a pending INIT. The caller resets the processor, and the APIC
// with ResetINIT; it looks at INIT before SIPI.
func (l *LAPIC) TakeINIT() bool { return l.events.And(^uint32(EventINIT))&EventINIT != 0 }

// TakeSIPI takes a pending SIPI. A processor that does not wait for one drops it.
func (l *LAPIC) TakeSIPI() (vector uint8, ok bool) {
	old := l.events.And(^uint32(EventSIPI | sipiMask))
	return uint8(old >> sipiShift), old&EventSIPI != 0
}

// PostNMI gives this processor an NMI, as a management controller would.
// Callable from anywhere.
func (l *LAPIC) PostNMI() { l.postEvent(EventNMI) }

// extINT tells whether an interrupt of the 8259s waits at this processor.
func (l *LAPIC) extINT() bool {
	if l.bus.intr == nil {
		return false
	}
	open := l.events.Load()&EventExtINT != 0
	if l.lint.Load()&1 != 0 {
		if !l.on() {
			open = open || l.cfg.BSP
		} else {
			e := l.lvt[lvtLINT0].Load()
			open = open || e&lvtMasked == 0 && DeliveryMode(e>>8&7) == ExtINT
		}
	}
	return open && l.bus.intr.Pending()
}

// Class is the priority class (vector>>4) of the most urgent interrupt that
// waits and that only TPR and the processor hold off; zero if there is none. It
// is what VCPU.WantInterrupt takes. An ExtINT counts as class 15: TPR does not
// concern it.
func (l *LAPIC) Class() uint8 {
	if l.extINT() {
		return 15
	}
	if !l.on() {
		return 0
	}
	if v := l.irr.highest(); v>>4 > uint8(l.prio.Load()>>4) {
		return v >> 4
	}
	return 0
}

// Deliverable tells whether Acknowledge would return an interrupt now.
func (l *LAPIC) Deliverable() bool {
	if l.extINT() {
		return true
	}
	_, ok := l.Pending()
	return ok
}

// Acknowledge takes the most urgent interrupt for injection: an ExtINT, for
// which it runs an acknowledge cycle on the 8259s, else the highest vector above
// the processor's priority. Only after Deliverable said true.
func (l *LAPIC) Acknowledge() (vector uint8, ok bool) {
	if l.extINT() {
		l.events.And(^uint32(EventExtINT))
		return l.bus.intr.Acknowledge(), true
	}
	v, ok := l.Pending()
	if ok {
		l.Accept(v)
	}
	return v, ok
}

// Pending is the highest requested vector that priorities let through now;
// ExtINTs aside.
func (l *LAPIC) Pending() (vector uint8, ok bool) {
	if !l.on() {
		return 0, false
	}
	v := l.irr.highest()
	return v, v>>4 > l.ppr()>>4
}

// Accept moves a vector that Pending named from requested to in service.
func (l *LAPIC) Accept(vector uint8) {
	l.irr.clear(vector)
	l.isr.set(vector)
	if uint32(vector) > l.prio.Load() {
		l.prio.Store(uint32(vector))
	}
}

// ppr is the processor priority (SDM vol. 3, section 10.8.3.1).
func (l *LAPIC) ppr() uint8 {
	tpr, isr := uint8(l.tpr.Load()), uint8(l.prio.Load())
	if tpr>>4 >= isr>>4 {
		return tpr
	}
	return isr & 0xf0
}

// arbitration orders processors for lowest-priority delivery.
func (l *LAPIC) arbitration() uint8 { return l.ppr() >> 4 }

// CR8 is the task priority class.
func (l *LAPIC) CR8() uint64 { return uint64(l.tpr.Load() >> 4) }

// SetCR8 takes the class over that the guest left in CR8. The sub-class goes to
// zero only if the guest changed it (SDM vol. 3, section 10.8.6).
func (l *LAPIC) SetCR8(v uint64) {
	if v&15 != l.CR8() {
		l.tpr.Store(uint32(v&15) << 4)
	}
}

// eoi ends the highest interrupt in service (SDM vol. 3, section 10.8.5).
func (l *LAPIC) eoi() {
	v := l.isr.highest()
	if v == 0 {
		return
	}
	l.isr.clear(v)
	l.prio.Store(uint32(l.isr.highest()))
	if !l.tmr.has(v) {
		return
	}
	l.bus.broadcastEOI(v)
	// A level-triggered local pin that is still asserted asks again.
	for pin := range 2 {
		e := l.lvt[lvtLINT0+pin].Load()
		if l.lint.Load()>>pin&1 != 0 && e&lvtLevel != 0 && uint8(e) == v && DeliveryMode(e>>8&7) == Fixed {
			l.local(lvtLINT0 + pin)
		}
	}
}
