package svm

import (
	"godwit/kernel"
	"godwit/vmm/vcpu"
)

// handle looks at the exit, and tells whether the VMM must: then e is filled in.
func (v *VCPU) handle(e *vcpu.Exit) bool {
	m := v.vm
	code := m.exitCode
	e.Reason, e.Len, e.NInsn = vcpu.ExitInternal, 0, 0
	if code == exitNPF {
		v.nestedFault(e)
		return true
	}
	switch code { // close enough to each other for a jump table
	case exitINTR, exitNMI:
		// Taken when Privileged returned.
		v.brief = v.nudged
		if v.deadline == 0 || kernel.TSC() < v.deadline {
			v.stats.Exits[vcpu.ExitHost]++
			return false
		}
		e.Reason = vcpu.ExitDeadline
	case exitVINTR:
		if !v.windowOpen() {
			return false
		}
		e.Reason = vcpu.ExitInterruptWindow
	case exitCPUID:
		e.Reason, e.Len = vcpu.ExitCPUID, v.length(code)
	case exitMSR:
		e.Reason, e.MSR, e.Len = vcpu.ExitRDMSR, uint32(v.regs.GPR[vcpu.RCX]), v.length(code)
		if m.exitInfo1&1 != 0 {
			e.Reason = vcpu.ExitWRMSR
			e.Value = v.regs.GPR[vcpu.RDX]<<32 | v.regs.GPR[vcpu.RAX]&0xffff_ffff
		}
	case exitIOIO:
		v.io(e)
	case exitHLT:
		e.Reason, e.Len = vcpu.ExitHLT, v.length(code)
	case exitVMMCALL:
		e.Reason, e.Len = vcpu.ExitHypercall, v.length(code)
	case exitPAUSE:
		e.Reason, e.Len = vcpu.ExitPause, v.length(code)
	case exitShutdown:
		e.Reason = vcpu.ExitShutdown
	case exitINVD, exitWBINVD:
		e.Reason, e.Len = vcpu.ExitWBINVD, v.length(code)
	case exitXSETBV:
		if v.vm.cpl != 0 { // TCG looks for the intercept first
			v.queue(vcpu.GP())
			return false
		}
		e.Reason, e.Len = vcpu.ExitXSETBV, v.length(code)
	case exitRDPMC:
		v.queue(vcpu.GP()) // a processor without such a counter
		return false
	case exitINIT:
		e.Reason = vcpu.ExitINIT
	case exitTaskSwitch:
		v.taskSwitch(e)
	case exitMONITOR, exitMWAIT, exitMWAITArmed:
		e.Reason = vcpu.ExitMonitor
	case exitVMRUN, exitVMLOAD, exitVMSAVE, exitSTGI, exitCLGI, exitSKINIT, exitINVLPGA,
		exitRDTSCP, exitRDPRU, exitINVPCID:
		e.Reason = vcpu.ExitOther
	case exitIRET:
		v.stepping = true // the block of NMIs ends behind it
		return false
	default:
		return v.handleRare(e, code)
	}
	return true
}

// handleRare is handle for exceptions and control and debug registers.
func (v *VCPU) handleRare(e *vcpu.Exit, code uint64) bool {
	m := v.vm
	switch code {
	case exitException + vcpu.VecDB:
		v.queue(vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDB})
		const detect = 1 << 13
		if m.dr7&detect != 0 { // #DB's handler begins with GD off (APM 13.1.1.4)
			m.dr7 &^= detect
			v.clean &^= cleanDR
		}
		const causes = 0xe00f
		if m.dr6&causes == 0 {
			m.dr6 |= v.debugCause() // Bochs 2.7 intercepts before it says why
			v.clean &^= cleanDR
		}
		return false
	case exitException + vcpu.VecAC:
		v.queue(vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecAC, HasError: true})
		return false
	case exitSoftInt:
		v.softInterrupt()
		return false
	case exitException + vcpu.VecMC:
		return false // the kernel's handler has seen it
	case exitReadCR + 4:
		if v.readCR4() {
			return false
		}
		e.Value = code
	case exitWriteCR + 4, exitWriteCR + 8:
		if v.writeCR(movToCR, int(code-exitWriteCR)) {
			return false
		}
		e.Value = code
	default:
		if code == exitWriteDR+7 && v.space.b.tcg() {
			if v.writeCR(movToDR, 7) {
				return false
			}
		} else if code-exitReadDR < 0x20 {
			v.drUsed, v.asked = true, true // and executes the instruction again
			return false
		}
		e.Value = code
	}
	return true
}

// taskSwitch fills in an attempt to switch tasks (APM 15.14.1). CALL and a task gate
// are told apart by what was being delivered (15.7.2). The next RIP is not saved.
func (v *VCPU) taskSwitch(e *vcpu.Exit) {
	const iret, jump, rf = 1 << 36, 1 << 38, 1 << 48
	m := v.vm
	e.Reason = vcpu.ExitTaskSwitch
	e.Task = vcpu.TaskSwitch{Selector: uint16(m.exitInfo1), Cause: vcpu.TaskCall, Insn: true}
	switch info := m.exitIntInfo; {
	case m.exitInfo2&iret != 0:
		e.Task.Cause = vcpu.TaskIRET
	case m.exitInfo2&jump != 0:
		e.Task.Cause = vcpu.TaskJump
	case v.pending.Valid: // injected: RIP is behind the instruction, if there is one
		e.Task.Cause, e.Task.Insn = vcpu.TaskGate, false
		e.Task.Event, v.pending = v.pending, vcpu.Event{}
	case info&eventValid != 0:
		ev := vcpu.Event{Valid: true, Type: vcpu.EventType(info >> 8 & 7), Vector: uint8(info)}
		if info&eventError != 0 {
			ev.HasError, ev.Error = true, uint32(info>>32)
		}
		const overflow = 4
		switch {
		case ev.Type != vcpu.EventException: // interrupts and NMIs are all injected: INT n, whatever it says
			ev.Type = vcpu.EventSoft
		case ev.Vector != vcpu.VecBP && ev.Vector != overflow:
			e.Task.Insn = false
		}
		e.Task.Cause, e.Task.Event = vcpu.TaskGate, ev
	}
	v.regs.RFLAGS &^= flagRF
	if m.exitInfo2&rf != 0 {
		v.regs.RFLAGS |= flagRF
	}
}

// debugCause is what DR6 should say of a #DB at RIP: a single step, or an execution
// breakpoint of the guest.
func (v *VCPU) debugCause() (dr6 uint64) {
	m := v.vm
	if m.rflags&flagTF != 0 {
		dr6 = 1 << 14
	}
	for i, at := range v.dr {
		if m.dr7>>(2*i)&3 != 0 && m.dr7>>(16+4*i)&3 == 0 && at == v.linear(0) {
			dr6 |= 1 << i
		}
	}
	return dr6
}

// queue makes an exception of the instruction at hand the next event. An exception
// whose delivery it interrupted is given up, as processors do with those that do
// not add up to a double fault; so is an interrupt, which only a guest that faults
// on its own stack can bring about.
func (v *VCPU) queue(e vcpu.Event) { v.pending, v.asked = e, true }

// io fills in an I/O exit (APM 15.10.2). The next RIP is given everywhere. The
// segment comes with decode assists only; TCG leaves out the address size.
func (v *VCPU) io(e *vcpu.Exit) {
	info := v.vm.exitInfo1
	e.Reason = vcpu.ExitIO
	e.Port = uint16(info >> 16)
	e.In, e.String, e.Rep = info&1 != 0, info&4 != 0, info&8 != 0
	e.Size = uint8(info >> 4 & 7)
	e.AddrLen = 2 * uint8(info>>7&7) // one of three bits: 16, 32, 64
	if n := v.vm.exitInfo2 - v.regs.RIP; n-1 < 15 {
		e.Len = uint8(n)
	}
	if e.String {
		e.Seg = vcpu.SegReg(info >> 10 & 7)
		if !v.space.b.has(featDecode) {
			e.AddrLen = 0
			e.NInsn = uint8(v.fetch(&e.Insn))
		}
	}
}

// nestedFault fills in a second-level fault (APM 15.25.6).
func (v *VCPU) nestedFault(e *vcpu.Exit) {
	m := v.vm
	info := m.exitInfo1
	if info&npfReserved != 0 { // TCG sets it without P
		e.Value = exitNPF<<32 | info&0xffff_ffff // our own tables are wrong
		return
	}
	e.Reason = vcpu.ExitMemory
	e.GPA, e.HasGVA = m.exitInfo2, false
	e.Mapped = info&npfPresent != 0
	e.Deliver = m.exitIntInfo&eventValid != 0
	switch {
	case info&npfFetch != 0:
		e.Access = vcpu.Exec
	case info&npfWrite != 0:
		e.Access = vcpu.Write
	default:
		e.Access = vcpu.Read
	}
	if info&npfWalk != 0 {
		e.Access |= vcpu.PageWalk
	}
	if v.space.b.has(featDecode) && e.Access&vcpu.Exec == 0 {
		e.Insn, e.NInsn = m.insn, min(m.nInsn, 15)
	}
}
