// Command testimage is a host image with nothing but the kernel in it, for trying
// the kernel alone:
//
//	go run ./boot/mkimage -o /tmp/k -pkg ./kernel/internal/testimage
//
// The command line says what it does: selftest=SECONDS, and only=PART,PART.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"godwit/kernel"
	"godwit/kernel/selftest"
)

func main() {
	if !kernel.Running() {
		fmt.Fprintln(os.Stderr, "testimage is a host image: build it with boot/mkimage -pkg and boot it")
		os.Exit(2)
	}
	fmt.Printf("godwit: ready after %v: %s, %d CPUs, TSC %d Hz, %s\n", time.Duration(kernel.Nanotime()), runtime.Version(), runtime.NumCPU(), kernel.TSCFrequency(), time.Now())
	fmt.Printf("%+v\n", kernel.Memory())
	o := selftest.Options{Progress: func(l string) { fmt.Println(l) }}
	for word := range strings.FieldsSeq(kernel.CommandLine()) {
		switch key, val, _ := strings.Cut(word, "="); key {
		case "selftest":
			n, _ := strconv.Atoi(val)
			o.Duration = time.Duration(n) * time.Second
		case "only":
			o.Only = val
		}
	}
	if o.Duration > 0 {
		r, err := selftest.Run(o)
		fmt.Println(r, err)
		fmt.Printf("%+v\n", kernel.Memory())
	}
}
