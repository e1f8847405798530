package slat

import "unsafe"

// entriesOf views a page as a table of entries.
func entriesOf(b []byte) *[perTable]uint64 {
	return (*[perTable]uint64)(unsafe.Pointer((*[tableSize]byte)(b)))
}
