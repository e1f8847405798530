package svm

import "unsafe"

// viewVMCB sees a page of host memory as a VMCB.
func viewVMCB(b []byte) *vmcb {
	return (*vmcb)(unsafe.Pointer((*[unsafe.Sizeof(vmcb{})]byte)(b)))
}

// direct reads 8 bytes of host memory through the direct map. phys comes from our
// own tables, which hold nothing but RAM the kernel gave.
func direct(base uintptr, phys uint64) uint64 {
	p := base + uintptr(phys)
	return **(**uint64)(unsafe.Pointer(&p))
}

// directPage is the direct map's view of a page.
func directPage(base uintptr, phys uint64) *[4096]byte {
	p := base + uintptr(phys)
	return *(**[4096]byte)(unsafe.Pointer(&p))
}

// wordOf is the aligned word of a page that holds the byte at gpa.
func wordOf(p *[4096]byte, gpa uint64) *uint32 { return (*uint32)(unsafe.Pointer(&p[gpa&0xffc])) }

// tableOf sees a page as page-table entries.
func tableOf(p *[4096]byte) *[512]uint64 { return (*[512]uint64)(unsafe.Pointer(p)) }

// addressOf is for memory outside the Go heap, which does not move.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
