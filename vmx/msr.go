package vmx

import (
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// regOfMSR is the register behind an MSR whose writes exit but are handled here.
func regOfMSR(msr uint32) (vcpu.Reg, bool) {
	switch msr {
	case msrEFER:
		return vcpu.EFER, true
	case msrSTAR:
		return vcpu.STAR, true
	case msrLSTAR:
		return vcpu.LSTAR, true
	case msrCSTAR:
		return vcpu.CSTAR, true
	case msrSFMASK:
		return vcpu.SFMASK, true
	case msrTSCAux:
		return vcpu.TSCAux, true
	case msrDebugCtl:
		return vcpu.DebugCtl, true
	case msrXSS:
		return vcpu.XSS, true
	case x86.MSRSpecCtrl:
		return vcpu.SpecCtrl, true
	}
	return 0, false
}

// shown tells whether the model has the MSR.
func (v *VCPU) shown(r vcpu.Reg) bool {
	switch r {
	case vcpu.TSCAux:
		return v.s.cfg.CPUID.RDTSCP
	case vcpu.XSS:
		return v.s.cfg.CPUID.XSAVES
	case vcpu.SpecCtrl:
		return v.s.cfg.CPUID.Controls.SpecCtrl != 0
	}
	return true
}

func (v *VCPU) onRDMSR(e *vcpu.Exit, _ uint64) bool {
	g := &v.frame.regs.GPR
	e.MSR = uint32(g[vcpu.RCX])
	if r, ok := regOfMSR(e.MSR); ok && v.shown(r) {
		v.fetch(groupOf[r])
		g[vcpu.RAX], g[vcpu.RDX] = v.reg[r]&0xffffffff, v.reg[r]>>32
		v.stats.Exits[vcpu.ExitRDMSR]++
		return v.skip()
	}
	return v.leaveInsn(vcpu.ExitRDMSR)
}

func (v *VCPU) onWRMSR(e *vcpu.Exit, _ uint64) bool {
	g := &v.frame.regs.GPR
	e.MSR = uint32(g[vcpu.RCX])
	e.Value = g[vcpu.RAX]&0xffffffff | g[vcpu.RDX]<<32
	r, ok := regOfMSR(e.MSR)
	if !ok || !v.shown(r) {
		return v.leaveInsn(vcpu.ExitWRMSR)
	}
	v.stats.Exits[vcpu.ExitWRMSR]++
	if !v.writeMSR(r, e.Value) {
		return v.raise(vcpu.GP())
	}
	return v.skip()
}

// writeMSR changes an MSR while the guest's are loaded.
func (v *VCPU) writeMSR(r vcpu.Reg, x uint64) bool {
	p := &v.s.cfg.CPUID
	if checkPlain(r, x, p) != fine {
		return false
	}
	v.fetch(groupOf[r])
	switch r {
	case vcpu.EFER:
		n, f := checkEFERWrite(x, v.reg[vcpu.EFER], v.reg[vcpu.CR0], p)
		if f != fine {
			return false
		}
		if (n^v.reg[vcpu.EFER])&eferNXE != 0 {
			v.flushOwn() // bit 63 of cached entries has another meaning now
		}
		v.setEFER(n)
		return true
	case vcpu.STAR:
		v.m.wrmsr(msrSTAR, x)
	case vcpu.LSTAR:
		v.m.wrmsr(msrLSTAR, x)
	case vcpu.CSTAR:
		v.m.wrmsr(msrCSTAR, x)
	case vcpu.SFMASK:
		v.m.wrmsr(msrSFMASK, x)
	case vcpu.TSCAux:
		v.m.wrmsr(msrTSCAux, x)
	case vcpu.SpecCtrl:
		old := v.specCtrl
		v.setSpecCtrl(x)
		v.swapMSR(x86.MSRSpecCtrl, v.specCtrl, old)
	}
	v.reg[r] = x
	v.changed |= groupOf[r]
	return true
}

// setSpecCtrl gives the guest's SPEC_CTRL a value that the model allows. While the guest
// runs the host's bits are on as well. Writes exit: the processor would let the guest clear
// the host's bits, and set some that its model lacks. Attach and detach write it: between,
// what the host executes has the guest's bits and its own.
//
// Where IBRS is written at each exit, for it is not the enhanced kind, each entry writes the
// guest's value, and the host has no bits of its own there. Kernels write it at each system
// call then (Retbleed), so they do it without an exit, and each exit finds it out, if the
// model has all that the processor would take.
func (v *VCPU) setSpecCtrl(x uint64) {
	v.reg[vcpu.SpecCtrl] = x
	b := &v.b.s.barriers
	if v.specCtrl = b.SpecCtrl | x; b.Exit == x86.FenceIBRS {
		v.specCtrl, v.frame.spec = b.SpecCtrl, x
	}
}
