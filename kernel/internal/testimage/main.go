// Command testimage is a host image with nothing but the kernel in it, for trying
// the kernel alone:
//
//	go run ./boot/mkimage -o /tmp/k -pkg ./kernel/internal/testimage
//
// The command line says what it does: selftest=SECONDS, only=PART,PART, crash=KIND,
// off=1, and bench=1, which under QEMU's -icount shift=0 counts instructions.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"godwit/kernel"
	"godwit/kernel/selftest"
)

func main() {
	if !kernel.Running() {
		fmt.Fprintln(os.Stderr, "testimage is a host image: build it with boot/mkimage -pkg and boot it")
		os.Exit(2)
	}
	runtime.GOMAXPROCS(2*runtime.NumCPU() + 2) // as the host does
	fmt.Printf("godwit: ready after %v: %s, %d CPUs, TSC %d Hz, %s\n", time.Duration(kernel.Nanotime()), runtime.Version(), runtime.NumCPU(), kernel.TSCFrequency(), time.Now())
	fmt.Printf("%+v\n", kernel.Memory())
	o := selftest.Options{Progress: func(l string) { fmt.Println(l) }}
	for word := range strings.FieldsSeq(kernel.CommandLine()) {
		switch key, val, _ := strings.Cut(word, "="); key {
		case "selftest":
			n, _ := strconv.Atoi(val)
			o.Duration = time.Duration(n) * time.Second
		case "crash":
			fmt.Println(selftest.Crash(val))
		case "bench":
			bench()
		case "off":
			kernel.PowerOff()
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

func nothing(unsafe.Pointer) {}

// bench tells what the kernel's ways in and out cost, in TSC ticks.
func bench() {
	const n = 1000
	for _, b := range []struct {
		name string
		f    func()
	}{
		{"Privileged", func() { kernel.Privileged(nothing, nil) }},
		{"getpid", func() { syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0) }},
		{"gosched", runtime.Gosched},
	} {
		for range n / 10 {
			b.f()
		}
		t := kernel.TSC()
		for range n {
			b.f()
		}
		fmt.Printf("%s: %d ticks\n", b.name, (kernel.TSC()-t)/n)
	}
	m, err := syscall.Mmap(-1, 0, n*4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		fmt.Println(err)
		return
	}
	t := kernel.TSC()
	for i := range n {
		m[i*4096] = 1
	}
	fmt.Printf("page fault: %d ticks\n", (kernel.TSC()-t)/n)
}
