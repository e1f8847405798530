// Command godwit is the host image. Linked at a fixed address and wrapped by
// package boot it boots on bare hardware; started on Linux it only says so. host.go
// brings a host up; each file named after a command has what the console serves.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"godwit/kernel"
)

func main() {
	if !kernel.Running() {
		fmt.Fprintln(os.Stderr, "godwit is a host image, not a Linux program: build it with `make image` and boot build/godwit.img")
		os.Exit(2)
	}
	// A goroutine in a system call, and a guest's processor is in one as long as the guest runs, keeps its P until the
	// runtime's monitor takes it away, 20 us to 10 ms later. With a P for each guest that a CPU can run at a moment, and
	// some to spare, what an interrupt wakes finds one at once.
	runtime.GOMAXPROCS(2*runtime.NumCPU() + 2)
	newHost().run(context.Background())
}
