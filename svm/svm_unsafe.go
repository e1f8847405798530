package svm

import "unsafe"

// viewVMCB sees a page of host memory as a VMCB.
func viewVMCB(b []byte) *vmcb {
	return (*vmcb)(unsafe.Pointer((*[unsafe.Sizeof(vmcb{})]byte)(b)))
}

// addressOf is for memory outside the Go heap, which does not move.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
