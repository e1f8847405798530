package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
)

// segment describes one PT_LOAD of a synthetic program.
type segment struct {
	addr  uint64
	data  []byte
	extra uint64 // zeroed memory after data
	flags elf.ProgFlag
}

// program writes an ELF executable as the Go linker would.
func program(entry uint64, segs ...segment) []byte {
	var w bytes.Buffer
	binary.Write(&w, le, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: entry,
		Phoff: elfHeaderSize, Ehsize: elfHeaderSize, Phentsize: elfProgramSize, Phnum: uint16(len(segs)),
	})
	off := uint64(elfHeaderSize + elfProgramSize*len(segs))
	for _, s := range segs {
		binary.Write(&w, le, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(s.flags), Off: off, Vaddr: s.addr, Paddr: s.addr,
			Filesz: uint64(len(s.data)), Memsz: uint64(len(s.data)) + s.extra, Align: pageSize})
		off += uint64(len(s.data))
	}
	for _, s := range segs {
		w.Write(s.data)
	}
	return w.Bytes()
}

const testEntry = 0x111040

func goodSegments() []segment {
	return []segment{
		{0x110000, bytes.Repeat([]byte{0xcc}, 0x3000), 0, elf.PF_R | elf.PF_X},
		{0x113000, bytes.Repeat([]byte{0x11}, 0x1234), 0x54321, elf.PF_R | elf.PF_W},
	}
}

func link(t *testing.T) *Image {
	t.Helper()
	img, err := Link(bytes.NewReader(program(testEntry, goodSegments()...)))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestFlatImageIsWhatAMultibootLoaderExpects(t *testing.T) {
	img := link(t)
	h, err := ParseMultiboot(img.Flat)
	if err != nil {
		t.Fatal(err)
	}
	const fileEnd, bssEnd = 0x113000 + 0x1234, 0x113000 + 0x1234 + 0x54321
	want := MultibootHeader{0x1badb002, 0x10003, h.Checksum, 0x100100, 0x100000, fileEnd, bssEnd, stubAddress}
	if h != want {
		t.Errorf("header %+x, want %+x", h, want)
	}
	if len(img.Flat) != fileEnd-Base {
		t.Errorf("file has %#x bytes, the header promises %#x", len(img.Flat), fileEnd-Base)
	}
	if img.BSSEnd != bssEnd {
		t.Errorf("BSSEnd %#x, want %#x", img.BSSEnd, bssEnd)
	}
	for _, s := range goodSegments() {
		if !bytes.Equal(img.Flat[s.addr-Base:][:len(s.data)], s.data) {
			t.Errorf("segment at %#x is not where it is linked", s.addr)
		}
	}
}

func TestELFBootsThroughPVHAndNotThroughMultiboot(t *testing.T) {
	img := link(t)
	if _, err := ParseMultiboot(img.ELF); err != errNoMultiboot {
		t.Errorf("the ELF must not show a Multiboot header: QEMU would prefer it; got %v", err)
	}
	f, err := elf.NewFile(bytes.NewReader(img.ELF))
	if err != nil {
		t.Fatal(err)
	}
	var load, note *elf.Prog
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			load = p
		case elf.PT_NOTE:
			note = p
		}
	}
	if load == nil || note == nil {
		t.Fatalf("program headers %v, want one PT_LOAD and one PT_NOTE", f.Progs)
	}
	if load.Paddr != Base || load.Filesz != uint64(len(img.Flat)) || Base+load.Memsz != img.BSSEnd {
		t.Errorf("PT_LOAD %+v does not cover the image up to %#x", load.ProgHeader, img.BSSEnd)
	}
	n := make([]byte, note.Filesz)
	if _, err := note.ReadAt(n, 0); err != nil {
		t.Fatal(err)
	}
	if le.Uint32(n) != 4 || le.Uint32(n[4:]) != 8 || le.Uint32(n[8:]) != 18 || string(n[12:16]) != "Xen\x00" {
		t.Fatalf("note % x is not XEN_ELFNOTE_PHYS32_ENTRY", n)
	}
	entry := le.Uint64(n[16:])
	st, err := assembleStub(testEntry)
	if err != nil {
		t.Fatal(err)
	}
	if entry != uint64(st.pvhEntry) || entry != f.Entry {
		t.Errorf("PVH entry %#x, ELF entry %#x, stub's %#x: must agree", entry, f.Entry, st.pvhEntry)
	}
	body := make([]byte, load.Filesz)
	if _, err := load.ReadAt(body, 0); err != nil {
		t.Fatal(err)
	}
	flat := bytes.Clone(img.Flat)
	clear(flat[headerAddr-Base:][:multibootHeaderSize])
	if !bytes.Equal(body, flat) {
		t.Error("the ELF's bytes differ from the flat image's beyond the Multiboot header")
	}
}

// walk translates an address as the processor does (SDM vol. 3, 4.5), with 2 MiB pages only.
func walk(t *testing.T, flat []byte, va uint64) uint64 {
	t.Helper()
	table := uint64(PML4Address)
	for shift := 39; ; shift -= 9 {
		e := le.Uint64(flat[table-Base+8*(va>>shift&511):])
		if e&(pagePresent|pageWritable) != pagePresent|pageWritable {
			t.Fatalf("%#x: entry %#x at level of bit %d is not present and writable", va, e, shift)
		}
		if shift == 21 {
			if e&pageLarge == 0 {
				t.Fatalf("%#x: entry %#x is no large page", va, e)
			}
			return e&^(largePage-1)&(1<<52-1) | va&(largePage-1)
		}
		table = e & (1<<52 - 1) &^ (pageSize - 1)
	}
}

func TestFirstPageTablesMapFourGiBTwice(t *testing.T) {
	img := link(t)
	for pa := uint64(0); pa < 4<<30; pa += largePage {
		for _, va := range []uint64{pa + 0x123, DirectMap + pa + 0x123} {
			if got := walk(t, img.Flat, va); got != pa+0x123 {
				t.Fatalf("%#x maps to %#x, want %#x", va, got, pa+0x123)
			}
		}
	}
}

func TestLinkRefusesProgramsItCannotBoot(t *testing.T) {
	text := segment{0x110000, make([]byte, 0x2000), 0, elf.PF_R | elf.PF_X}
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"linked too low", program(0x10f000, segment{0x10f000, make([]byte, 16), 0, elf.PF_X}), "must lie between"},
		{"linked at the usual Linux address", program(0x8000010, segment{0x8000000, make([]byte, 64), 0, elf.PF_X}), "must lie between"},
		{"end wraps around", program(testEntry, text, segment{0x120000, nil, ^uint64(0) - 10, elf.PF_W}), "must lie between"},
		{"entry outside", program(0x113000, text), "no executable segment"},
		{"entry in data", program(0x113000, text, segment{0x113000, make([]byte, 16), 0, elf.PF_R | elf.PF_W}), "no executable segment"},
		{"nothing to load", program(testEntry), "no segments"},
		{"truncated", program(testEntry, text)[:0x800], "segment at 0x110000"},
		{"not an ELF", []byte("#!/bin/sh\n"), "read the program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Link(bytes.NewReader(c.file))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func FuzzLink(f *testing.F) {
	f.Add(program(testEntry, goodSegments()...))
	f.Add(program(testEntry))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, file []byte) {
		img, err := Link(bytes.NewReader(file))
		if err != nil {
			return
		}
		if _, err := ParseMultiboot(img.Flat); err != nil {
			t.Errorf("Link made an image that loaders refuse: %v", err)
		}
	})
}
