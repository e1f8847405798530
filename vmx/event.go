package vmx

import "godwit/vmm/vcpu"

// Format of the interruption-information fields (SDM vol. 3, tables 24-16, 24-17
// and 24-18).
const (
	infoVector   = 0xff
	infoType     = 7 << 8
	infoError    = 1 << 11
	infoUnblocks = 1 << 12 // exit information only: NMI unblocking due to IRET
	infoValid    = 1 << 31
)

// hasError tells which exceptions push an error code (SDM vol. 3, table 6-1).
func hasError(vector uint8) bool {
	switch vector {
	case vcpu.VecDF, vcpu.VecTS, vcpu.VecNP, vcpu.VecSS, vcpu.VecGP, vcpu.VecPF, vcpu.VecAC:
		return true
	}
	return false
}

// Inject queues an event. Interrupts and NMIs that the guest's state forbids are
// refused, too.
func (v *VCPU) Inject(e vcpu.Event) bool {
	if v.event.Valid || checkEvent(&e, v.b.s.zeroLength) != nil {
		return false
	}
	switch e.Type {
	case vcpu.EventInterrupt:
		if !v.CanInterrupt() {
			return false
		}
	case vcpu.EventNMI:
		if !v.CanNMI() {
			return false
		}
	}
	e.Valid = true
	v.queue(e)
	return true
}

func (v *VCPU) queue(e vcpu.Event) {
	if e.Type == vcpu.EventException && e.Vector == vcpu.VecPF {
		v.frame.cr2 = e.CR2
	}
	v.event = e
}

func (v *VCPU) Pending() vcpu.Event { return v.event }

func (v *VCPU) CanInterrupt() bool {
	return !v.event.Valid && v.frame.regs.RFLAGS&flagIF != 0 && v.blocked&(blockSTI|blockMovSS) == 0
}

// CanNMI: some processors do not take an NMI in the shadow of STI (SDM vol. 3,
// 26.3.1.5), so none is offered there.
func (v *VCPU) CanNMI() bool {
	return !v.event.Valid && v.blocked&(blockSTI|blockMovSS|blockNMI) == 0
}

func (v *VCPU) WantInterrupt(class uint8) { v.wantClass = min(class, 15) }
func (v *VCPU) WantNMI(on bool)           { v.wantNMI = on }

// windowOpen tells whether a request is satisfied, and ends it.
func (v *VCPU) windowOpen() bool {
	switch {
	case v.wantNMI && v.CanNMI():
		v.wantNMI = false
	case v.wantClass != 0 && v.CanInterrupt() && v.frame.regs.CR8 < uint64(v.wantClass):
		v.wantClass = 0
	default:
		return false
	}
	return true
}

// writeEvent hands the queued event to the next entry (SDM vol. 3, 26.6).
func (v *VCPU) writeEvent() {
	e := &v.event
	if !e.Valid {
		return
	}
	info := uint64(e.Vector) | uint64(e.Type)<<8 | infoValid
	// An entry fails unless exceptions have an error code exactly if they push one,
	// and nothing does in real mode (SDM vol. 3, 26.2.1.3).
	if e.Type == vcpu.EventException && hasError(e.Vector) && v.read(fGuestCR0)&cr0PE != 0 {
		info |= infoError
		v.write(fEntryErrorCode, uint64(e.Error))
	}
	switch e.Type {
	case vcpu.EventSoft, vcpu.EventPrivSoft, vcpu.EventSoftExc:
		v.write(fEntryLength, uint64(e.Len))
	}
	v.write(fEntryEvent, info)
}

// writeWindows arranges for an exit when what the caller wants becomes possible.
// An interrupt of a class that the task priority holds back waits for CR8 to fall
// below it, any other for the interrupt window. The threshold must not be above
// the task priority at entry (SDM vol. 3, 26.2.1.1).
//
// An NMI that waits for the end of STI's shadow does so by the interrupt window, which
// opens there: whether the NMI window is open in the shadow is up to the processor (25.2,
// 26.7.6), and where it is, exits would follow entries without an instruction between.
func (v *VCPU) writeWindows() {
	tpr := v.frame.regs.CR8 & 15
	v.apic.Data[virtualTPR] = byte(tpr << 4)
	ctl := v.primary &^ (procInterruptWindow | procNMIWindow)
	threshold := uint32(0)
	switch {
	case v.wantClass == 0:
	case tpr >= uint64(v.wantClass):
		threshold = uint32(v.wantClass)
	default:
		ctl |= procInterruptWindow
	}
	switch {
	case !v.wantNMI:
	case v.blocked&blockSTI != 0:
		ctl |= procInterruptWindow
	default:
		ctl |= procNMIWindow
	}
	v.setPrimary(ctl)
	if threshold != v.threshold {
		v.threshold = threshold
		v.write(fTPRThreshold, uint64(threshold))
	}
}

// virtualTPR is the task priority's offset in the virtual-APIC page (SDM vol. 3,
// 29.1.1).
const virtualTPR = 0x80

func (v *VCPU) setPrimary(ctl uint32) {
	if ctl != v.primary {
		v.primary = ctl
		v.write(fPrimaryControls, uint64(ctl))
	}
}

// requeue takes back an event whose delivery the exit interrupted (SDM vol. 3,
// 27.2.4).
func (v *VCPU) requeue() {
	v.event.Valid = false
	info := v.read(fVectoringEvent)
	if info&infoValid == 0 {
		return
	}
	v.event = vcpu.Event{
		Valid:  true,
		Type:   vcpu.EventType(info & infoType >> 8),
		Vector: uint8(info & infoVector),
		CR2:    v.frame.cr2, // set before delivery began
	}
	if info&infoError != 0 {
		v.event.HasError = true
		v.event.Error = uint32(v.read(fVectoringErrorCode))
	}
	switch v.event.Type {
	case vcpu.EventSoft, vcpu.EventPrivSoft, vcpu.EventSoftExc:
		v.event.Len = uint8(v.read(fExitLength))
	case vcpu.EventNMI:
		v.unblock(blockNMI) // it was blocked by this one's delivery
	}
}

// reblockNMI: an IRET that faulted had ended the blocking of NMIs, but has not been
// completed (SDM vol. 3, 27.2.3).
func (v *VCPU) reblockNMI(info uint64) {
	if info&infoUnblocks != 0 && !v.event.Valid {
		v.blocked |= blockNMI
		v.blockedChanged = true
	}
}
