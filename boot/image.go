package boot

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
)

// EntrySymbol is the program's first function. The linker's -E takes the assembly (ABI0) body for this name; in the
// symbol table that body has the suffix ".abi0" when a wrapper for Go callers exists beside it.
const EntrySymbol = "godwit/kernel.Entry"

// LinkerFlags returns what `go build -ldflags` needs for a program that Link accepts. Functions begin at multiples of 16
// bytes, not the usual 32, which makes the image 88 KiB smaller.
func LinkerFlags(entrySymbol string) string {
	return fmt.Sprintf("-T %#x -E %s -funcalign 16", TextAddress, entrySymbol)
}

// Image is one linked host image in its two containers.
type Image struct {
	Flat   []byte
	ELF    []byte
	Entry  uint64 // the program's entry
	BSSEnd uint64 // first physical address the image does not use
}

// maxEnd bounds the image: the first page tables reach 4 GiB, but a host must fit in small machines.
const maxEnd = 128 << 20

// Link puts the boot head in front of the program in r, an ELF executable linked with LinkerFlags.
func Link(r io.ReaderAt) (*Image, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return nil, fmt.Errorf("the program is %v %v %v; build it with GOARCH=amd64 CGO_ENABLED=0 and no -buildmode=pie", f.Class, f.Machine, f.Type)
	}
	flat, end, err := loadSegments(f)
	if err != nil {
		return nil, err
	}
	st, err := assembleStub(uint32(f.Entry))
	if err != nil {
		return nil, err
	}
	if len(st.code) > stubEnd-stubAddress {
		return nil, fmt.Errorf("the stub has %d bytes, room is for %d", len(st.code), stubEnd-stubAddress)
	}
	writeTables(flat)
	writeGDT(flat)
	copy(flat[stubAddress-Base:], st.code)

	// QEMU prefers Multiboot when it finds that header, so the ELF is wrapped before the header is written.
	img := &Image{Entry: f.Entry, BSSEnd: end, ELF: wrapELF(flat, end, st.pvhEntry)}
	newMultibootHeader(Base+uint32(len(flat)), uint32(end), st.multibootEntry).put(flat[headerAddr-Base:])
	img.Flat = flat
	return img, nil
}

// loadSegments returns memory from Base to the end of the program's file bytes, and the end of its zeroed memory.
func loadSegments(f *elf.File) (flat []byte, end uint64, err error) {
	var fileEnd uint64
	executable := false
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Paddr != p.Vaddr {
			return nil, 0, fmt.Errorf("segment at %#x has physical address %#x; they must be equal", p.Vaddr, p.Paddr)
		}
		if p.Paddr < ProgramStart || p.Filesz > p.Memsz || p.Memsz > maxEnd || p.Paddr > maxEnd-p.Memsz {
			return nil, 0, fmt.Errorf("segment at %#x, %#x bytes: must lie between %#x and %#x; link with %q",
				p.Paddr, p.Memsz, ProgramStart, maxEnd, LinkerFlags(EntrySymbol))
		}
		fileEnd = max(fileEnd, p.Paddr+p.Filesz)
		end = max(end, p.Paddr+p.Memsz)
		if p.Flags&elf.PF_X != 0 && f.Entry >= p.Paddr && f.Entry-p.Paddr < p.Filesz {
			executable = true
		}
	}
	if fileEnd == 0 {
		return nil, 0, errors.New("the program has no segments to load")
	}
	if !executable {
		return nil, 0, fmt.Errorf("entry %#x lies in no executable segment", f.Entry)
	}
	flat = make([]byte, fileEnd-Base)
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if _, err := io.ReadFull(p.Open(), flat[p.Paddr-Base:][:p.Filesz]); err != nil {
			return nil, 0, fmt.Errorf("segment at %#x: %w", p.Paddr, err)
		}
	}
	return flat, end, nil
}
