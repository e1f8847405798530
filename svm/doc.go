// Package svm runs guests on AMD-V (SVM) with nested paging. It implements the
// contract of package vcpu.
//
// Section numbers are those of the AMD64 Architecture Programmer's Manual, vol. 2:
// System Programming (24593, revision 3.42), called APM here.
//
// backend.go switches AMD-V on and makes what a machine's processors share, vcpu.go is
// one processor, run.go the way into the guest and out again, exit.go what each exit
// means, event.go injection and windows, state.go Load and Save. docs/svm.md has the
// decisions.
//
// # What the guest gets by itself
//
// Control registers but CR4 (and reads of it while the guest has CR4.MCE off), debug
// registers after their first use, the TSC and the system-call MSRs are the guest's
// own: they live in the VMCB and cause no exits. CR4 and EFER are checked against the
// CPU model. Everything that would show the guest SVM itself ends in ExitOther.
//
// # Grounds
//
// QEMU's TCG (seen: 7.2) differs from the manual in ways that are borne here, each at
// no cost elsewhere. It is known by having no next-RIP saving, which every processor
// with nested paging has. It
//
//   - saves no nRIP and has no decode assists (fetch.go);
//   - leaves EXITINTINFO's low bits stale when bit 31 is clear, P out of a reserved-bit
//     fault and the address size out of IOIO's information (exit.go);
//   - may deliver an injected interrupt twice, and executes XSETBV and task switches
//     without an exit (run.go);
//   - enters without the interrupt shadow, and aborts if a guest lowers CR8 below a
//     waiting V_IRQ (event.go);
//   - keeps a guest's breakpoints when the guest is left, and aborts when one is hit
//     then, so guests have none there (vcpu.go);
//   - lets other CPUs disturb the boot CPU's state (backend.go);
//   - can execute for ever what another CPU's store has replaced (stale.go).
//
// Bochs (seen: 2.7, model ryzen) does not load CR2 (world_amd64.s), nor take the next
// RIP for an injected INT n (event.go), nor save DR6 when #DB is intercepted (exit.go).
package svm
