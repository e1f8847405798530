package svm

import (
	"fmt"

	"godwit/vmm/vcpu"
)

const flagTF, flagIF, flagRF = 1 << 8, 1 << 9, 1 << 16

// checkEvent refuses what EVENTINJ can not express (APM 15.20).
func checkEvent(e vcpu.Event) error {
	if !e.Valid {
		return nil
	}
	switch e.Type {
	case vcpu.EventInterrupt, vcpu.EventSoft, vcpu.EventPrivSoft, vcpu.EventSoftExc:
	case vcpu.EventNMI:
		if e.Vector != 2 {
			return fmt.Errorf("svm: an NMI with vector %d", e.Vector)
		}
	case vcpu.EventException:
		if e.Vector == 2 || e.Vector > 31 {
			return fmt.Errorf("svm: an exception with vector %d", e.Vector)
		}
	default:
		return fmt.Errorf("svm: an event of type %d", e.Type)
	}
	if e.Len > 15 {
		return fmt.Errorf("svm: an event of an instruction of %d bytes", e.Len)
	}
	return nil
}

// Inject queues e unless an event is queued. An event that hardware could not
// deliver is taken for the mistake it is.
func (v *VCPU) Inject(e vcpu.Event) bool {
	if v.pending.Valid || !e.Valid {
		return false
	}
	if err := checkEvent(e); err != nil {
		panic(err)
	}
	if e.Type == vcpu.EventException && e.Vector == vcpu.VecPF {
		v.vm.cr2 = e.CR2
		v.clean &^= cleanCR2
	}
	v.pending, v.asked = e, true
	return true
}

// Pending is the queued event.
func (v *VCPU) Pending() vcpu.Event { return v.pending }

func (v *VCPU) shadow() bool { return v.vm.shadow&1 != 0 }

// CanInterrupt tells whether the next entry could deliver an interrupt.
func (v *VCPU) CanInterrupt() bool {
	return !v.pending.Valid && v.regs.RFLAGS&flagIF != 0 && !v.shadow()
}

// CanNMI is the same for an NMI.
func (v *VCPU) CanNMI() bool { return !v.pending.Valid && !v.nmiBlocked && !v.shadow() }

// WantInterrupt asks for one ExitInterruptWindow.
func (v *VCPU) WantInterrupt(class uint8) { v.window, v.asked = class&15, true }

// WantNMI asks for one ExitInterruptWindow.
func (v *VCPU) WantNMI(on bool) { v.wantNMI, v.asked = on, true }

// windowOpen tells whether a request is satisfied, and ends it.
func (v *VCPU) windowOpen() bool {
	switch {
	case v.wantNMI && v.CanNMI():
		v.wantNMI = false
	case v.window != 0 && v.CanInterrupt() && v.regs.CR8 < uint64(v.window):
		v.window = 0
	default:
		return false
	}
	return true
}

// armEvent puts the queued event into EVENTINJ.
func (v *VCPU) armEvent() {
	m, e := v.vm, &v.pending
	if !e.Valid {
		m.eventInj = 0
		v.injected.Valid = false
		return
	}
	if e.Len != 0 {
		m.rip += uint64(e.Len)
		e.Len = 0
	}
	// A software event's handler returns behind the instruction. A processor with
	// next-RIP saving takes that from there, others (and Bochs 2.7) take RIP. An exit
	// that is none of an instruction has made it zero (APM 15.7.1), be it the one that
	// cut this event's delivery off.
	m.nextRIP = m.rip
	m.eventInj = uint64(e.Vector) | uint64(hardwareType(e.Type))<<8 | eventValid
	if e.HasError {
		m.eventInj |= eventError | uint64(e.Error)<<32
	}
	if e.Type == vcpu.EventNMI {
		v.nmiBlocked = true // until IRET; there is no virtual NMI here
	}
	v.injected = *e
}

// disarmEvent keeps a queued event as it is when there was no entry.
func (v *VCPU) disarmEvent() {
	if !v.pending.Valid {
		return
	}
	v.regs.RIP = v.vm.rip // behind a software interrupt's instruction, if armEvent went there
	if v.pending.Type == vcpu.EventNMI {
		v.nmiBlocked = false
	}
}

// hardwareType: INT1, INT3 and INTO are injected as exceptions.
func hardwareType(t vcpu.EventType) vcpu.EventType {
	if t == vcpu.EventPrivSoft || t == vcpu.EventSoftExc {
		return vcpu.EventException
	}
	return t
}

// settleEvent looks at what the exit did to the event that was being delivered (APM
// 15.7.2). An injected one is queued again. The guest's own needs nothing: RIP is
// still at the instruction that faulted, or at INT n, INT3 or INTO, which is executed
// again. (Interrupts, NMIs and traps are all injected. TCG leaves the low bits as
// they were if bit 31 is clear, and Bochs 2.7 does when it was INT n.)
func (v *VCPU) settleEvent() {
	info := v.vm.exitIntInfo
	v.pending = vcpu.Event{}
	e := &v.injected
	if info&eventValid == 0 || !e.Valid || e.Vector != uint8(info) || hardwareType(e.Type) != vcpu.EventType(info>>8&7) {
		return
	}
	if e.Type == vcpu.EventNMI {
		v.nmiBlocked = false // it has not begun
	}
	v.pending = *e
}

// armWindows makes the hardware tell when a request can be satisfied.
func (v *VCPU) armWindows() {
	m := v.vm
	vintr := m.vintr&^(vWindow|vTPRMask) | v.regs.CR8&vTPRMask
	want := v.window != 0
	if v.space.b.tcg() {
		// V_IRQ waits for IF only; for CR8 the guest's writes to it exit.
		v.wantCR8(want)
		want = want && v.regs.CR8 < uint64(v.window)
	}
	if want && v.shadow() && v.space.b.stepsShadows {
		v.stepping, want = true, false
	}
	if want {
		vintr |= vIRQ | uint64(v.window)<<vPrioShift
	}
	if vintr != m.vintr {
		m.vintr = vintr
		v.clean &^= cleanTPR
	}
	v.want(exitVINTR, want)
	// One instruction stands between now and an NMI: the IRET that ends the
	// handler of the last one, or the one in a shadow. It is stepped over.
	if v.wantNMI && v.shadow() {
		v.stepping = true
	}
	step := v.stepping && m.eventInj&eventValid == 0
	v.want(exitIRET, v.nmiBlocked && !step)
	v.stepTF, v.stepIRET = false, v.nmiBlocked
	if step && m.rflags&flagTF == 0 {
		v.stepTF = true
		m.rflags |= flagTF
	}
	v.enteredRIP = m.rip
	v.watching = v.window != 0 || v.nmiBlocked || v.stepping
}

// keepShadow: TCG's VMRUN does not load the shadow there was at the entry, so an exit before
// the guest's first instruction finds none. (#DB comes behind an instruction, which may be a
// jump to itself.)
func (v *VCPU) keepShadow(entered uint64) {
	if m := v.vm; m.rip == v.regs.RIP && m.exitCode != exitException+vcpu.VecDB {
		m.shadow |= entered & 1
	}
}

func (v *VCPU) wantCR8(on bool) {
	const bit = 1 << 8
	if on != (v.vm.writeCR&bit != 0) {
		v.vm.writeCR ^= bit
		v.clean &^= cleanIntercepts
	}
}

// want switches the intercept of an event.
func (v *VCPU) want(code uint, on bool) {
	if on == v.vm.intercepted(code) {
		return
	}
	if on {
		v.vm.intercept(code)
	} else {
		v.vm.pass(code)
	}
	v.clean &^= cleanIntercepts
}

// endStep sees whether the stepped instruction is over, and takes the trap flag
// back. It tells whether the exit was the step's own #DB, of which the guest must
// not know. (An IRET that faults ends the block of NMIs too early; the manual does
// not say how else to find its end.)
func (v *VCPU) endStep() (own bool) {
	if !v.stepping {
		return false
	}
	m := v.vm
	own = v.stepTF && m.exitCode == exitException+vcpu.VecDB
	over := own || m.rip != v.enteredRIP
	if v.stepTF && !(over && v.stepIRET) { // IRET has loaded the guest's own
		m.rflags &^= flagTF
	}
	if own {
		const bs = 1 << 14
		m.dr6 &^= bs
		v.clean &^= cleanDR
	}
	if over {
		v.stepping = false
		if v.stepIRET {
			v.nmiBlocked = false
		}
	}
	return own
}
