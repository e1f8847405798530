package kernel

import (
	"sync/atomic"
	gosyscall "syscall"
	"unsafe"
)

// Privileged runs fn(arg) on the calling thread's kernel stack with interrupts
// off, as a blocking system call, so the Go runtime may give the P to others.
//
// fn must not allocate, grow maps, write pointers into the heap, take Go locks,
// block or panic. It is short apart from guest execution, which a host interrupt
// always ends; physical interrupts that ended guest execution are taken when
// Privileged returns. FPU and vector registers need not be preserved by fn, but
// MXCSR and the x87 control word must be, and so must XCR0.
func Privileged(fn func(arg unsafe.Pointer), arg unsafe.Pointer) {
	gosyscall.Syscall(sysPrivileged, *(*uintptr)(unsafe.Pointer(&fn)), uintptr(arg), 0)
}

// PrivilegedBriefly is Privileged without a word to the Go runtime, which saves some
// 200 instructions. To the runtime the goroutine computes meanwhile: it keeps its P,
// and a garbage collection that wants to begin waits. So fn ends soon: one that runs
// a guest bounds it with SetTimer. (Stopping the world also sends the thread a signal,
// whose interrupt ends the guest at once.)
func PrivilegedBriefly(fn func(arg unsafe.Pointer), arg unsafe.Pointer) {
	privilegedCall(*(*uintptr)(unsafe.Pointer(&fn)), arg)
}

// critical is PrivilegedBriefly, for what is over at once.
func critical(fn func(arg unsafe.Pointer), arg unsafe.Pointer) {
	privilegedCall(*(*uintptr)(unsafe.Pointer(&fn)), arg)
}

// privilegedCall is the system call.
//
//go:noescape
func privilegedCall(fn uintptr, arg unsafe.Pointer)

// PrivilegedElsewhere is Privileged, or PrivilegedBriefly, on any CPU but one. The
// thread moves if it must; it is not bound to where it went.
func PrivilegedElsewhere(avoid int, briefly bool, fn func(arg unsafe.Pointer), arg unsafe.Pointer) {
	c := elsewhereCall{fn: fn, arg: arg, avoid: uint64(avoid)}
	if briefly {
		PrivilegedBriefly(elsewhere, unsafe.Pointer(&c))
		return
	}
	Privileged(elsewhere, unsafe.Pointer(&c))
}

type elsewhereCall struct {
	fn    func(arg unsafe.Pointer)
	arg   unsafe.Pointer
	avoid uint64
}

func elsewhere(arg unsafe.Pointer) {
	c := (*elsewhereCall)(arg)
	if this().index == c.avoid && ncpu > 1 {
		t := this().current()
		pin := t.pin
		to := (c.avoid + 1 + uint64(t.id)%(ncpu-1)) % ncpu
		for i := range ncpu {
			if i != c.avoid && atomic.LoadUint32(&cpuAt(i).idling) != 0 {
				to = i
				break
			}
		}
		t.pin = int32(to)
		migrate()
		t.pin = pin
	}
	c.fn(c.arg)
}

// A HostContext is what a VMCS's host-state area must hold on one CPU (SDM
// vol. 3, 26.2.3, 26.2.4) for a VM exit to land in the environment that
// Privileged gives fn. CR3 is the same on every CPU and never changes.
type HostContext struct {
	CR0, CR3, CR4          uint64
	EFER, PAT              uint64
	FSBase, GSBase         uint64
	TRBase                 uint64
	GDTBase, IDTBase       uint64
	CS, SS, DS, ES, FS, GS uint16
	TR                     uint16
}

// HostState returns the host context of a CPU. The control registers and MSRs are
// the calling CPU's; all CPUs' are alike.
func HostState(cpu int) HostContext {
	if cpu < 0 || uint64(cpu) >= ncpu {
		panic("kernel: HostState of a CPU that does not exist")
	}
	c := cpuAt(uint64(cpu))
	return HostContext{
		CR0: readCR0(), CR3: readCR3(), CR4: readCR4(),
		EFER: ReadMSR(msrEFER), PAT: ReadMSR(msrPAT),
		FSBase:  uint64(handlerFS()),
		GSBase:  uint64(c.self),
		TRBase:  uint64(uintptr(unsafe.Pointer(&c.tss))),
		GDTBase: uint64(uintptr(unsafe.Pointer(&c.gdt))),
		IDTBase: uint64(uintptr(unsafe.Pointer(&idt))),
		CS:      selCode, SS: selData, DS: selData, ES: selData,
		TR: selTSS,
	}
}

// pinCall asks for a CPU, -1 for none in particular.
type pinCall struct{ cpu int32 }

func pinThread(arg unsafe.Pointer) {
	this().current().pin = (*pinCall)(arg).cpu
	migrate()
}

// PrivilegedCPU is the number of the CPU, inside Privileged.
func PrivilegedCPU() int { return int(this().index) }

// ThisCPU is the number of the CPU the caller runs on. Outside Privileged and
// OnEachCPU the answer may be out of date when it arrives.
func ThisCPU() int {
	if !Running() {
		return 0
	}
	return int(this().index)
}
