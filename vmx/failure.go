package vmx

import "fmt"

// VM-instruction errors (SDM vol. 3, 30.4).
var instructionErrors = [...]string{
	1:  "VMCALL in VMX root operation",
	2:  "VMCLEAR with an invalid physical address",
	3:  "VMCLEAR with the VMXON pointer",
	4:  "VMLAUNCH with a VMCS that is not clear",
	5:  "VMRESUME with a VMCS that is not launched",
	6:  "VMRESUME after VMXOFF",
	7:  "VM entry with invalid control fields",
	8:  "VM entry with invalid host-state fields",
	9:  "VMPTRLD with an invalid physical address",
	10: "VMPTRLD with the VMXON pointer",
	11: "VMPTRLD with an incorrect VMCS revision identifier",
	12: "VMREAD or VMWRITE of an unsupported field",
	13: "VMWRITE to a read-only field",
	15: "VMXON in VMX root operation",
	16: "VM entry with an invalid executive-VMCS pointer",
	17: "VM entry with a non-launched executive VMCS",
	18: "VM entry with an executive-VMCS pointer that is not the VMXON pointer",
	19: "VMCALL with a VMCS that is not clear",
	20: "VMCALL with invalid VM-exit control fields",
	22: "VMCALL with an incorrect MSEG revision identifier",
	23: "VMXOFF under dual-monitor treatment",
	24: "VMCALL with invalid SMM-monitor features",
	25: "VM entry with invalid execution controls in the executive VMCS",
	26: "VM entry with events blocked by MOV SS",
	28: "invalid operand to INVEPT or INVVPID",
}

// Qualifications of entry failures due to invalid guest state (SDM vol. 3, 26.8).
var stateFailures = map[uint64]string{
	0: "no particular check", 2: "loading the PDPTEs", 3: "injecting an NMI in a shadow of STI or MOV SS",
	4: "the VMCS link pointer",
}

func (t *trouble) instructionError() string {
	if int(t.code) < len(instructionErrors) && instructionErrors[t.code] != "" {
		return instructionErrors[t.code]
	}
	return fmt.Sprintf("VM-instruction error %d", t.code)
}

// entryFailed is an exit that says that there was no entry.
func (v *VCPU) entryFailed(reason, qualification uint64) {
	switch reason {
	case reasonEntryState:
		v.blame(troubleEntryState, 0, qualification)
	case reasonEntryMSR:
		v.blame(troubleEntryMSR, 0, qualification)
	case reasonEntryMachine:
		v.m.hostMachineCheck()
		v.blame(troubleMachineCheck, 0, qualification)
	default:
		v.blame(troubleEnter, 0, reason)
	}
}

// failure says in words what went wrong, and where.
func (v *VCPU) failure() error {
	t := v.trouble
	where := fmt.Sprintf("vmx: VM %q VCPU %d, RIP %#x", v.s.cfg.Name, v.index, v.frame.regs.RIP)
	switch t.what {
	case troubleRead:
		return fmt.Errorf("%s: VMREAD of field %#x: %s", where, uint32(t.field), t.instructionError())
	case troubleWrite:
		return fmt.Errorf("%s: VMWRITE of %#x to field %#x: %s", where, t.value, uint32(t.field), t.instructionError())
	case troubleClear:
		return fmt.Errorf("%s: VMCLEAR of %#x: %s", where, t.value, t.instructionError())
	case troubleLoad:
		return fmt.Errorf("%s: VMPTRLD of %#x: %s", where, t.value, t.instructionError())
	case troubleFlush:
		return fmt.Errorf("%s: INVEPT or INVVPID of %#x failed", where, t.value)
	case troubleEnter:
		return fmt.Errorf("%s: VM entry: %s (reason %#x)", where, t.instructionError(), t.value)
	case troubleEntryState:
		why, ok := stateFailures[t.value]
		if !ok {
			why = fmt.Sprintf("qualification %#x", t.value)
		}
		if err := v.explain(); err != nil {
			why = err.Error()
		}
		return fmt.Errorf("%s: VM entry failed: invalid guest state: %s", where, why)
	case troubleEntryMSR:
		return fmt.Errorf("%s: VM entry failed: entry %d of the MSR-load list", where, t.value)
	case troubleMachineCheck:
		return fmt.Errorf("%s: VM entry failed: machine check", where)
	case troubleRIP:
		return fmt.Errorf("%s: RIP %#x is not canonical", where, t.value)
	}
	return fmt.Errorf("%s: trouble %d", where, t.what)
}

// explain looks for the entry check that a state did not pass which the hardware
// refused: one that this package did not set, but let the guest make.
func (v *VCPU) explain() error {
	v.trouble = trouble{}
	v.have = 0
	v.need(gAll)
	c := candidate{regs: &v.frame.regs, reg: &v.reg, seg: &v.seg, pdpte: &v.pdpte, blocked: v.blocked, event: v.event}
	return c.check(&v.s.cfg.CPUID, v.b.s)
}
