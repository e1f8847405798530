package vmm

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// futex(2) operations.
const (
	futexWait    = 0
	futexWake    = 1
	futexPrivate = 128
)

// sleep waits until wake is called or ns have passed (negative: no limit), but
// not at all if *word is not zero. It costs one system call and no allocation,
// and is as exact as the kernel's timer, which a Go channel and timer are not:
// the runtime's poller rounds its waits up to a millisecond.
func sleep(word *atomic.Uint32, ns int64) {
	var limit *syscall.Timespec
	if ns >= 0 {
		t := syscall.NsecToTimespec(ns)
		limit = &t
	}
	syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait|futexPrivate, 0, uintptr(unsafe.Pointer(limit)), 0, 0)
}

// wake ends a sleep on word.
func wake(word *atomic.Uint32) {
	syscall.RawSyscall(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake|futexPrivate, 1)
}

// giveWay lets other threads have this CPU, if any wait for it.
var giveWay = func() { syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
