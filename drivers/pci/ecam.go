package pci

import (
	"encoding/binary"
	"fmt"
	"sync"

	"godwit/drivers/mmio"
)

// A Mapper maps device memory uncached. Mapping the same window again returns
// the same mapping.
type Mapper func(phys, size uint64) ([]byte, error)

// ecamRange is one entry of the MCFG table: buses [first, last] of a segment.
type ecamRange struct {
	base        uint64 // where bus 0 of the segment would be
	segment     uint16
	first, last uint8
}

// MCFG, PCI Firmware Specification 3.0, 4.1.2, table 4-2 and 4-3.
const (
	mcfgHeader = 44 // ACPI table header and eight reserved bytes
	mcfgEntry  = 16
)

func parseMCFG(table []byte) ([]ecamRange, error) {
	if len(table) < mcfgHeader || (len(table)-mcfgHeader)%mcfgEntry != 0 {
		return nil, fmt.Errorf("pci: ACPI MCFG table of %d bytes is malformed", len(table))
	}
	var ranges []ecamRange
	for e := table[mcfgHeader:]; len(e) > 0; e = e[mcfgEntry:] {
		r := ecamRange{
			base:    binary.LittleEndian.Uint64(e),
			segment: binary.LittleEndian.Uint16(e[8:]),
			first:   e[10],
			last:    e[11],
		}
		if r.first > r.last || r.base == 0 || r.base&(1<<20-1) != 0 || r.base>>52 != 0 || (r.base+uint64(r.last)<<20)>>52 != 0 {
			return nil, fmt.Errorf("pci: ACPI MCFG entry for segment %d, buses %d to %d at %#x is malformed",
				r.segment, r.first, r.last, r.base)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// ecam is the enhanced configuration access mechanism, PCIe 7.2.2: 4 KiB a
// function, 1 MiB a bus. Buses are mapped when first used.
type ecam struct {
	ranges []ecamRange
	mapper Mapper

	mu    sync.Mutex
	buses map[busKey]mmio.Window // nil: could not be mapped
}

type busKey struct {
	segment uint16
	bus     uint8
}

// ECAM returns access through the windows the ACPI table MCFG tells of.
func ECAM(mcfg []byte, m Mapper) (Config, error) {
	ranges, err := parseMCFG(mcfg)
	if err != nil {
		return nil, err
	}
	return &ecam{ranges: ranges, mapper: m, buses: map[busKey]mmio.Window{}}, nil
}

func (e *ecam) bus(a Address) mmio.Window {
	key := busKey{a.Segment, a.Bus}
	e.mu.Lock()
	defer e.mu.Unlock()
	w, known := e.buses[key]
	if known {
		return w
	}
	for _, r := range e.ranges {
		if r.segment == a.Segment && r.first <= a.Bus && a.Bus <= r.last {
			if b, err := e.mapper(r.base+uint64(a.Bus)<<20, 1<<20); err == nil && len(b) >= 1<<20 {
				w = b
			}
			break
		}
	}
	e.buses[key] = w
	return w
}

func (e *ecam) Size(a Address) int {
	if e.bus(a) == nil {
		return 0
	}
	return extendedSize
}

func (e *ecam) Read(a Address, off, size int) uint32 {
	if !reachable(a, off, size, extendedSize) {
		return allOnes(size)
	}
	w := e.bus(a)
	if w == nil {
		return allOnes(size)
	}
	at := uint64(a.Device)<<15 | uint64(a.Function)<<12 | uint64(off)
	switch size {
	case 1:
		return uint32(w.Read8(at))
	case 2:
		return uint32(w.Read16(at))
	}
	return w.Read32(at)
}

func (e *ecam) Write(a Address, off, size int, v uint32) {
	if !reachable(a, off, size, extendedSize) {
		return
	}
	w := e.bus(a)
	if w == nil {
		return
	}
	at := uint64(a.Device)<<15 | uint64(a.Function)<<12 | uint64(off)
	switch size {
	case 1:
		w.Write8(at, uint8(v))
	case 2:
		w.Write16(at, uint16(v))
	default:
		w.Write32(at, v)
	}
}
