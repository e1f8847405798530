package vmx

import "godwit/vmm/vcpu"

// The debug registers that the VMCS lacks are loaded when the guest needs them:
// when DR7 enables a breakpoint, or when the guest touches one, which then runs
// again. Host code uses none, and its DR7 is set to 400h by every exit (SDM vol. 3,
// 27.5.1).

func (v *VCPU) onDR(e *vcpu.Exit, q uint64) bool {
	if v.drLoaded {
		return v.impossible(q<<32 | reasonDR)
	}
	v.loadDebug()
	return true
}

func (v *VCPU) loadDebug() {
	v.m.setDR(&v.dr)
	v.drLoaded = true
	v.setPrimary(v.primary &^ procMOVDR)
}
