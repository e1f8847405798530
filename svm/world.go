package svm

import (
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A world is what the switch to the guest and back needs. The assembly knows the
// fields' places from go_asm.h.
type world struct {
	regs  vcpu.Regs
	vmcb  uint64  // physical
	host  uint64  // physical: where this CPU's own VMSAVE state goes
	xsave uintptr // the guest's XSAVE area
	xmask uint64  // components switched: all of the host's XCR0 that guests may have
	gxcr0 uint64  // XCR0 as the guest sees it
	hxcr0 uint64
	cr2   uint64
	opt   uint64 // 1: XSAVEOPT exists
	scrub uint64 // 1: a division and VERW before the guest: see x86.Barriers.Divider and Buffers
	fence uint64 // an x86.Fence, after the guest
	spy   uint64 // 1: see what the guest has made of XCR0, since XSETBV does not exit
}

// The fences by the names that the assembly knows.
const (
	fenceReturns = uint64(x86.FenceReturns)
	msrPredCmd   = x86.MSRPredCmd
	predIBPB     = x86.PredIBPB
)

// verwSelector is one of writable data, for VERW, which clears buffers on its way.
var verwSelector uint16

// enter switches to the guest until its next exit.
//
// It runs inside kernel.Privileged, with interrupts off. The global interrupt flag
// is clear from before interrupts are switched on until after they are off again,
// so a physical interrupt is never taken here: inside the guest it causes an exit,
// and it is still pending when Privileged returns (APM 15.17).
//
//go:noescape
func enter(w *world)

// loadDR and saveDR move DR0 to DR3, which the VMCB does not hold.
//
//go:noescape
func loadDR(dr *[4]uint64)

//go:noescape
func saveDR(dr *[4]uint64)

func xgetbv() uint64

// machineCheck runs the kernel's handler for a machine check that hit the guest.
func machineCheck()
