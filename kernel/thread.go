package kernel

import (
	"sync/atomic"
	"unsafe"
)

// maxThreads bounds the thread numbers. The Go runtime gives up at 10,000 itself.
const maxThreads = 2048

// A thread's state. All transitions:
//
//	free     -> runnable   newThread, by clone
//	runnable -> running    switchTo, by the CPU that took it from a run queue
//	running  -> runnable   preemption, sched_yield, migration
//	running  -> blocked    sleep
//	blocked  -> runnable   by whoever wins the compare-and-swap: a waker or a timer
//	running  -> dead       exit
//	dead     -> free       finishSwitch, on the next thread's stack
//
// Idle threads are always idle.
const (
	threadFree = iota
	threadRunnable
	threadRunning
	threadBlocked
	threadDead
	threadIdle
)

// Why a blocked thread goes on.
const (
	causeWoken = iota
	causeTimeout
)

// A thread is one of the Go runtime's Ms, or a CPU's idle thread. It lies at the
// top of its own kernel stack's slot and is never unmapped; like type cpu it holds
// no Go pointers.
type thread struct {
	id    uint32
	state uint32
	onCPU uint32 // 1 while a CPU uses its kernel stack; 2: and shall call ready when it does no more

	lastCPU uint32
	pin     int32   // the only CPU it may run on, -1 for any
	ksp     uintptr // saved stack pointer, inside switchStack
	ktop    uintptr
	fs      uintptr

	qnext uint32 // next in a run queue or in the list of free threads
	spent bool   // used up its last slice, and has not waited for anything since
	owed  bool   // spent, and has waited long enough to have a slice to itself

	// Waiting.
	wnext    uint32 // next in the wait queue
	wqueued  bool   // in a wait queue, which wq names
	cause    uint8
	wq       uintptr // *waitQueue
	wkey     uintptr
	timerCPU uint64

	// Signals.
	pending         uint64 // atomic; bit n-1 is signal n
	mask            uint64
	altsp, altsize  uintptr
	irq             uintptr // Interrupt being waited for, see interrupt.go
	syscalls, entry uint64
}

const _ = uint(pageSize - unsafe.Sizeof(thread{}))

func threadAt(id uint32) *thread { return (*thread)(ptr(threadSlot(id) + threadTop)) }

func (t *thread) addr() uintptr { return uintptr(unsafe.Pointer(t)) }

var threads struct {
	mu   spinlock
	free uint32 // list of dead threads' slots
	n    uint32 // slots ever used; ids are 1 to n
	live atomic.Int32
}

// newThread makes a thread, not yet runnable. It returns nil when there are too
// many or no memory is left.
func newThread() *thread {
	threads.mu.lock()
	id := threads.free
	if id != 0 {
		threads.free = threadAt(id).qnext
	} else if threads.n+1 < maxThreads {
		id = threads.n + 1
		slot := threadSlot(id)
		if !mapNew(slot+threadStack, threadSlotSize-threadStack, kernelData) {
			threads.mu.unlock()
			return nil
		}
		threads.n = id
	}
	threads.mu.unlock()
	if id == 0 {
		return nil
	}
	t := threadAt(id)
	*t = thread{id: id, ktop: threadSlot(id) + threadTop, pin: -1}
	threads.live.Add(1)
	return t
}

func freeThread(t *thread) {
	atomic.StoreUint32(&t.state, threadFree)
	threads.live.Add(-1)
	threads.mu.lock()
	t.qnext = threads.free
	threads.free = t.id
	threads.mu.unlock()
}

// tidBase keeps thread ids apart from the process id, 1.
const tidBase = 1000

func (t *thread) tid() uintptr { return tidBase + uintptr(t.id) }

// threadByTID returns a live thread, or nil.
func threadByTID(tid uintptr) *thread {
	if tid <= tidBase || tid-tidBase > uintptr(threads.n) {
		return nil
	}
	t := threadAt(uint32(tid - tidBase))
	if s := atomic.LoadUint32(&t.state); s == threadFree || s == threadDead {
		return nil
	}
	return t
}

// Linux's clone flag for a new FS base (include/uapi/linux/sched.h).
const cloneSetTLS = 0x80000

// clone starts a thread that returns 0 from the same system call on another stack.
func clone(f *sysFrame) uintptr {
	t := newThread()
	if t == nil {
		return errno(eagain)
	}
	me := this().current()
	nf := (*sysFrame)(ptr(t.ktop - sysFrameSize))
	*nf = *f
	nf.ax, nf.sp, nf.fpu = 0, f.si, 0
	if f.di&cloneSetTLS != 0 {
		t.fs = f.r8
	} else {
		t.fs = me.fs
	}
	t.mask = me.mask
	t.lastCPU = uint32(this().index)
	t.startAt(addrNewThreadReturn(), t.ktop-sysFrameSize)
	tid := t.tid()
	atomic.StoreUint32(&t.state, threadRunnable)
	enqueue(chooseCPU(t), t)
	return tid
}

// startAt prepares the thread's stack so that the first switch to it goes to pc
// with its stack pointer at sp.
func (t *thread) startAt(pc, sp uintptr) {
	st64(sp-16, 0) // BP
	st64(sp-8, uint64(pc))
	t.ksp = sp - 16
}

func exitThread() {
	me := this().current()
	atomic.StoreUint32(&me.state, threadDead)
	schedule()
}
