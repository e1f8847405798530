// Command godwit is the host image. Linked at a fixed address and wrapped by
// package boot it boots on bare hardware; started on Linux it only says so.
package main

import (
	"context"
	"fmt"
	"os"

	"godwit/kernel"
)

func main() {
	if !kernel.Running() {
		fmt.Fprintln(os.Stderr, "godwit is a host image, not a Linux program: build it with `make image` and boot build/godwit.img")
		os.Exit(2)
	}
	newHost().run(context.Background())
}
