package vmx

import "godwit/vmm/vcpu"

// Basic exit reasons (SDM vol. 3, appendix C).
const (
	reasonException    = 0 // or NMI
	reasonInterrupt    = 1
	reasonTripleFault  = 2
	reasonINIT         = 3
	reasonIntrWindow   = 7
	reasonNMIWindow    = 8
	reasonTaskSwitch   = 9
	reasonCPUID        = 10
	reasonGETSEC       = 11
	reasonHLT          = 12
	reasonINVD         = 13
	reasonRDPMC        = 15
	reasonRSM          = 17
	reasonVMCALL       = 18
	reasonVMCLEAR      = 19
	reasonVMXON        = 27
	reasonCR           = 28
	reasonDR           = 29
	reasonIO           = 30
	reasonRDMSR        = 31
	reasonWRMSR        = 32
	reasonEntryState   = 33
	reasonEntryMSR     = 34
	reasonMWAIT        = 36
	reasonMONITOR      = 39
	reasonPAUSE        = 40
	reasonEntryMachine = 41
	reasonTPR          = 43
	reasonEPTViolation = 48
	reasonEPTMisconfig = 49
	reasonINVEPT       = 50
	reasonRDTSCP       = 51
	reasonTimer        = 52
	reasonINVVPID      = 53
	reasonWBINVD       = 54
	reasonXSETBV       = 55
	reasonINVPCID      = 58
	reasonVMFUNC       = 59
	reasonENCLS        = 60
	reasonPMLFull      = 62
	reasonXSAVES       = 63
	reasonXRSTORS      = 64
	reasonUMWAIT       = 67
	reasonTPAUSE       = 68
	numReasons         = 70

	reasonBasic       = 0xffff
	reasonEntryFailed = 1 << 31
)

// A handler takes one kind of exit. It returns true if the guest can go on, or
// fills in v.exit and its Reason. Handlers run inside privileged.
type handler func(v *VCPU, e *vcpu.Exit, qualification uint64) bool

// Exits that are not here can not come with the controls that are set.
var handlers = [numReasons]handler{
	reasonException:    (*VCPU).onException,
	reasonInterrupt:    (*VCPU).onInterrupt,
	reasonTripleFault:  (*VCPU).onTripleFault,
	reasonINIT:         (*VCPU).onINIT,
	reasonIntrWindow:   (*VCPU).onWindow,
	reasonNMIWindow:    (*VCPU).onWindow,
	reasonTaskSwitch:   (*VCPU).onTaskSwitch,
	reasonCPUID:        (*VCPU).onCPUID,
	reasonGETSEC:       (*VCPU).onOther,
	reasonHLT:          (*VCPU).onHLT,
	reasonINVD:         (*VCPU).onWBINVD,
	reasonRDPMC:        (*VCPU).onRDPMC,
	reasonRSM:          (*VCPU).onOther,
	reasonVMCALL:       (*VCPU).onVMCALL,
	reasonVMCLEAR:      (*VCPU).onOther,
	reasonVMCLEAR + 1:  (*VCPU).onOther, // VMLAUNCH
	reasonVMCLEAR + 2:  (*VCPU).onOther, // VMPTRLD
	reasonVMCLEAR + 3:  (*VCPU).onOther, // VMPTRST
	reasonVMCLEAR + 4:  (*VCPU).onOther, // VMREAD
	reasonVMCLEAR + 5:  (*VCPU).onOther, // VMRESUME
	reasonVMCLEAR + 6:  (*VCPU).onOther, // VMWRITE
	reasonVMCLEAR + 7:  (*VCPU).onOther, // VMXOFF
	reasonVMXON:        (*VCPU).onOther,
	reasonCR:           (*VCPU).onCR,
	reasonDR:           (*VCPU).onDR,
	reasonIO:           (*VCPU).onIO,
	reasonRDMSR:        (*VCPU).onRDMSR,
	reasonWRMSR:        (*VCPU).onWRMSR,
	reasonMWAIT:        (*VCPU).onMonitor,
	reasonMONITOR:      (*VCPU).onMonitor,
	reasonPAUSE:        (*VCPU).onPAUSE,
	reasonTPR:          (*VCPU).onWindow,
	reasonEPTViolation: (*VCPU).onEPTViolation,
	reasonINVEPT:       (*VCPU).onOther,
	reasonTimer:        (*VCPU).onTimer,
	reasonINVVPID:      (*VCPU).onOther,
	reasonWBINVD:       (*VCPU).onWBINVD,
	reasonXSETBV:       (*VCPU).onXSETBV,
	reasonVMFUNC:       (*VCPU).onOther,
	reasonENCLS:        (*VCPU).onOther,
	reasonPMLFull:      (*VCPU).onPMLFull,
	reasonUMWAIT:       (*VCPU).onOther,
	reasonTPAUSE:       (*VCPU).onOther,
}

// handle reads what the exit left and acts on it; true means: enter again.
func (v *VCPU) handle() bool {
	reason := v.read(fExitReason)
	qualification := v.read(fQualification)
	if reason&reasonEntryFailed != 0 {
		v.entryFailed(reason&reasonBasic, qualification)
		return false
	}
	r := &v.frame.regs
	r.RIP = v.read(fGuestRIP)
	r.GPR[vcpu.RSP] = v.read(fGuestRSP)
	r.RFLAGS = v.read(fGuestRFLAGS)
	v.loaded.rip, v.loaded.rsp, v.loaded.rflags = r.RIP, r.GPR[vcpu.RSP], r.RFLAGS
	v.blocked = v.read(fGuestInterruptibility)
	r.CR8 = uint64(v.apic.Data[virtualTPR] >> 4)
	v.have = 0
	v.requeue()

	if n := reason & reasonBasic; n < numReasons && handlers[n] != nil {
		return handlers[n](v, v.exit, qualification)
	}
	return v.impossible(reason)
}

// impossible is an exit that no control asks for.
func (v *VCPU) impossible(reason uint64) bool {
	v.exit.Value = reason
	return v.leave(vcpu.ExitInternal)
}

// leave ends the stay with an exit for the caller.
func (v *VCPU) leave(r vcpu.Reason) bool {
	v.exit.Reason = r
	return false
}

// leaveInsn does so for an instruction.
func (v *VCPU) leaveInsn(r vcpu.Reason) bool {
	v.exit.Len = uint8(v.read(fExitLength))
	return v.leave(r)
}

// skip ends an instruction that was handled here.
func (v *VCPU) skip() bool {
	v.Skip(uint8(v.read(fExitLength)))
	if v.frame.regs.RFLAGS&flagTF != 0 {
		v.singleStep()
	}
	return true
}

// singleStep: the trap after an instruction that the processor did not finish
// itself.
func (v *VCPU) singleStep() {
	if v.read(fGuestDebugCtl)&debugBTF == 0 {
		v.pendingDebug = v.read(fGuestPendingDebug) | pendingBS // Save looks there, if there is no entry
		v.write(fGuestPendingDebug, v.pendingDebug)
	}
}

// raise queues an exception for the guest. It replaces an event whose delivery led
// to it, as SDM vol. 3, 6.15 has it for benign exceptions: the instruction or the
// device will come again.
func (v *VCPU) raise(e vcpu.Event) bool {
	v.queue(e)
	return true
}

func (v *VCPU) onInterrupt(e *vcpu.Exit, _ uint64) bool { return v.hostExit() }
func (v *VCPU) onTimer(e *vcpu.Exit, _ uint64) bool     { return v.hostExit() }

// hostExit: the host wants the CPU, or the deadline has come.
func (v *VCPU) hostExit() bool {
	if v.deadline != 0 && v.m.tsc() >= v.deadline {
		return v.leave(vcpu.ExitDeadline)
	}
	return v.leave(vcpu.ExitHost)
}

func (v *VCPU) onTripleFault(e *vcpu.Exit, _ uint64) bool {
	v.activity = vcpu.Shutdown
	return v.leave(vcpu.ExitShutdown)
}

func (v *VCPU) onINIT(e *vcpu.Exit, _ uint64) bool { return v.leave(vcpu.ExitINIT) }

// onWindow: whether it is open for what the caller wants is for prepare to see.
func (v *VCPU) onWindow(e *vcpu.Exit, _ uint64) bool { return true }

func (v *VCPU) onCPUID(e *vcpu.Exit, _ uint64) bool {
	switch uint32(v.frame.regs.GPR[vcpu.RAX]) {
	case 1, 7, 0xd:
		v.fetch(gControl) // some answers depend on CR4
	}
	return v.leaveInsn(vcpu.ExitCPUID)
}

func (v *VCPU) onHLT(e *vcpu.Exit, _ uint64) bool     { return v.leaveInsn(vcpu.ExitHLT) }
func (v *VCPU) onWBINVD(e *vcpu.Exit, _ uint64) bool  { return v.leaveInsn(vcpu.ExitWBINVD) }
func (v *VCPU) onVMCALL(e *vcpu.Exit, _ uint64) bool  { return v.leaveInsn(vcpu.ExitHypercall) }
func (v *VCPU) onMonitor(e *vcpu.Exit, _ uint64) bool { return v.leaveInsn(vcpu.ExitMonitor) }
func (v *VCPU) onPAUSE(e *vcpu.Exit, _ uint64) bool   { return v.leaveInsn(vcpu.ExitPause) }
func (v *VCPU) onOther(e *vcpu.Exit, _ uint64) bool   { return v.leaveInsn(vcpu.ExitOther) }
func (v *VCPU) onXSETBV(e *vcpu.Exit, _ uint64) bool  { return v.leaveInsn(vcpu.ExitXSETBV) }

// onRDPMC: no model has performance counters.
func (v *VCPU) onRDPMC(e *vcpu.Exit, _ uint64) bool { return v.raise(vcpu.GP()) }

// onTaskSwitch: the qualification has the new TSS's selector and the cause (SDM
// vol. 3, table 27-2). What was being delivered through a task gate becomes the
// caller's. The length is there for instructions only (27.2.5).
func (v *VCPU) onTaskSwitch(e *vcpu.Exit, q uint64) bool {
	e.Task = vcpu.TaskSwitch{Selector: uint16(q), Cause: vcpu.TaskCause(q >> 30 & 3), Insn: true}
	if e.Task.Cause == vcpu.TaskGate {
		e.Task.Event, v.event = v.event, vcpu.Event{}
		switch e.Task.Event.Type {
		case vcpu.EventSoft, vcpu.EventPrivSoft, vcpu.EventSoftExc:
		default:
			e.Task.Insn = false
		}
	}
	e.Len = 0
	if e.Task.Insn {
		e.Len = uint8(v.read(fExitLength))
	}
	v.fetch(gAll)
	return v.leave(vcpu.ExitTaskSwitch)
}

// I/O qualification (SDM vol. 3, table 27-5), and instruction information of INS
// and OUTS (table 27-9).
const (
	ioSize    = 7
	ioIn      = 1 << 3
	ioString  = 1 << 4
	ioRep     = 1 << 5
	ioPort    = 16
	insnAddr  = 7
	insnSeg   = 15
	insnField = 7
)

func (v *VCPU) onIO(e *vcpu.Exit, q uint64) bool {
	e.Size = uint8(q&ioSize) + 1
	e.In = q&ioIn != 0
	e.String = q&ioString != 0
	e.Rep = q&ioRep != 0
	e.Port = uint16(q >> ioPort)
	e.NInsn, e.HasGVA = 0, false
	if e.String {
		info := v.read(fExitInstruction)
		e.AddrLen = 2 << (info >> insnAddr & insnField)
		e.Seg = vcpu.SegReg(info >> insnSeg & insnField)
		if e.In {
			e.Seg = vcpu.ES
		}
		e.GVA, e.HasGVA = v.read(fGuestLinear), true
		v.fetch(gControl | gSegments) // the caller will access memory
	}
	return v.leaveInsn(vcpu.ExitIO)
}

// EPT-violation qualification (SDM vol. 3, table 27-7).
const (
	eptRead      = 1 << 0
	eptWrite     = 1 << 1
	eptFetch     = 1 << 2
	eptMayAny    = 7 << 3
	eptHasLinear = 1 << 7
	eptFinal     = 1 << 8 // the linear address's own translation, not a page walk
)

func (v *VCPU) onEPTViolation(e *vcpu.Exit, q uint64) bool {
	v.reblockNMI(q) // the same bit as in interruption information
	if v.frame.regs.RFLAGS&flagTF != 0 {
		v.forgetStep()
	}
	e.GPA = v.read(fGuestPhysical)
	e.Access = 0
	for _, a := range [...]struct {
		bit uint64
		is  vcpu.Access
	}{{eptRead, vcpu.Read}, {eptWrite, vcpu.Write}, {eptFetch, vcpu.Exec}} {
		if q&a.bit != 0 {
			e.Access |= a.is
		}
	}
	e.Mapped = q&eptMayAny != 0
	e.Deliver = v.event.Valid // requeue found it
	e.HasGVA = q&eptHasLinear != 0
	e.GVA = 0
	if e.HasGVA {
		e.GVA = v.read(fGuestLinear)
		if q&eptFinal == 0 {
			e.Access |= vcpu.PageWalk
		}
	}
	e.Len, e.NInsn = 0, 0 // VT-x tells neither
	return v.leave(vcpu.ExitMemory)
}

// forgetStep: an instruction that faulted owes no single step, and the one before it has
// had its own (SDM vol. 3, 6.9), unless it began a shadow. Bochs 2.7 says that one is
// pending.
func (v *VCPU) forgetStep() {
	if v.blocked&(blockSTI|blockMovSS) != 0 {
		return
	}
	if p := v.read(fGuestPendingDebug); p&pendingBS != 0 {
		v.write(fGuestPendingDebug, p&^pendingBS)
	}
}

func (v *VCPU) onPMLFull(e *vcpu.Exit, q uint64) bool {
	v.reblockNMI(q)
	v.drainLog()
	return true
}

func (v *VCPU) onException(e *vcpu.Exit, q uint64) bool {
	info := v.read(fExitEvent)
	vector := uint8(info & infoVector)
	kind := vcpu.EventType(info & infoType >> 8)
	if kind == vcpu.EventNMI {
		v.m.hostNMI()
		return v.hostExit()
	}
	if kind == vcpu.EventException && vector == vcpu.VecMC {
		v.m.hostMachineCheck()
		return v.hostExit()
	}
	v.reblockNMI(info)
	x := vcpu.Event{Valid: true, Type: kind, Vector: vector}
	switch {
	case kind == vcpu.EventPrivSoft: // INT1 sets no bit of DR6
		x.Len = uint8(v.read(fExitLength))
		v.endTracing()
	case vector == vcpu.VecAC:
		x.HasError, x.Error = true, uint32(v.read(fExitErrorCode))
	case vector == vcpu.VecDB:
		v.debugTrap(q)
	default:
		return v.impossible(info<<32 | reasonException)
	}
	v.stats.Exits[vcpu.ExitException]++
	return v.raise(x)
}

// debugTrap does what the processor would have done to DR6, DR7 and DEBUGCTL had
// #DB not exited (SDM vol. 3, 17.2.3, 27.1; table 27-1).
func (v *VCPU) debugTrap(q uint64) {
	if v.drLoaded {
		v.m.getDR(&v.dr)
	}
	v.dr.dr6 = v.dr.dr6&^0xf | q&(0xf|dr6BD|dr6BS)
	if v.drLoaded {
		v.m.setDR(&v.dr)
	}
	v.endTracing()
}

// endTracing: whatever raises #DB, its handler begins with GD and BTF off (SDM vol. 3,
// 17.2.4, 17.4.3).
func (v *VCPU) endTracing() {
	if x := v.read(fGuestDR7); x&dr7GD != 0 {
		v.write(fGuestDR7, x&^dr7GD)
	}
	if x := v.read(fGuestDebugCtl); x&debugBTF != 0 {
		v.write(fGuestDebugCtl, x&^debugBTF)
	}
}
