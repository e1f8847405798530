package apic

// MSRs of a local APIC.
const (
	MSRBase        = 0x1b
	MSRTSCDeadline = 0x6e0
	MSRX2First     = 0x800
	MSRX2Last      = 0x8ff
)

// Base is where the registers are in guest-physical memory, and whether they are
// there: in xAPIC mode only.
func (l *LAPIC) Base() (gpa uint64, mapped bool) {
	return l.base &^ 0xfff, l.on() && !l.x2()
}

// ReadMSR reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register. False
// means #GP.
func (l *LAPIC) ReadMSR(msr uint32) (uint64, bool) {
	switch {
	case msr == MSRBase:
		return l.base, true
	case msr == MSRTSCDeadline:
		return l.tscDeadline(), l.cfg.TSCTime != nil
	case msr < MSRX2First || msr > MSRX2Last || !l.x2():
		return 0, false
	case msr == MSRX2First+regICR:
		return l.icr, true
	}
	v, ok := l.read(msr - MSRX2First)
	return uint64(v), ok
}

// WriteMSR is ReadMSR's counterpart. False means #GP and that nothing changed.
func (l *LAPIC) WriteMSR(msr uint32, v uint64) bool {
	switch {
	case msr == MSRBase:
		return l.writeBase(v)
	case msr == MSRTSCDeadline:
		if l.cfg.TSCTime == nil {
			return false
		}
		l.setTSCDeadline(v)
		return true
	case msr < MSRX2First || msr > MSRX2Last || !l.x2():
		return false
	}
	return l.writeX2(msr-MSRX2First, v)
}

// writeX2 writes an x2APIC register; reserved bits give #GP (SDM vol. 3,
// section 10.12.1.2).
func (l *LAPIC) writeX2(reg uint32, v uint64) bool {
	if reg == regICR {
		if uint32(v)&^(icrWritable|1<<12) != 0 {
			return false
		}
		l.icr = v &^ (1 << 12)
		l.sendIPI(uint32(v >> 32))
		return true
	}
	if v>>32 != 0 {
		return false
	}
	w := uint32(v)
	var allowed uint32
	switch {
	case reg >= regLVT && reg < regLVT+numLVT:
		allowed = l.lvtMask(int(reg-regLVT)) | 1<<12 | 1<<14 // the status bits are read-only, not reserved
	case reg == regTPR || reg == regSelf:
		allowed = 0xff
	case reg == regSVR:
		allowed = svrWritable
	case reg == regInitial:
		allowed = 0xffffffff
	case reg == regDivide:
		allowed = divideWritable
	case reg == regEOI, reg == regESR:
	default:
		return false
	}
	if w&^allowed != 0 {
		return false
	}
	if reg == regSelf {
		if w < 16 {
			l.raise(errSendVector)
		} else {
			l.deliver(Message{Vector: uint8(w)})
		}
		return true
	}
	return l.write(reg, w)
}

// baseValid tells whether v could be in IA32_APIC_BASE.
func (l *LAPIC) baseValid(v uint64) bool {
	const low = baseBSP | baseX2 | baseEnable
	address := (uint64(1)<<l.cfg.PhysBits - 1) &^ 0xfff
	return v&^(low|address) == 0 && v&(baseX2|baseEnable) != baseX2
}

// writeBase makes the transitions of SDM vol. 3, figure 10-27.
func (l *LAPIC) writeBase(v uint64) bool {
	if !l.baseValid(v) {
		return false
	}
	const mode = baseX2 | baseEnable
	from, to := l.base&mode, v&mode
	switch {
	case from == to:
	case from == 0 && to == mode: // disabled to x2APIC
		return false
	case from == mode && to == baseEnable: // x2APIC to xAPIC
		return false
	}
	l.base = v
	switch {
	case from == to:
	case to == 0:
		// Disabled: what it holds is lost (section 10.4.3).
		l.clearRegisters()
	case to == mode:
		l.icr &= 0xffffffff
	}
	l.updateRoute()
	return true
}
