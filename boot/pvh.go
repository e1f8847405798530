package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// PVHMagic begins hvm_start_info (PVH, start_info.h: XEN_HVM_START_MAGIC_VALUE); the stub puts it in RSI.
const PVHMagic = 0x336ec578

// The PVH entry is named by a note of owner "Xen" (public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY).
const (
	noteOwner       = "Xen\x00"
	notePhys32Entry = 18
	noteSize        = 12 + len(noteOwner) + 8

	elfHeaderSize  = 64 // ELF 4: Elf64_Ehdr
	elfProgramSize = 56 // ELF 5: Elf64_Phdr
	elfImageOffset = pageSize
)

// wrapELF returns an ELF whose one segment is img, cleared up to end, and whose note names the PVH entry.
func wrapELF(img []byte, end uint64, entry uint32) []byte {
	const noteOffset = elfHeaderSize + 2*elfProgramSize
	var w bytes.Buffer
	put := func(v any) { binary.Write(&w, le, v) } // a bytes.Buffer takes everything, and the types have fixed sizes

	put(elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: uint64(entry), Phoff: elfHeaderSize, Ehsize: elfHeaderSize, Phentsize: elfProgramSize, Phnum: 2,
	})
	put(elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Off: elfImageOffset, Align: pageSize,
		Vaddr: Base, Paddr: Base, Filesz: uint64(len(img)), Memsz: end - Base,
	})
	put(elf.Prog64{
		Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R), Off: noteOffset, Align: 4,
		Filesz: uint64(noteSize), Memsz: uint64(noteSize),
	})
	put([]uint32{uint32(len(noteOwner)), 8, notePhys32Entry})
	w.WriteString(noteOwner)
	put(uint64(entry))
	w.Write(make([]byte, elfImageOffset-w.Len()))
	w.Write(img)
	return w.Bytes()
}
