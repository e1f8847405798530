package svm

import (
	"fmt"
	"unsafe"

	"godwit/kernel"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
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
		if v.word.Load() != 0 && v.takeKick() {
			return v.report(e, vcpu.ExitKicked)
		}
		if v.asked && (v.window != 0 || v.wantNMI) && v.windowOpen() {
			return v.report(e, vcpu.ExitInterruptWindow)
		}
		m.rax, m.rsp, m.rip, m.rflags = v.regs.GPR[vcpu.RAX], v.regs.GPR[vcpu.RSP], v.regs.RIP, v.regs.RFLAGS
		if tpr := m.vintr & vTPRMask; tpr != v.regs.CR8 {
			m.vintr ^= tpr ^ v.regs.CR8
			v.clean &^= cleanTPR
		}
		if v.asked {
			if v.pending.Valid || v.injected.Valid {
				v.armEvent()
			}
			if v.watching || v.window != 0 || v.wantNMI || v.nmiBlocked || v.stepping {
				v.armWindows()
			}
			if v.drLive || v.drUsed || m.dr7&0xff != 0 {
				v.armDR()
			}
			// What outlasts this entry, or must be taken back at the next.
			v.asked = v.injected.Valid || v.watching || v.wantNMI || v.drLive || v.passing
		}

		shadow := m.shadow
		switch {
		case v.space.b.shunBoot:
			kernel.PrivilegedElsewhere(0, v.brief, run, unsafe.Pointer(v))
		case v.brief:
			kernel.PrivilegedBriefly(run, unsafe.Pointer(v))
		default:
			kernel.Privileged(run, unsafe.Pointer(v))
		}

		if v.outcome == notRun {
			v.disarmEvent()
			continue
		}
		v.brief = true
		v.stats.Entries++
		if m.exitCode == exitInvalid {
			return v.refused()
		}
		if v.spy != 0 {
			if v.gxcr0&^v.xcr0Allowed != 0 {
				return v.spied()
			}
			v.keepShadow(shadow)
		}
		v.clean = cleanAll
		v.flush = false
		own := false
		if v.asked {
			own = v.stepping && v.endStep()
			if v.passing {
				v.want(exitSoftInt, true)
				v.passing = false
			}
			if v.pending.Valid || m.exitIntInfo&eventValid != 0 {
				v.settleEvent()
			}
		}
		v.regs.GPR[vcpu.RAX], v.regs.GPR[vcpu.RSP], v.regs.RIP, v.regs.RFLAGS = m.rax, m.rsp, m.rip, m.rflags
		v.regs.CR8 = m.vintr & vTPRMask
		if own {
			continue
		}
		if v.handle(e) {
			return v.report(e, e.Reason)
		}
	}
}

func (v *VCPU) report(e *vcpu.Exit, r vcpu.Reason) error {
	e.Reason = r
	v.stats.Exits[r]++
	return nil
}

// spied stops a guest that made XCR0 more than its model allows where XSETBV does
// not exit.
func (v *VCPU) spied() error {
	return fmt.Errorf("svm: the guest has set XCR0 to %#x, without an exit here: its CPU model has no components %#x", v.gxcr0, v.gxcr0&^v.xcr0Allowed)
}

// A guest that leaves by itself will probably do so again soon. Then the Go runtime
// need not be told that the thread is away: its next stay is brief, bounded by
// briefNS. After one that an interrupt ended, be it that bound's, comes a stay without
// it, in which the runtime may give the P to others.
const briefNS = 200_000

// run is the privileged part of Run: on one CPU, with interrupts off.
func run(arg unsafe.Pointer) {
	v := (*VCPU)(arg)
	m, b := v.vm, v.space.b
	id := kernel.PrivilegedCPU()
	c := &b.cpus[id]
	if !v.word.CompareAndSwap(0, inside|uint32(id)<<cpuShift) {
		v.outcome = notRun
		return
	}
	within := uint64(0)
	if v.brief {
		within = b.briefly
	}
	if v.wantNMI && m.eventInj&eventValid != 0 {
		kernel.SetTimer(kernel.TSC(), 0) // leave the guest as soon as the event is delivered
	} else {
		kernel.SetTimer(v.deadline, within) // if it has passed, the guest is left at once
	}
	gen := v.space.cfg.Tables.Generation()
	m.tlb = tlbKeep
	if v.cpu != id || c.last != v.serial || v.flush || v.seen.Load() != gen {
		v.settleOn(c, id, gen)
	}
	if v.cleanable {
		m.clean = v.clean
	}
	if v.tscAux != c.tscAux {
		c.tscAux = v.tscAux
		kernel.WriteMSR(msrTSCAux, v.tscAux)
	}
	if v.nudged = v.asked && b.tcg() && m.eventInj&(eventValid|eventType) == eventValid; v.nudged {
		// TCG (seen: 7.2) delivers an interrupt in VMRUN and leaves it noted. If its
		// emulation loop is called away before the guest's first instruction, it
		// finds the note and delivers the interrupt again. An exit erases it.
		kernel.InterruptSelf()
	}
	if v.byHand {
		v.bringIn()
	}
	v.cr2 = m.cr2
	enter(&v.world)
	if v.byHand {
		v.bringOut()
	}
	v.handOver()
	v.word.And(kicked)
	v.outcome = exited
}

// handOver has the host's handler run, on the CPU that it is about, for a machine check
// that ended the stay in the guest.
func (v *VCPU) handOver() {
	if v.vm.exitCode == exitException+vcpu.VecMC {
		v.space.b.machineCheck()
	}
}

// settleOn makes all of this CPU v's that outlasts an entry.
func (v *VCPU) settleOn(c *cpu, id int, gen uint64) {
	v.place(c, id, gen)
	if v.replaces(c) {
		kernel.WriteMSR(x86.MSRPredCmd, x86.PredIBPB)
	}
	if v.retunes(c) {
		kernel.WriteMSR(msrTSCRate, c.tscRate)
	}
	v.host = c.host.Phys
}

// replaces notes that v is the VCPU that c runs, and tells whether a prediction barrier
// must part it from the one before.
func (v *VCPU) replaces(c *cpu) bool {
	if c.last == v.serial {
		return false
	}
	c.last = v.serial
	return v.space.b.barriers.Prediction
}

// retunes notes the rate of v's TSC, and tells whether c's is another. It concerns guests
// only: the host's RDTSC is never scaled (APM 15.30.5).
func (v *VCPU) retunes(c *cpu) bool {
	rate := tscRate(v.tscRatio)
	if c.tscRate == rate {
		return false
	}
	c.tscRate = rate
	return true
}

// place makes the guest's address-space identifier and the hardware's caches right
// for this CPU and this generation of the tables. It need not be asked where the last
// VCPU here was this one too: identifiers are used up by others only.
func (v *VCPU) place(c *cpu, id int, gen uint64) {
	stale := v.flush || v.seen.Load() != gen
	v.seen.Store(gen)
	switch {
	case v.cpu != id:
		v.clean = 0
		v.newASID(c)
	case v.generation != c.generation:
		v.newASID(c)
	case !stale:
	case !v.space.b.has(featFlushASID):
		v.newASID(c)
	default:
		v.vm.tlb = tlbFlushASID
	}
	v.cpu, v.generation = id, c.generation
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
