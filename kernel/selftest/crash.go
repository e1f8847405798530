package selftest

import (
	"fmt"
	"reflect"
	"strings"
	"unsafe"

	"godwit/kernel"
)

// A crashKind is one way for the host's Go code to end the machine.
type crashKind struct {
	name string
	do   func()
}

var crashKinds = []crashKind{
	{"nil", func() { *(*int)(nowhere(0)) = 1 }},
	{"wild", func() { *(*int)(nowhere(0x123456789000)) = 1 }},
	{"text", func() { *(*byte)(nowhere(reflect.ValueOf(deep).Pointer())) = 0xc3 }},
	{"divide", func() { sum = 1 / zero }},
	{"stack", func() { sum = deep(1) }},
	{"memory", eat},
	{"kernel", func() { kernel.Privileged(wildInKernel, nil) }},
	{"kernelstack", func() { kernel.Privileged(deepInKernel, nil) }},
}

// CrashKinds lists what Crash takes: a write through a nil pointer, through a wild one and to code; a division by zero;
// recursion without end; more memory than there is; and a wild pointer and recursion inside the kernel.
func CrashKinds() []string {
	var names []string
	for _, k := range crashKinds {
		names = append(names, k.name)
	}
	return names
}

// Crash ends the machine in one of the ways that a report must show. It returns only for an unknown kind, and on Linux.
func Crash(kind string) error {
	for _, k := range crashKinds {
		if k.name != kind {
			continue
		}
		if !kernel.Running() {
			return fmt.Errorf("selftest: crash %s: not on a bare machine", kind)
		}
		// In a goroutine of its own, so that nobody who called can recover.
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.do()
		}()
		<-done
	}
	return fmt.Errorf("selftest: no crash %q; there are %s", kind, strings.Join(CrashKinds(), ", "))
}

var sum, zero int

func nowhere(address uintptr) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), address) }

func eat() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		sum = len(all)
	}
}

func deep(n int) int {
	var a [100]int
	a[n%100] = deep(n + 1)
	return a[n%50]
}

func wildInKernel(unsafe.Pointer) { *(*int)(nowhere(0x10)) = 1 }

func deepInKernel(unsafe.Pointer) { sum = deep(1) }
