package kernel

import (
	"unsafe"

	"godwit/kernel/internal/timerq"
)

// maxCPU bounds the CPU numbers.
const maxCPU = 256

// A cpu is everything that belongs to one processor. It is found through GS, which
// the Go runtime never touches. It lies outside the Go heap and holds no pointers
// into it; links to other kernel objects are addresses, because storing a pointer
// would execute the garbage collector's write barrier, which needs a real g.
type cpu struct {
	self  uintptr // 0: this
	ktop  uintptr // 8: top of the current thread's kernel stack
	usp   uintptr // 16: scratch of syscallEntry
	ufs   uintptr // 24: FS base of the current thread
	cur   uintptr // 32: the current *thread
	index uint64  // 40

	apicID uint32
	online uint32 // 1 once it schedules, see startAP
	halted uint32 // 1 when it has halted because another ends the machine

	idle     uintptr // its idle *thread
	prev     uintptr // the thread that finishSwitch finishes
	requeue  bool    // prev is runnable and belongs back into a queue
	idling   uint32  // 1: halted or about to halt, kick it
	trapDeep int32   // exceptions being handled on the exception stack
	fault    uintptr // the *trapFrame of the page fault being handled

	rq         runQueue
	switchedAt int64 // when the current thread began to run

	tlbSeen uint64 // the last shootdown answered
	tlbLazy uint32 // 1: idle, flushes before it touches the runtime's memory again

	tqLock     spinlock
	tq         timerq.Queue // deadlines of threads that went to sleep here
	armed      uint64       // TSC value the hardware timer is set for, 0 if it is not
	guestTimer uint64       // SetTimer's wish
	bound      uint64       // what setBound set it for last

	npages int
	pages  [64]uint64 // free frames kept here to spare the allocator's lock

	dtr descriptorPointer
	gdt [gdtEntries]uint64
	tss tss

	nmi   nmiState
	check machineCheck

	stat cpuStats
}

// cpuStats counts what a CPU did. Only that CPU writes it.
type cpuStats struct {
	switches, faults, interrupts, timers, ipis, syscalls, steals uint64
}

// The assembly knows these.
const (
	_ = -(unsafe.Offsetof(cpu{}.ktop) - 8)
	_ = -(unsafe.Offsetof(cpu{}.usp) - 16)
	_ = -(unsafe.Offsetof(cpu{}.ufs) - 24)
)

const (
	bootStackSize = 64 << 10
	tlsOffset     = 64
)

var (
	bootStack  [bootStackSize]byte
	bootCPU    cpu        // what GS points at until paging is set up
	handlerTLS [128]byte  // the word below tlsOffset points at handlerG
	handlerG   [1024]byte // a g whose stackguard0 is 0; nothing writes it
	ncpu       = uint64(1)
)

func handlerFS() uintptr { return uintptr(unsafe.Pointer(&handlerTLS)) + tlsOffset }

// cpuAt returns the cpu structure of an online CPU.
func cpuAt(i uint64) *cpu { return (*cpu)(ptr(cpuSlot(i))) }

func (c *cpu) current() *thread { return (*thread)(ptr(c.cur)) }
