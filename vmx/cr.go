package vmx

import "godwit/vmm/vcpu"

// Qualification of accesses to control registers (SDM vol. 3, table 27-3).
const (
	crNumber = 0xf
	crKind   = 3 << 4 // 0: MOV to CR
	crReg    = 8
)

// onCR: the guest changes a bit of CR0 or CR4 that is not its own. The read shadow
// takes it over, unless the instruction is to fault, and then the instruction runs
// again: it no longer exits, and the hardware does the rest, loading PDPTEs and
// switching modes included.
func (v *VCPU) onCR(e *vcpu.Exit, q uint64) bool {
	v.fetch(gControl | gSegments)
	x := v.frame.regs.GPR[q>>crReg&15]
	code64 := v.reg[vcpu.EFER]&eferLMA != 0 && v.seg[vcpu.CS].Attr&vcpu.AttrL != 0
	if !code64 {
		x &= 0xffffffff
	}
	old, efer, p := &v.cr0Host, v.reg[vcpu.EFER], &v.s.cfg.CPUID
	switch {
	case q&crKind != 0:
		return v.impossible(q<<32 | reasonCR)
	case q&crNumber == 0:
		if checkCR0Write(x, v.reg[vcpu.CR0], v.reg[vcpu.CR4], efer, code64) != fine {
			return v.raise(vcpu.GP())
		}
		x &= cr0Shadowed
	case q&crNumber == 4:
		old = &v.cr4Host
		if checkCR4Write(x, v.reg[vcpu.CR4], v.reg[vcpu.CR3], efer, p) != fine {
			return v.raise(vcpu.GP())
		}
		x &^= cr4Own(p)
	default:
		return v.impossible(q<<32 | reasonCR)
	}
	if *old == x {
		return v.impossible(q<<32 | reasonCR) // it would exit for ever
	}
	*old = x
	v.shadowsStale = true
	v.have &^= gControl
	return true
}
