package vmx

import (
	"fmt"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// Control registers (SDM vol. 3, 2.5), EFER (2.2.1), RFLAGS (2.3).
const (
	cr0PE = 1 << 0
	cr0MP = 1 << 1
	cr0EM = 1 << 2
	cr0TS = 1 << 3
	cr0ET = 1 << 4
	cr0NE = 1 << 5
	cr0WP = 1 << 16
	cr0AM = 1 << 18
	cr0NW = 1 << 29
	cr0CD = 1 << 30
	cr0PG = 1 << 31

	cr4PAE   = 1 << 5
	cr4MCE   = 1 << 6
	cr4VMXE  = 1 << 13
	cr4PCIDE = 1 << 17
	cr4CET   = 1 << 23

	eferSCE = 1 << 0
	eferLME = 1 << 8
	eferLMA = 1 << 10
	eferNXE = 1 << 11

	flagOnes     = 1 << 1
	flagTF       = 1 << 8
	flagIF       = 1 << 9
	flagRF       = 1 << 16
	flagVM       = 1 << 17
	flagReserved = ^uint64(0x3f7fd7) // 63:22, 15, 5, 3; bit 1 is one

	debugBTF = 1 << 1 // IA32_DEBUGCTL
)

// Debug registers (SDM vol. 3, 17.2).
const (
	dr6Ones     = 0xffff0ff0
	dr6Writable = 0xe00f
	dr6BD       = 1 << 13
	dr6BS       = 1 << 14
	dr7Ones     = 1 << 10
	dr7Writable = 0xffff23ff
	dr7GD       = 1 << 13
	dr7Enables  = 0xff
)

const (
	// The guest's own bits of CR0: it changes them without an exit.
	cr0Own = cr0PE | cr0MP | cr0EM | cr0TS | cr0WP | cr0AM | cr0PG
	// Those that it reads from the shadow, and whose change exits. NE must be one in
	// VMX operation (SDM vol. 3, 23.8); CD and NW must not reach the processor, whose
	// caches are the host's too. Setting one of the upper half faults.
	cr0Shadowed = cr0NE | cr0NW | cr0CD | 0xffffffff<<32
	// The rest, ET and reserved bits, no MOV changes (2.5): an exit for one of them
	// would leave nothing to do but to repeat the instruction, for ever.
)

// cr4Own: what the model has, but for MCE, which stays on so that a machine check
// in a guest is an exit and not a shutdown of the machine.
func cr4Own(p *vcpu.Policy) uint64 { return p.CR4 &^ (cr4VMXE | cr4MCE) }

func (v *VCPU) hardwareCR0(view uint64) uint64 {
	return view&cr0Own | v.b.s.cr0Fixed0&^(cr0PE|cr0PG) | cr0NE | cr0ET
}

func (v *VCPU) hardwareCR4(view uint64) uint64 {
	return view&cr4Own(&v.s.cfg.CPUID) | v.b.s.cr4Fixed0 | cr4MCE
}

func paePaging(cr0, cr4, efer uint64) bool {
	return cr0&cr0PG != 0 && cr4&cr4PAE != 0 && efer&eferLMA == 0
}

// A refusal is why a value can not go into a register. It is made inside
// privileged, where no error can be.
type refusal uint8

const (
	fine refusal = iota
	refuseHigh
	refusePGWithoutPE
	refuseNWWithoutCD
	refuseWPWithCET
	refuseLongWithoutPAE
	refuseLongIn64
	refusePagingOffIn64
	refusePagingOffPCIDE
	refuseModel
	refusePAEOff
	refusePCIDE
	refuseLME
	refuseCanonical
	refuse16
	refusePAT
	refuseX87
	refuseAVX
	refuseAVX512
	numRefusals
)

var refusals = [numRefusals]string{
	refuseHigh:           "bits 63:32 are reserved",
	refusePGWithoutPE:    "paging without protection",
	refuseNWWithoutCD:    "NW without CD",
	refuseWPWithCET:      "WP can not be off while CR4.CET is on",
	refuseLongWithoutPAE: "long mode needs CR4.PAE",
	refuseLongIn64:       "long mode can not begin in a 64-bit code segment",
	refusePagingOffIn64:  "paging can not end in 64-bit mode",
	refusePagingOffPCIDE: "paging can not end while CR4.PCIDE is on",
	refuseModel:          "it has bits that the CPU model lacks",
	refusePAEOff:         "PAE can not be off in long mode",
	refusePCIDE:          "PCIDE can be switched on only in long mode with CR3[11:0] = 0",
	refuseLME:            "LME can not change while paging is on",
	refuseCanonical:      "it is not canonical",
	refuse16:             "it has more than 16 bits",
	refusePAT:            "it has an entry that is no memory type",
	refuseX87:            "x87 state can not be off",
	refuseAVX:            "AVX state needs SSE state",
	refuseAVX512:         "AVX-512 needs all three of its components, and AVX",
}

func (f refusal) err(r vcpu.Reg, x uint64) error {
	if f == fine {
		return nil
	}
	return fmt.Errorf("%s = %#x: %s", regNames[r], x, refusals[f])
}

// checkCR0Write is MOV to CR0's (SDM vol. 2, MOV to control registers).
func checkCR0Write(x, old, cr4, efer uint64, code64 bool) refusal {
	on, off := x&^old, old&^x
	switch {
	case x>>32 != 0:
		return refuseHigh
	case x&cr0PG != 0 && x&cr0PE == 0:
		return refusePGWithoutPE
	case x&cr0NW != 0 && x&cr0CD == 0:
		return refuseNWWithoutCD
	case x&cr0WP == 0 && cr4&cr4CET != 0:
		return refuseWPWithCET
	case on&cr0PG != 0 && efer&eferLME != 0 && cr4&cr4PAE == 0:
		return refuseLongWithoutPAE
	case on&cr0PG != 0 && efer&eferLME != 0 && code64:
		return refuseLongIn64
	case off&cr0PG != 0 && efer&eferLMA != 0 && code64:
		return refusePagingOffIn64
	case off&cr0PG != 0 && cr4&cr4PCIDE != 0:
		return refusePagingOffPCIDE
	}
	return fine
}

func checkCR4Write(x, old, cr3, efer uint64, p *vcpu.Policy) refusal {
	switch {
	case x&^p.CR4 != 0:
		return refuseModel
	case efer&eferLMA != 0 && x&cr4PAE == 0:
		return refusePAEOff
	case x&^old&cr4PCIDE != 0 && (efer&eferLMA == 0 || cr3&0xfff != 0):
		return refusePCIDE
	}
	return fine
}

// checkEFERWrite returns what EFER becomes: LMA is the processor's.
func checkEFERWrite(x, old, cr0 uint64, p *vcpu.Policy) (uint64, refusal) {
	x = x&^eferLMA | old&eferLMA
	switch {
	case x&^(p.EFER|eferLMA) != 0:
		return old, refuseModel
	case (x^old)&eferLME != 0 && cr0&cr0PG != 0:
		return old, refuseLME
	}
	return x, fine
}

// checkPlain is the check of registers that depend on no other state.
func checkPlain(r vcpu.Reg, x uint64, p *vcpu.Policy) refusal {
	switch r {
	case vcpu.LSTAR, vcpu.CSTAR, vcpu.KernelGSBase, vcpu.SysenterESP, vcpu.SysenterEIP, vcpu.GDTBase, vcpu.IDTBase:
		if !x86.Canonical(x) {
			return refuseCanonical
		}
	case vcpu.SysenterCS, vcpu.TSCAux, vcpu.DR6, vcpu.DR7:
		if x>>32 != 0 {
			return refuseHigh
		}
	case vcpu.GDTLimit, vcpu.IDTLimit:
		if x>>16 != 0 {
			return refuse16
		}
	case vcpu.PAT:
		if !x86.ValidPAT(x) {
			return refusePAT
		}
	case vcpu.DebugCtl:
		if x&^debugBTF != 0 { // last-branch records and the like are not offered
			return refuseModel
		}
	case vcpu.XSS:
		if x&^p.XSS != 0 {
			return refuseModel
		}
	case vcpu.SpecCtrl:
		if x&^p.Controls.SpecCtrl != 0 {
			return refuseModel
		}
	case vcpu.XCR0: // SDM vol. 1, 13.3
		switch {
		case x&^p.XCR0 != 0:
			return refuseModel
		case x&xX87 == 0:
			return refuseX87
		case x&xAVX != 0 && x&xSSE == 0:
			return refuseAVX
		case x&xAVX512 != 0 && (x&xAVX512 != xAVX512 || x&xAVX == 0):
			return refuseAVX512
		}
	}
	return fine
}

var regNames = [vcpu.NumRegs]string{
	"CR0", "CR2", "CR3", "CR4", "XCR0", "XSS", "DR0", "DR1", "DR2", "DR3", "DR6", "DR7", "EFER", "PAT", "STAR",
	"LSTAR", "CSTAR", "SFMASK", "KERNEL_GS_BASE", "SYSENTER_CS", "SYSENTER_ESP", "SYSENTER_EIP", "DEBUGCTL",
	"TSC_AUX", "GDTR base", "GDTR limit", "IDTR base", "IDTR limit", "SPEC_CTRL",
}
