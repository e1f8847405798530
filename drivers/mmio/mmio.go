// Package mmio reads and writes device registers in a mapped window.
//
// Every access is one load or store of exactly its size. sync/atomic would not
// do: its stores are XCHG on amd64, which also reads the register, and reading
// a device's register can change it.
package mmio

import "unsafe"

// A Window is a device's registers, mapped uncached. An access outside it, or
// one not aligned to its size, panics: offsets are the driver's, never a
// guest's or the device's.
type Window []byte

func (w Window) Read8(off uint64) uint8   { return load8((*uint8)(w.at(off, 1))) }
func (w Window) Read16(off uint64) uint16 { return load16((*uint16)(w.at(off, 2))) }
func (w Window) Read32(off uint64) uint32 { return load32((*uint32)(w.at(off, 4))) }
func (w Window) Read64(off uint64) uint64 { return load64((*uint64)(w.at(off, 8))) }

func (w Window) Write8(off uint64, v uint8)   { store8((*uint8)(w.at(off, 1)), v) }
func (w Window) Write16(off uint64, v uint16) { store16((*uint16)(w.at(off, 2)), v) }
func (w Window) Write32(off uint64, v uint32) { store32((*uint32)(w.at(off, 4)), v) }
func (w Window) Write64(off uint64, v uint64) { store64((*uint64)(w.at(off, 8)), v) }

func (w Window) at(off, size uint64) unsafe.Pointer {
	if off&(size-1) != 0 {
		panic("mmio: unaligned register access")
	}
	return unsafe.Pointer(&w[off : off+size][0])
}

// The accessors are calls the compiler cannot see into, so it can neither drop,
// merge nor reorder them. amd64 itself keeps stores in order.

//go:noinline
func load8(p *uint8) uint8 { return *p }

//go:noinline
func load16(p *uint16) uint16 { return *p }

//go:noinline
func load32(p *uint32) uint32 { return *p }

//go:noinline
func load64(p *uint64) uint64 { return *p }

//go:noinline
func store8(p *uint8, v uint8) { *p = v }

//go:noinline
func store16(p *uint16, v uint16) { *p = v }

//go:noinline
func store32(p *uint32, v uint32) { *p = v }

//go:noinline
func store64(p *uint64, v uint64) { *p = v }
