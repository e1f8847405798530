package vmm

import (
	"fmt"

	"godwit/vmm/loader"
	"godwit/vmm/mem"
	"godwit/vmm/slat"
)

// The guest-physical address space. RAM begins at 0 and leaves a hole below
// 4 GiB for PCI windows, IOAPIC and local APICs, as on any PC.
const (
	chunkSize = 2 << 20 // the granule of RAM
	hugeSize  = 1 << 30

	lowLimit  = 3 << 30
	highStart = 4 << 30
	pageSize  = slat.PageSize

	ebdaStart = 0x9fc00 // end of conventional memory
	romStart  = 0xe0000 // ACPI tables
	romEnd    = 0x100000
)

// ram is a guest's memory. Its shape never changes after newRAM, so that it is
// read without locks.
type ram struct {
	size   uint64
	blocks []mem.Block
	chunks []chunk // by address / chunkSize
	alloc  mem.Allocator
	tables *slat.Tables
}

// chunk is 2 MiB of guest memory; data is nil in holes.
type chunk struct {
	data  *[chunkSize]byte
	block uint32 // index in blocks
}

// regions of RAM, as the second-level tables and a migration see it.
func ramRegions(size uint64) []loader.Region {
	low := min(size, lowLimit)
	r := []loader.Region{{Start: 0, Size: low, Type: loader.Usable}}
	if size > low {
		r = append(r, loader.Region{Start: highStart, Size: size - low, Type: loader.Usable})
	}
	return r
}

// memoryMap is what the guest is told.
func memoryMap(size uint64) []loader.Region {
	m := []loader.Region{
		{Start: 0, Size: ebdaStart, Type: loader.Usable},
		{Start: ebdaStart, Size: 0xa0000 - ebdaStart, Type: loader.Reserved},
		{Start: romStart, Size: romEnd - romStart, Type: loader.Reserved},
	}
	for _, r := range ramRegions(size) {
		if r.Start == 0 {
			r.Start, r.Size = romEnd, r.Size-romEnd
		}
		m = append(m, r)
	}
	return m
}

// ramEnd is the first address after RAM.
func ramEnd(size uint64) uint64 {
	r := ramRegions(size)
	return r[len(r)-1].End()
}

// newRAM reserves size bytes: 1 GiB blocks where the guest's addresses and the
// host's memory allow and huge says that the processor has use for them, else
// 2 MiB ones.
func newRAM(a mem.Allocator, size uint64, huge bool) (*ram, error) {
	if b, ok := a.(mem.Bounded); ok {
		if err := b.Fits(size); err != nil {
			return nil, fmt.Errorf("no memory for the machine: %w; give it less with mem=, or delete others", err)
		}
	}
	r := &ram{size: size, alloc: a, chunks: make([]chunk, ramEnd(size)/chunkSize)}
	for _, reg := range ramRegions(size) {
		for at := reg.Start; at < reg.End(); {
			b, err := r.allocate(at, reg.End()-at, huge)
			if err != nil {
				found := r.total()
				r.free()
				return nil, fmt.Errorf("no memory for the machine (%d of %d MiB found): %w; give it less with mem=, or delete others", found>>20, size>>20, err)
			}
			n := uint32(len(r.blocks))
			r.blocks = append(r.blocks, b)
			for off := uint64(0); off < uint64(len(b.Data)); off += chunkSize {
				r.chunks[(at+off)/chunkSize] = chunk{(*[chunkSize]byte)(b.Data[off:]), n}
			}
			at += uint64(len(b.Data))
		}
	}
	return r, nil
}

func (r *ram) allocate(at, left uint64, huge bool) (mem.Block, error) {
	if huge && at%hugeSize == 0 && left >= hugeSize {
		if b, err := r.alloc.Alloc(hugeSize, hugeSize); err == nil {
			return b, nil
		}
	}
	return r.alloc.Alloc(chunkSize, chunkSize)
}

func (r *ram) total() (n uint64) {
	for _, b := range r.blocks {
		n += uint64(len(b.Data))
	}
	return n
}

func (r *ram) free() {
	for _, b := range r.blocks {
		r.alloc.Free(b)
	}
	r.blocks, r.chunks = nil, nil
}

// page is the host's view of the page at gpa, nil if that is not RAM.
func (r *ram) page(gpa uint64) *[pageSize]byte {
	i := gpa / chunkSize
	if i >= uint64(len(r.chunks)) || r.chunks[i].data == nil {
		return nil
	}
	return (*[pageSize]byte)(r.chunks[i].data[gpa%chunkSize&^(pageSize-1):])
}

// mapAt makes the block around gpa reachable for the guest; false if that is
// not RAM.
func (r *ram) mapAt(gpa uint64) (bool, error) {
	i := gpa / chunkSize
	if i >= uint64(len(r.chunks)) || r.chunks[i].data == nil {
		return false, nil
	}
	b := &r.blocks[r.chunks[i].block]
	size := uint64(len(b.Data))
	return true, r.tables.Map(gpa&^(size-1), b.Phys, size, slat.PermRWX, slat.WriteBack)
}

// each calls f for the pieces of [gpa, gpa+n); false if not all of it is RAM,
// and then f has not been called.
func (r *ram) each(gpa, n uint64, f func(p []byte)) bool {
	if gpa+n < gpa {
		return false
	}
	for at := gpa &^ (chunkSize - 1); at < gpa+n; at += chunkSize {
		if i := at / chunkSize; i >= uint64(len(r.chunks)) || r.chunks[i].data == nil {
			return false
		}
	}
	for n > 0 {
		off := gpa % chunkSize
		m := min(n, chunkSize-off)
		f(r.chunks[gpa/chunkSize].data[off : off+m])
		gpa, n = gpa+m, n-m
	}
	return true
}

// WriteAt implements loader.RAM, and is how devices and clocks write.
func (r *ram) WriteAt(p []byte, gpa uint64) error {
	n := uint64(len(p))
	if !r.each(gpa, n, func(d []byte) { p = p[copy(d, p):] }) {
		return notRAM(gpa, n)
	}
	r.wrote(gpa, n)
	return nil
}

// ReadAt fills p from gpa on.
func (r *ram) ReadAt(p []byte, gpa uint64) error {
	if !r.each(gpa, uint64(len(p)), func(d []byte) { p = p[copy(p, d):] }) {
		return notRAM(gpa, uint64(len(p)))
	}
	return nil
}

// Zero implements loader.RAM.
func (r *ram) Zero(gpa, n uint64) error {
	if !r.each(gpa, n, func(d []byte) { clear(d) }) {
		return notRAM(gpa, n)
	}
	r.wrote(gpa, n)
	return nil
}

// wrote records a write by the host, after it was made.
func (r *ram) wrote(gpa, n uint64) {
	if r.tables != nil {
		r.tables.MarkDirty(gpa, n)
	}
}

func notRAM(gpa, n uint64) error { return fmt.Errorf("%#x+%#x is not all RAM", gpa, n) }
