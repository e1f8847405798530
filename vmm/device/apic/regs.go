package apic

import "encoding/binary"

// Registers by their index: the offset in the MMIO page divided by 16, and the
// MSR number less 800h (SDM vol. 3, tables 10-1 and 10-6).
const (
	regID      = 0x02
	regVersion = 0x03
	regTPR     = 0x08
	regAPR     = 0x09 // xAPIC only
	regPPR     = 0x0a
	regEOI     = 0x0b
	regRRD     = 0x0c // xAPIC only
	regLDR     = 0x0d
	regDFR     = 0x0e // xAPIC only
	regSVR     = 0x0f
	regISR     = 0x10
	regTMR     = 0x18
	regIRR     = 0x20
	regESR     = 0x28
	regICR     = 0x30
	regICR2    = 0x31 // xAPIC only
	regLVT     = 0x32
	regInitial = 0x38
	regCurrent = 0x39
	regDivide  = 0x3e
	regSelf    = 0x3f // x2APIC only
)

// version: an integrated APIC with six LVT entries and without EOI-broadcast
// suppression.
const version = 0x14 | (numLVT-1)<<16

// Size of the MMIO page.
const Size = 0x1000

// lvtWritable are the bits of each LVT entry that software can change
// (SDM vol. 3, figure 10-8).
var lvtWritable = [numLVT]uint32{
	lvtTimer:   0x700ff,
	lvtThermal: 0x107ff,
	lvtPerf:    0x107ff,
	lvtLINT0:   0x1a7ff,
	lvtLINT1:   0x1a7ff,
	lvtError:   0x100ff,
}

const (
	svrWritable    = 0x1ff
	icrWritable    = 0x000ccfff // delivery status and reserved bits apart
	divideWritable = 0xb
)

// read is a register's value; false if there is no such register to read.
func (l *LAPIC) read(reg uint32) (uint32, bool) {
	switch {
	case reg >= regISR && reg < regISR+8:
		return l.isr[reg-regISR].Load(), true
	case reg >= regTMR && reg < regTMR+8:
		return l.tmr[reg-regTMR].Load(), true
	case reg >= regIRR && reg < regIRR+8:
		return l.irr[reg-regIRR].Load(), true
	case reg >= regLVT && reg < regLVT+numLVT:
		return l.lvt[reg-regLVT].Load(), true
	}
	switch reg {
	case regID:
		if l.x2() {
			return l.id, true
		}
		return l.id << 24, true
	case regVersion:
		return version, true
	case regTPR:
		return l.tpr.Load(), true
	case regPPR:
		return uint32(l.ppr()), true
	case regLDR:
		if l.x2() {
			return x2LDR(l.id), true
		}
		return l.ldr, true
	case regSVR:
		return l.svr, true
	case regESR:
		return l.esr, true
	case regICR:
		return uint32(l.icr), true
	case regInitial:
		return l.initialCount(), true
	case regCurrent:
		return l.currentCount(), true
	case regDivide:
		return l.divideConfig(), true
	}
	return 0, false
}

// write changes a register; false if there is no such register to write. ICR
// and the registers of one mode only are the callers'.
func (l *LAPIC) write(reg, v uint32) bool {
	if reg >= regLVT && reg < regLVT+numLVT {
		l.writeLVT(int(reg-regLVT), v)
		return true
	}
	switch reg {
	case regTPR:
		l.tpr.Store(v & 0xff)
	case regEOI:
		l.eoi()
	case regSVR:
		l.svr = v & svrWritable
		if v&(1<<8) == 0 { // software-disabled: all LVT entries are masked (section 10.4.7.2)
			for i := range l.lvt {
				l.lvt[i].Or(lvtMasked)
			}
		}
		l.updateRoute()
	case regESR:
		l.esr = l.errors.Swap(0)
	case regInitial:
		l.setInitialCount(v)
	case regDivide:
		l.setDivide(v & divideWritable)
	default:
		return false
	}
	return true
}

func (l *LAPIC) writeLVT(i int, v uint32) {
	v &= l.lvtMask(i)
	if l.svr&(1<<8) == 0 {
		v |= lvtMasked
	}
	old := l.lvt[i].Swap(v)
	switch i {
	case lvtTimer:
		l.timerModeChanged(old, v)
	case lvtLINT0, lvtLINT1:
		// An asserted pin that now leads somewhere: level-triggered and ExtINT
		// inputs are looked at, not latched.
		pin := i - lvtLINT0
		if v&lvtMasked == 0 && old != v && l.lint.Load()>>pin&1 != 0 {
			if m := DeliveryMode(v >> 8 & 7); m == ExtINT || m == Fixed && v&lvtLevel != 0 {
				l.local(i)
			}
		}
	}
}

func (l *LAPIC) lvtMask(i int) uint32 {
	if i == lvtTimer && l.cfg.TSCTime == nil {
		return lvtWritable[i] &^ (1 << 18)
	}
	return lvtWritable[i]
}

// ReadMMIO implements device.MMIODevice. Registers are 32 bits wide at the start
// of each 16 bytes; the rest of them reads as zero.
func (l *LAPIC) ReadMMIO(off uint64, b []byte) {
	clear(b)
	reg, o := uint32(off>>4)&0xff, int(off&15)
	if o >= 4 {
		return
	}
	var v uint32
	switch reg {
	case regICR2:
		v = uint32(l.icr >> 32)
	case regDFR:
		v = l.dfr
	case regAPR, regRRD:
		// Reserved since the Pentium 4: zero.
	default:
		var ok bool
		if v, ok = l.read(reg); !ok && reg != regEOI {
			l.raise(errRegister)
		}
	}
	var r [4]byte
	binary.LittleEndian.PutUint32(r[:], v)
	copy(b, r[o:])
}

// WriteMMIO implements device.MMIODevice. Only aligned 32-bit stores are defined
// (SDM vol. 3, section 10.4.1); longer ones act as their first four bytes.
func (l *LAPIC) WriteMMIO(off uint64, b []byte) {
	if off&15 != 0 || len(b) < 4 {
		return
	}
	v := binary.LittleEndian.Uint32(b)
	switch reg := uint32(off>>4) & 0xff; reg {
	case regICR:
		l.icr = l.icr&^0xffffffff | uint64(v&icrWritable)
		l.sendIPI(dest8(uint8(l.icr >> 56)))
	case regICR2:
		l.icr = l.icr&0xffffffff | uint64(v&0xff000000)<<32
	case regLDR:
		l.ldr = v & 0xff000000
		l.updateRoute()
	case regDFR:
		l.dfr = v | 0x0fffffff
		l.updateRoute()
	case regID, regAPR, regRRD, regVersion, regPPR:
		// The ID is read-only, as on all current processors: it would have to
		// stay what CPUID and the MADT say.
	default:
		if !l.write(reg, v) {
			l.raise(errRegister)
		}
	}
}

// sendIPI acts on ICR (SDM vol. 3, section 10.6.1).
func (l *LAPIC) sendIPI(dest uint32) {
	m := Message{
		Dest:    dest,
		Vector:  uint8(l.icr),
		Mode:    DeliveryMode(l.icr >> 8 & 7),
		Logical: l.icr>>11&1 != 0,
	}
	switch m.Mode {
	case Fixed, LowestPriority:
		if m.Vector < 16 {
			l.raise(errSendVector)
			return
		}
	case INIT:
		if l.icr>>14&3 == 2 { // level-triggered, de-assert: only ever set arbitration IDs
			return
		}
	case NMI, SIPI:
	default:
		return // SMI has no receiver; ExtINT and mode 3 are not for IPIs
	}
	switch l.icr >> 18 & 3 {
	case 0:
		l.bus.Send(m)
	case 1: // self: fixed only
		if m.Mode == Fixed || m.Mode == LowestPriority {
			l.deliver(m)
		}
	case 2: // all including self: fixed only, as for self
		m.Dest, m.Logical = Broadcast, false
		if m.Mode == Fixed || m.Mode == LowestPriority {
			l.bus.Send(m)
		}
	case 3:
		if m.Mode == LowestPriority {
			m.Mode = Fixed
		}
		l.bus.except(l, m)
	}
}
