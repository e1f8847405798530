// Package vmx runs virtual processors on Intel VT-x with EPT, behind the
// contract of package vcpu. "SDM" in its comments is the Intel 64 and IA-32
// Architectures Software Developer's Manual; chapters are counted as in the
// edition of April 2022 (325384-077US), where VMX begins with chapter 23 of
// volume 3C.
//
// From the bottom up:
//
//	field.go        the VMCS's fields (SDM vol. 3, appendix B)
//	control.go      what may be switched on in them (appendix A)
//	capability.go   what this silicon has, and what it must have
//	machine.go      the instructions, behind an interface that tests replace
//	world_amd64.s   the world switch
//	cpu.go          VMXON on every CPU
//	space.go        what a VM's processors share
//	vcpu.go         one processor, and how its state is cached
//	run.go          Run: into the guest and out again
//	exit.go         what each exit means
//	cr.go, dr.go, msr.go, xsave.go   what the guest and the host share
//	state.go        Load and Save
//	event.go        injection, re-injection, windows
//	check.go        the entry checks of chapter 26, done before the hardware does them
//	word.go         the state word that Kick and Sync look at
//
// # What is left to the hardware
//
// Unrestricted guest is required, so CR0.PE and CR0.PG belong to the guest: mode
// switches and the loading of PDPTEs never exit. The bits of CR0 and CR4 that are
// the host's (NE, CD and NW; VMXE, MCE and what the CPU model lacks) are shown
// through read shadows. A guest that changes one of them exits; the shadow is
// changed after the checks, and the instruction runs again, now without an exit.
//
// # Every entry is bounded
//
// The VMX-preemption timer, or else the kernel's timer, ends every entry after a
// second at the latest, and after bochsNS where the firmware says that this may be
// Bochs. Bochs 2.7 holds back external interrupts for as long as a guest stays in
// after an entry with IF=0.
package vmx
