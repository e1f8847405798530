package kernel

import (
	"runtime"
	"sync"
	"unsafe"
)

// NumCPU is how many CPUs are online. They are numbered from 0, the boot CPU.
func NumCPU() int { return int(ncpu) }

// OnEachCPU runs f once on every CPU, in a goroutine whose thread is pinned
// there, and waits for all of them. The calls may run in parallel.
func OnEachCPU(f func(cpu int)) {
	if !Running() {
		f(0)
		return
	}
	var wg sync.WaitGroup
	for i := range NumCPU() {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			Pin(i)
			defer Pin(-1)
			f(i)
		})
	}
	wg.Wait()
}

// Pin moves the calling goroutine's thread to a CPU and keeps it there until
// Pin(-1). The goroutine must have called runtime.LockOSThread.
func Pin(cpu int) {
	if cpu >= NumCPU() {
		panic("kernel: Pin to a CPU that does not exist")
	}
	a := pinCall{int32(max(cpu, -1))}
	Privileged(pinThread, unsafe.Pointer(&a))
}
