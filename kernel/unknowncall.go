package kernel

import "sync/atomic"

// unknownCalls has a bit for each system call that this kernel has never heard of and
// the program made all the same, as a newer Go's runtime may. The last bit stands for
// all numbers beyond the table. The log tells of each once, and every report of them.
var unknownCalls [numSyscalls / 64]atomic.Uint64

// noteUnknownCall runs in the kernel.
func noteUnknownCall(n uintptr) {
	if !firstUnknown(n) {
		return
	}
	var line [128]byte
	b := append(line[:0], "kernel: the program made system call "...)
	b = appendUint(b, uint64(n))
	b = append(b, ", which this kernel does not know: ENOSYS\n"...)
	logWrite(b)
}

// firstUnknown notes a number, and reports whether it is new.
func firstUnknown(n uintptr) bool {
	n = min(n, numSyscalls-1)
	bit := uint64(1) << (n % 64)
	return unknownCalls[n/64].Or(bit)&bit == 0
}

// appendUint appends v in decimal; b has room.
func appendUint(b []byte, v uint64) []byte {
	if v >= 10 {
		b = appendUint(b, v/10)
	}
	return append(b, '0'+byte(v%10))
}

// printUnknownCalls is a report's line of them.
func printUnknownCalls() {
	any := false
	for n := range uintptr(numSyscalls) {
		if unknownCalls[n/64].Load()>>(n%64)&1 == 0 {
			continue
		}
		if !any {
			print1("system calls that the program made and this kernel does not know:")
			any = true
		}
		print1(" ")
		printUint(uint64(n))
		if n == numSyscalls-1 {
			print1(" or above")
		}
	}
	if any {
		print1("\n")
	}
}
