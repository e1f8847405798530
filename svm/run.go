package svm

import (
	"fmt"
	"unsafe"

	"godwit/kernel"
	"godwit/vmm/vcpu"
)

// VCPU.word says where the VCPU is and whether it was kicked:
//
//	outside          --entering-->  inside on CPU n        (run, interrupts off)
//	outside, kicked  --Run-->       outside                reported as ExitKicked
//	inside           --exit-->      outside                (run, interrupts off)
//	inside           --Kick-->      inside, kicked         and CPU n gets an interrupt
//	inside, kicked   --exit-->      outside, kicked
//	outside          --Kick-->      outside, kicked
//
// inside is set with interrupts off, before the last look at what an entry depends
// on. So an interrupt sent to a VCPU that is inside either is pending when VMRUN
// begins, which then exits at once, or comes later and ends the guest.
const (
	kicked   = 1 << 0
	inside   = 1 << 1
	cpuShift = 8
)

// An outcome is how the privileged part of Run ended.
type outcome uint8

const (
	notRun outcome = iota // kicked before it began
	exited
	late // the deadline has passed already
)

// Kick makes Run return.
func (v *VCPU) Kick() {
	old := v.word.Or(kicked)
	if old&(kicked|inside) == inside {
		kernel.KickCPU(int(old >> cpuShift))
	}
}

// takeKick ends a kick.
func (v *VCPU) takeKick() bool {
	return v.word.Load()&kicked != 0 && v.word.And(^uint32(kicked))&kicked != 0
}

// Run runs the guest until an exit that is not handled here.
func (v *VCPU) Run(e *vcpu.Exit) error {
	if v.closed {
		return fmt.Errorf("svm: Run of a closed VCPU")
	}
	m := v.vm
	for {
		if v.takeKick() {
			return v.report(e, vcpu.ExitKicked)
		}
		if v.windowOpen() {
			return v.report(e, vcpu.ExitInterruptWindow)
		}
		m.rax, m.rsp, m.rip, m.rflags = v.regs.GPR[vcpu.RAX], v.regs.GPR[vcpu.RSP], v.regs.RIP, v.regs.RFLAGS
		v.armEvent()
		v.armWindows()
		v.armDR()

		kernel.Privileged(run, unsafe.Pointer(v))

		switch v.outcome {
		case notRun:
			m.rflags &^= v.tf()
			continue
		case late:
			m.rflags &^= v.tf()
			return v.report(e, vcpu.ExitDeadline)
		}
		v.stats.Entries++
		if m.exitCode == exitInvalid {
			return v.refused()
		}
		if bad := v.gxcr0 &^ (v.space.cfg.CPUID.XCR0 | 1); bad != 0 {
			return fmt.Errorf("svm: the guest has set XCR0 to %#x, without an exit here: its CPU model has no components %#x", v.gxcr0, bad)
		}
		v.clean = cleanAll
		v.flush = false
		own := v.endStep()
		v.regs.GPR[vcpu.RAX], v.regs.GPR[vcpu.RSP], v.regs.RIP, v.regs.RFLAGS = m.rax, m.rsp, m.rip, m.rflags
		v.regs.CR8 = m.vintr & vTPRMask
		v.settleEvent()
		if own {
			continue
		}
		if v.handle(e) {
			v.stats.Exits[e.Reason]++
			return nil
		}
	}
}

func (v *VCPU) report(e *vcpu.Exit, r vcpu.Reason) error {
	e.Reason = r
	v.stats.Exits[r]++
	return nil
}

// tf is the trap flag if the last armWindows set it.
func (v *VCPU) tf() uint64 {
	if v.stepTF {
		return flagTF
	}
	return 0
}

// run is the privileged part of Run: on one CPU, with interrupts off.
func run(arg unsafe.Pointer) {
	v := (*VCPU)(arg)
	id := kernel.ThisCPU()
	b := v.space.b
	c := &b.cpus[id]
	if !v.word.CompareAndSwap(0, inside|uint32(id)<<cpuShift) {
		v.outcome = notRun
		return
	}
	if v.deadline != 0 {
		if kernel.TSC() >= v.deadline {
			v.word.And(kicked)
			v.outcome = late
			return
		}
	}
	if v.wantNMI && v.vm.eventInj&eventValid != 0 {
		kernel.SetTimer(kernel.TSC()) // leave the guest as soon as the event is delivered
	} else {
		kernel.SetTimer(v.deadline)
	}
	v.place(c, id)
	if v.drLive {
		loadDR(&v.dr)
	}
	if v.tscAux != c.tscAux {
		c.tscAux = v.tscAux
		kernel.WriteMSR(msrTSCAux, v.tscAux)
	}
	v.host = c.host.Phys
	enter(&v.world)
	if v.drLive {
		saveDR(&v.dr)
	}
	if v.vm.exitCode == exitException+vcpu.VecMC {
		machineCheck()
	}
	v.word.And(kicked)
	v.outcome = exited
}

// place makes the guest's address-space identifier and the hardware's caches right
// for this CPU.
func (v *VCPU) place(c *cpu, id int) {
	m := v.vm
	m.tlb = tlbKeep
	gen := v.space.cfg.Tables.Generation()
	stale := v.flush || v.seen.Load() != gen
	v.seen.Store(gen)
	if v.cpu != id || v.generation != c.generation || stale && !v.space.b.has(featFlushASID) {
		if v.cpu != id {
			v.clean = 0
		}
		v.newASID(c)
		v.cpu, v.generation = id, c.generation
	} else if stale {
		m.tlb = tlbFlushASID
	}
	if v.space.b.has(featClean) {
		m.clean = v.clean
	}
}

// newASID takes an identifier that stands for nothing in this CPU's caches. When
// they are used up, all are flushed and a new generation begins (APM 15.16).
func (v *VCPU) newASID(c *cpu) {
	if c.generation == 0 || c.nextASID >= v.space.b.asids {
		c.generation++
		c.nextASID = 1 // 0 is the host's
		v.vm.tlb = tlbFlushAll
	}
	v.vm.asid = c.nextASID
	c.nextASID++
	v.clean &^= cleanASID
}

// refused is the error for an entry that the hardware did not accept. Load and Set
// check what APM 15.5.1 lists, so a guest must have brought itself there.
func (v *VCPU) refused() error {
	m := v.vm
	v.pending.Valid = false
	var err error
	switch {
	case checkCR0(m.cr0) != nil:
		err = checkCR0(m.cr0)
	case m.cr3&^physMask(v.space.b.physBits) != 0:
		err = fmt.Errorf("svm: CR3 %#x: reserved bits", m.cr3)
	case m.efer&eferLME != 0 && m.cr0&cr0PG != 0 && m.cr4&cr4PAE == 0:
		err = fmt.Errorf("svm: long mode without CR4.PAE (%#x)", m.cr4)
	case m.efer&eferLMA != 0 && m.save.seg[vcpu.CS].attr&0x600 == 0x600:
		err = fmt.Errorf("svm: CS attributes %#x: L and D", m.save.seg[vcpu.CS].attr)
	case m.dr6>>32 != 0 || m.dr7>>32 != 0:
		err = fmt.Errorf("svm: DR6 %#x, DR7 %#x: bits above 31", m.dr6, m.dr7)
	default:
		err = fmt.Errorf("svm: no known check failed: CR0 %#x CR3 %#x CR4 %#x EFER %#x RFLAGS %#x EVENTINJ %#x ASID %d",
			m.cr0, m.cr3, m.cr4, m.efer, m.rflags, m.eventInj, m.asid)
	}
	return fmt.Errorf("the processor refuses this guest state (VMEXIT_INVALID, APM 15.5.1): %w", err)
}
