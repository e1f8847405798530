package emulate

import "unsafe"

// word64 and word32 view a page table entry in guest RAM. Entries are aligned:
// they are at multiples of their size in a page.
func word64(b *byte) *uint64 { return (*uint64)(unsafe.Pointer(b)) }
func word32(b *byte) *uint32 { return (*uint32)(unsafe.Pointer(b)) }
