package e1000

import (
	"sync/atomic"
	"unsafe"
)

func ptr(b []byte) unsafe.Pointer { return unsafe.Pointer(&b[0]) }

// storeStatus is how the device finishes a descriptor: status last.
func storeStatus(p *uint32, v uint32) { atomic.StoreUint32(p, v) }
