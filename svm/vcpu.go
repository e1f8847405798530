package svm

import (
	"fmt"
	"sync/atomic"

	"godwit/kernel"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

// A VCPU is one processor of a guest.
type VCPU struct {
	world
	space *Space
	vm    *vmcb
	block mem.Block // the VMCB
	area  mem.Block // the XSAVE area

	serial uint64 // never another VCPU's

	word atomic.Uint32 // see run.go
	seen atomic.Uint64 // the tables' generation it last entered with

	// Where it ran last, and whose translations its ASID stands for.
	cpu        int
	generation uint64
	flush      bool
	clean      uint32 // what the hardware may keep of the VMCB
	cleanable  bool
	hideMCE    bool // CR4.MCE is on, and the guest does not know: see setCR4

	asked      bool // an entry and the exit after it must look at what follows: see Run
	pending    vcpu.Event
	injected   vcpu.Event // what the last entry delivered
	watching   bool       // armWindows has set something that it must take back
	window     uint8      // priority class of WantInterrupt
	wantNMI    bool
	nmiBlocked bool
	stepping   bool // over one instruction: see armWindows
	stepTF     bool // the trap flag is ours
	stepIRET   bool
	enteredRIP uint64

	dr       [4]uint64
	drLive   bool // the guest may use DR0-3 without an exit
	drUsed   bool // and has just asked for it
	byHand   bool // drLive, or SPEC_CTRL is to be switched: see bringIn
	passing  bool // the next stay executes INT n, which exits else (on TCG): see softInterrupt
	deadline uint64
	brief    bool // the next entry is one for PrivilegedBriefly
	nudged   bool // the last one was made to end at once
	tscAux   uint64
	specCtrl uint64 // the guest's
	tscRatio vcpu.TSCRatio
	xss      uint64

	xcr0Allowed uint64 // by the CPU model

	activity vcpu.Activity
	outcome  outcome

	pages pageCache

	stats  vcpu.Stats
	closed bool
}

var serials atomic.Uint64

func newVCPU(s *Space) (*VCPU, error) {
	b := s.b
	v := &VCPU{space: s, cpu: -1, serial: serials.Add(1)}
	var err error
	if v.block, err = b.mem.Alloc(4096, 4096); err != nil {
		return nil, fmt.Errorf("no memory for the VMCB: %w", err)
	}
	size := (uint64(b.xsaveSize) + 4095) &^ 4095
	if v.area, err = b.mem.Alloc(size, 4096); err != nil {
		b.mem.Free(v.block)
		return nil, fmt.Errorf("no memory for the XSAVE area: %w", err)
	}
	v.vm = viewVMCB(v.block.Data)
	v.world.vmcb = v.block.Phys
	v.xsave = addressOf(v.area.Data)
	v.cleanable = b.has(featClean)
	v.xcr0Allowed = s.cfg.CPUID.XCR0 | 1
	v.xmask, v.hxcr0, v.gxcr0 = b.xcr0, b.xcr0, 1
	if b.xsaveOpt {
		v.opt = 1
	}
	if b.tcg() {
		v.spy = 1
	}
	v.fence = uint64(b.barriers.Exit)
	if b.barriers.Buffers || b.barriers.Divider {
		v.scrub = 1
	}
	v.setUpControls()
	return v, nil
}

// setUpControls says which instructions and events of the guest exit.
func (v *VCPU) setUpControls() {
	c, b := &v.vm.control, v.space.b
	for _, code := range []uint{
		exitINTR, exitNMI, exitINIT, exitRDPMC, exitCPUID, exitINVD, exitHLT, exitIOIO, exitMSR,
		exitTaskSwitch, exitShutdown,
		exitVMRUN, exitVMMCALL, exitVMLOAD, exitVMSAVE, exitSTGI, exitCLGI, exitSKINIT, exitINVLPGA,
		exitWBINVD, exitMONITOR, exitMWAIT, exitMWAITArmed, exitXSETBV,
	} {
		c.intercept(code)
	}
	if b.tcg() {
		c.intercept(exitSoftInt) // see softInterrupt
	}
	p := &v.space.cfg.CPUID
	if !p.RDTSCP {
		c.intercept(exitRDTSCP)
	}
	if b.invpcid && !p.INVPCID {
		c.intercept(exitINVPCID)
	}
	if b.rdpru {
		c.intercept(exitRDPRU)
	}
	if b.has(featPause) {
		c.intercept(exitPAUSE)
		c.pauseCount = 3000
		if b.has(featPauseThreshold) {
			c.pauseThreshold = 128
		}
	}
	c.writeCR = 1 << 4
	// #DB and #AC can be raised while they are being delivered, over and
	// over, and no interrupt ends that (CVE-2015-5307, CVE-2015-8104); a
	// machine check is the host's.
	c.exceptions = 1<<vcpu.VecDB | 1<<vcpu.VecAC | 1<<vcpu.VecMC
	v.shareDR(false)
	c.iopm, c.msrpm = b.iopm.Phys, b.msrpm.Phys
	if p.Controls.IBPB {
		c.msrpm = b.ibpbm.Phys
	}
	c.nested = 1
	c.ncr3 = v.space.cfg.Tables.Root()
	c.vintr = vMasking
}

// shareDR gives DR0 to DR3 to the guest, to be switched at each entry and exit, or
// makes the next use of a debug register exit.
func (v *VCPU) shareDR(on bool) {
	v.drLive = on
	v.settleByHand()
	v.vm.readDR, v.vm.writeDR = 0xffff, 0xffff
	if on {
		v.vm.readDR, v.vm.writeDR = 0, 0
		if v.space.b.tcg() {
			v.vm.writeDR = 1 << 7 // its breakpoints outlive the guest, and abort it
		}
	}
	v.clean &^= cleanIntercepts
}

// armDR shares them while DR7 enables a breakpoint. A guest that only used them
// once gets them until its next exit.
func (v *VCPU) armDR() {
	const enabled = 0xff
	if on := v.vm.dr7&enabled != 0 || v.drUsed; on != v.drLive {
		v.shareDR(on)
	}
	v.drUsed = false
}

// Regs are the registers at hand.
func (v *VCPU) Regs() *vcpu.Regs { return &v.regs }

// Stats counts since creation.
func (v *VCPU) Stats() *vcpu.Stats { return &v.stats }

// SetDeadline bounds the next Runs.
func (v *VCPU) SetDeadline(hostTSC uint64) { v.deadline = hostTSC }

// Skip ends an instruction that the VMM carried out.
func (v *VCPU) Skip(n uint8) {
	v.regs.RIP += uint64(n)
	if !v.long64() {
		v.regs.RIP &= 0xffff_ffff
	}
	v.regs.RFLAGS &^= flagRF
	v.vm.shadow = 0
	if v.stepping && !v.nmiBlocked {
		v.stepping = false // it was to end the shadow
	}
}

// long64 tells whether the guest executes 64-bit code.
func (v *VCPU) long64() bool {
	const l = 1 << 9
	return v.vm.efer&eferLMA != 0 && v.vm.save.seg[vcpu.CS].attr&l != 0
}

// SetTSCRatio sets the rate of the guest's TSC.
func (v *VCPU) SetTSCRatio(r vcpu.TSCRatio) error {
	if !v.space.b.tscScaling().Has(r) {
		return fmt.Errorf("svm: this processor can not scale a TSC by %#x/2^48", uint64(r))
	}
	if r != v.tscRatio {
		v.tscRatio, v.flush = r, true // the next entry is placed anew, which looks at the ratio
	}
	return nil
}

// SetTSCOffset sets guest TSC minus host TSC.
func (v *VCPU) SetTSCOffset(off uint64) {
	v.vm.tscOffset = off
	v.clean &^= cleanIntercepts
}

// TSCOffset returns it.
func (v *VCPU) TSCOffset() uint64 { return v.vm.tscOffset }

// Close frees the VCPU.
func (v *VCPU) Close() error {
	if v.closed {
		return fmt.Errorf("svm: VCPU closed twice")
	}
	if w := v.word.Load(); w&inside != 0 {
		return fmt.Errorf("svm: VCPU closed while it runs on CPU %d", w>>cpuShift)
	}
	v.closed = true
	v.space.forget(v)
	v.space.b.mem.Free(v.block)
	v.space.b.mem.Free(v.area)
	return nil
}

// tsc is the host's TSC; 0 in tests on Linux would do as well.
func tsc() uint64 { return kernel.TSC() }
