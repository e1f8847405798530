package svm

import (
	"godwit/kernel"
	"godwit/vmm/vcpu/x86"
)

// What neither VMRUN nor VMLOAD switches, and few guests use: DR0 to DR3, and SPEC_CTRL
// on processors whose VMCB does not hold the guest's. Writes to SPEC_CTRL exit, also
// where they need not: the processor would let the guest set bits that its model lacks,
// and that no other host could load.

// setSpecCtrl gives the guest's SPEC_CTRL its value, which the model allows.
func (v *VCPU) setSpecCtrl(x uint64) {
	v.specCtrl = x
	if v.space.b.has(featSpecCtrl) {
		v.vm.specCtrl = x // in a guest the host's is on as well (APM appendix B, table B-2, 2E0h)
	}
	v.settleByHand()
}

func (v *VCPU) settleByHand() {
	_, differ := v.speculation()
	v.byHand = v.drLive || differ
}

// speculation is what SPEC_CTRL must hold while the guest runs, and whether it must be
// written for that. It is never less than the host's own, so it does not matter that it is
// there before VMRUN and for some instructions behind it.
func (v *VCPU) speculation() (x uint64, differ bool) {
	b := v.space.b
	host := b.barriers.SpecCtrl
	x = host | v.specCtrl
	return x, x != host && !b.has(featSpecCtrl)
}

func (v *VCPU) bringIn() {
	if v.drLive {
		loadDR(&v.dr)
	}
	if x, differ := v.speculation(); differ {
		kernel.WriteMSR(x86.MSRSpecCtrl, x)
	}
}

func (v *VCPU) bringOut() {
	if _, differ := v.speculation(); differ {
		kernel.WriteMSR(x86.MSRSpecCtrl, v.space.b.barriers.SpecCtrl)
	}
	if v.drLive {
		saveDR(&v.dr)
	}
}
