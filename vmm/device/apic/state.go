package apic

import (
	"fmt"

	"godwit/vmm/state"
)

const stateVersion = 1

// StateName implements state.Device.
func (l *LAPIC) StateName() string { return fmt.Sprintf("lapic/%d", l.id) }

// StateVersion implements state.Device.
func (l *LAPIC) StateVersion() uint16 { return stateVersion }

// SaveState implements state.Device. The VCPU and the Clock stand still.
func (l *LAPIC) SaveState(w *state.Writer) {
	w.U64(l.base)
	for _, s := range []*vectorSet{&l.irr, &l.tmr, &l.isr} {
		for i := range s {
			w.U32(s[i].Load())
		}
	}
	w.U32(l.events.Load())
	w.U32(l.lint.Load())
	w.U32(l.errors.Load())
	w.U32(l.esr)
	w.U32(l.tpr.Load())
	w.U32(l.ldr)
	w.U32(l.dfr)
	w.U32(l.svr)
	w.U64(l.icr)
	for i := range l.lvt {
		w.U32(l.lvt[i].Load())
	}
	s := &l.self
	s.mu.Lock()
	defer s.mu.Unlock()
	w.U32(s.initial)
	w.U32(s.divide)
	w.U64(s.deadline)
	w.I64(s.at.Load())
}

// LoadState implements state.Device. The Clock has been loaded before.
func (l *LAPIC) LoadState(_ uint16, r *state.Reader) error {
	base := r.U64()
	var sets [3][8]uint32
	for s := range sets {
		for i := range sets[s] {
			sets[s][i] = r.U32()
		}
		if sets[s][0]&0xffff != 0 {
			r.Fail(fmt.Errorf("vector set %d holds vectors below 16: %#x", s, sets[s][0]))
		}
	}
	events, lint, errors, esr := r.U32(), r.U32(), r.U32(), r.U32()
	tpr, ldr, dfr, svr, icr := r.U32(), r.U32(), r.U32(), r.U32(), r.U64()
	var lvt [numLVT]uint32
	for i := range lvt {
		lvt[i] = r.U32()
		if lvt[i]&^l.lvtMask(i) != 0 {
			r.Fail(fmt.Errorf("LVT entry %d is %#x", i, lvt[i]))
		}
		if svr&(1<<8) == 0 && lvt[i]&lvtMasked == 0 {
			r.Fail(fmt.Errorf("LVT entry %d is open though the APIC is disabled", i))
		}
	}
	initial, divide, deadline, at := r.U32(), r.U32(), r.U64(), r.I64()

	const allErrors = errSendVector | errReceiveVector | errRegister
	for _, c := range []struct {
		what string
		bad  bool
		v    uint64
	}{
		{"IA32_APIC_BASE", !l.baseValid(base), base},
		{"events", events&^(EventNMI|EventINIT|EventSIPI|EventExtINT|sipiMask) != 0, uint64(events)},
		{"LINT pins", lint > 3, uint64(lint)},
		{"errors", errors&^allErrors != 0, uint64(errors)},
		{"ESR", esr&^allErrors != 0, uint64(esr)},
		{"TPR", tpr > 0xff, uint64(tpr)},
		{"LDR", ldr&0xffffff != 0, uint64(ldr)},
		{"DFR", dfr&0xfffffff != 0xfffffff, uint64(dfr)},
		{"SVR", svr&^svrWritable != 0, uint64(svr)},
		{"ICR", uint32(icr)&^icrWritable != 0, icr},
		{"divide configuration", divide&^divideWritable != 0, uint64(divide)},
		{"TSC deadline", deadline != 0 && l.cfg.TSCTime == nil, deadline},
		{"timer's expiry", at < 0, uint64(at)},
	} {
		if c.bad {
			r.Fail(fmt.Errorf("%s is %#x", c.what, c.v))
		}
	}
	if r.Err() != nil {
		return r.Err()
	}

	l.base = base
	for s, set := range []*vectorSet{&l.irr, &l.tmr, &l.isr} {
		for i := range set {
			set[i].Store(sets[s][i])
		}
	}
	l.prio.Store(uint32(l.isr.highest()))
	l.events.Store(events)
	l.lint.Store(lint)
	l.errors.Store(errors)
	l.tpr.Store(tpr)
	l.esr, l.ldr, l.dfr, l.svr, l.icr = esr, ldr, dfr, svr, icr
	for i := range lvt {
		l.lvt[i].Store(lvt[i])
	}
	l.updateRoute()
	s := &l.self
	s.mu.Lock()
	defer s.mu.Unlock()
	s.initial, s.divide, s.deadline = initial, divide, deadline
	l.schedule(at)
	return nil
}
