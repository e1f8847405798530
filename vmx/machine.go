package vmx

import (
	"unsafe"

	"godwit/kernel"
	"godwit/vmm/mem"
)

// A machine is what the backend needs of the CPU it runs on and of the kernel.
// Tests put a simulated one in its place; everything but the world switch is then
// tested on Linux.
type machine interface {
	probe

	// Instructions of VMX (SDM vol. 3, chapter 30). They are executed inside
	// privileged and tell whether they succeeded.
	vmread(f field) (uint64, bool)
	vmwrite(f field, v uint64) bool
	vmclear(phys uint64) bool
	vmptrld(phys uint64) bool
	invept(kind, eptp uint64) bool
	invvpid(kind uint64, vpid uint16) bool
	enter(f *frame) entryStatus
	exitAddress() uint64 // for the VMCS's host RIP

	// Other privileged state.
	wrmsr(msr uint32, v uint64)
	rdmsr(msr uint32) uint64
	setDR(dr *debugRegs)
	getDR(dr *debugRegs)
	hostNMI()          // runs the host's handler: the NMI came while a guest ran
	hostMachineCheck() // likewise
	hostXCR0() uint64  // 0 if the host does not use XSAVE
	mxcsrMask() uint32

	// The kernel's services.
	privileged(fn func(unsafe.Pointer), arg unsafe.Pointer)
	privilegedBriefly(fn func(unsafe.Pointer), arg unsafe.Pointer)
	thisCPU() int
	numCPU() int
	onEachCPU(fn func(cpu int))
	hostState(cpu int) kernel.HostContext
	kick(cpu int)
	setTimer(tsc uint64)
	fenceNMIs(msr, value uint32)
	tsc() uint64
	tscHz() uint64
	firmware() string
	enable(revision uint32, region uint64) enableStatus
	mem.Allocator
}

// An entryStatus is how VMLAUNCH or VMRESUME ended.
type entryStatus uint64

const (
	entered     entryStatus = 0 // and came back by a VM exit
	failInvalid entryStatus = 1 // VMfailInvalid: there is no current VMCS
	failValid   entryStatus = 2 // VMfailValid: the VM-instruction error field tells
)

// An enableStatus is how switching VMX on ended.
type enableStatus uint64

const (
	enabled       enableStatus = iota
	enableLocked               // IA32_FEATURE_CONTROL forbids VMXON
	enableRefused              // VMXON failed
)

// Types of INVEPT and INVVPID (SDM vol. 3, chapter 30).
const (
	inveptSingle  = 1
	inveptAll     = 2
	invvpidSingle = 1
	invvpidAll    = 2
)

// debugRegs are those that no VMCS field holds.
type debugRegs struct{ dr0, dr1, dr2, dr3, dr6 uint64 }
