// Package kernel is the freestanding kernel under the Go runtime: it boots the
// machine's CPUs, owns its memory, interrupts and clocks, and answers in ring 0
// the Linux system calls that an unmodified Go runtime makes. It knows nothing
// about guests.
//
// docs/kernel.md has the picture. boot.go is the way from the first instruction to
// the Go runtime; entry_amd64.s and syscall.go take its calls, vectors_amd64.s,
// trap.go and interrupt.go what the hardware raises; sched.go runs threads, memory.go
// and vm.go own memory. Outside, privileged.go is what runs guests, and interrupt.go,
// mmio.go and physmemory.go what drivers need.
//
// The same program also links and starts as an ordinary Linux process, where
// Running reports false and only the pure parts of this package may be used.
package kernel
