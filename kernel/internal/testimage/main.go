// Command testimage is a host image with nothing but the kernel in it, for trying
// the kernel alone:
//
//	go run ./boot/mkimage -o /tmp/k -pkg ./kernel/internal/testimage
package main

import (
	"fmt"
	"os"
	"runtime"

	"godwit/kernel"
)

func main() {
	if !kernel.Running() {
		fmt.Fprintln(os.Stderr, "testimage is a host image: build it with boot/mkimage -pkg and boot it")
		os.Exit(2)
	}
	fmt.Println("godwit: ready,", runtime.Version(), runtime.NumCPU(), "CPUs, command line", kernel.CommandLine())
	fmt.Printf("%+v\n", kernel.Memory())
}
