// Package kernel is the freestanding kernel under the Go runtime: it boots the
// machine's CPUs, owns its memory, interrupts and clocks, and answers in ring 0
// the Linux system calls that an unmodified Go runtime makes. It knows nothing
// about guests.
//
// The same program also links and starts as an ordinary Linux process, where
// Running reports false and only the pure parts of this package may be used.
package kernel
