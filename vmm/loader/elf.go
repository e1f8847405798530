package loader

import (
	"encoding/binary"
	"fmt"
)

const elfMagic = "\x7fELF"

// Constants of the System V ABI, chapters 4 and 5.
const (
	elfClass32 = 1
	elfClass64 = 2
	elfLSB     = 1
	emI386     = 3
	emX8664    = 62
	ptLoad     = 1
	ptNote     = 4
)

// maxSegments bounds the program headers of a kernel; real ones have under ten.
const maxSegments = 64

type segment struct {
	kind  uint32
	data  []byte // from the file
	vaddr uint64
	paddr uint64
	memsz uint64
}

// elfFile is the part of an ELF executable that loading needs.
type elfFile struct {
	entry    uint64
	bits     int
	segments []segment
}

func parseELF(b []byte) (*elfFile, error) {
	le := binary.LittleEndian
	if len(b) < 64 || string(b[:4]) != elfMagic {
		return nil, fmt.Errorf("not an ELF file")
	}
	if b[5] != elfLSB {
		return nil, fmt.Errorf("ELF data encoding %d is not little-endian", b[5])
	}
	e := &elfFile{}
	var off uint64
	var size, n, least int
	machine := le.Uint16(b[18:])
	switch b[4] {
	case elfClass32:
		e.bits, least = 32, 32
		e.entry, off = uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[28:]))
		size, n = int(le.Uint16(b[42:])), int(le.Uint16(b[44:]))
	case elfClass64:
		e.bits, least = 64, 56
		e.entry, off = le.Uint64(b[24:]), le.Uint64(b[32:])
		size, n = int(le.Uint16(b[54:])), int(le.Uint16(b[56:]))
	default:
		return nil, fmt.Errorf("ELF class %d is neither 32 nor 64 bit", b[4])
	}
	if machine != emI386 && machine != emX8664 {
		return nil, fmt.Errorf("ELF machine %d is not x86", machine)
	}
	if n == 0 || n > maxSegments || size < least {
		return nil, fmt.Errorf("%d program headers of %d bytes", n, size)
	}
	if off > uint64(len(b)) || uint64(size*n) > uint64(len(b))-off {
		return nil, fmt.Errorf("program headers at %#x lie outside the file", off)
	}
	for i := range n {
		p := b[off+uint64(i*size):]
		s := segment{kind: le.Uint32(p)}
		var from, filesz uint64
		if e.bits == 32 {
			from, s.vaddr, s.paddr = uint64(le.Uint32(p[4:])), uint64(le.Uint32(p[8:])), uint64(le.Uint32(p[12:]))
			filesz, s.memsz = uint64(le.Uint32(p[16:])), uint64(le.Uint32(p[20:]))
		} else {
			from, s.vaddr, s.paddr = le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[24:])
			filesz, s.memsz = le.Uint64(p[32:]), le.Uint64(p[40:])
		}
		if s.kind != ptLoad && s.kind != ptNote {
			continue
		}
		if from > uint64(len(b)) || filesz > uint64(len(b))-from {
			return nil, fmt.Errorf("segment %d: %#x bytes at %#x lie outside the file", i, filesz, from)
		}
		if s.kind == ptLoad && s.memsz < filesz {
			return nil, fmt.Errorf("segment %d: %#x bytes in memory, %#x in the file", i, s.memsz, filesz)
		}
		s.data = b[from : from+filesz]
		e.segments = append(e.segments, s)
	}
	return e, nil
}

// physicalEntry is where the entry point is loaded. The ABI has it as a virtual address,
// but there is no paging yet: of a kernel that is linked high it lies in a segment whose
// physical address is another. GRUB and QEMU take it likewise; one that lies in no segment
// is physical already.
func (e *elfFile) physicalEntry() uint64 {
	for _, s := range e.segments {
		if s.kind == ptLoad && e.entry >= s.vaddr && e.entry-s.vaddr < s.memsz {
			return e.entry - s.vaddr + s.paddr
		}
	}
	return e.entry
}

// load puts the PT_LOAD segments where their physical addresses say.
func (e *elfFile) load(l *load) error {
	some := false
	for _, s := range e.segments {
		if s.kind != ptLoad || s.memsz == 0 {
			continue
		}
		some = true
		if err := l.segment(s.paddr, s.data, s.memsz); err != nil {
			return err
		}
	}
	if !some {
		return fmt.Errorf("nothing to load")
	}
	return nil
}

// segment places data at paddr and zeroes up to memsz.
func (l *load) segment(paddr uint64, data []byte, memsz uint64) error {
	if err := l.places.claim("kernel segment", paddr, memsz); err != nil {
		return err
	}
	if paddr+memsz > 4<<30 {
		return fmt.Errorf("kernel segment %#x+%#x is not below 4 GiB", paddr, memsz)
	}
	if err := l.write("kernel segment", paddr, data); err != nil {
		return err
	}
	if n := uint64(len(data)); memsz > n {
		return l.ram.Zero(paddr+n, memsz-n)
	}
	return nil
}
