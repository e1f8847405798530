package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"godwit/vmm/vcpu"
)

var le = binary.LittleEndian

// testRAM is 64 MiB with a hole below 1 MiB, as a machine's map has it.
type testRAM struct{ b []byte }

const testMem = 64 << 20

func newRAM() *testRAM { return &testRAM{bytes.Repeat([]byte{0xaa}, testMem)} }

func testMap() []Region {
	return []Region{
		{0, 0xa0000, Usable},
		{0xe0000, 0x20000, Reserved},
		{1 << 20, testMem - 1<<20, Usable},
	}
}

func (r *testRAM) WriteAt(p []byte, gpa uint64) error {
	if gpa > testMem || uint64(len(p)) > testMem-gpa {
		return fmt.Errorf("%#x+%#x is not RAM", gpa, len(p))
	}
	copy(r.b[gpa:], p)
	return nil
}

func (r *testRAM) Zero(gpa, n uint64) error { return r.WriteAt(make([]byte, n), gpa) }

func (r *testRAM) str(gpa uint64) string {
	s, _, _ := bytes.Cut(r.b[gpa:], []byte{0})
	return string(s)
}

func testBzImage() []byte {
	b := make([]byte, 5*512+0x1000)
	b[hdrSetupSects] = 4
	le.PutUint16(b[hdrBootFlag:], 0xaa55)
	b[hdrJump], b[hdrJump+1] = 0xeb, hdrEnd-hdrMagic
	copy(b[hdrMagic:], "HdrS")
	le.PutUint16(b[hdrVersion:], 0x20f)
	le.PutUint32(b[hdrInitrdMax:], 0x7fffffff)
	le.PutUint32(b[hdrAlignment:], 2<<20)
	b[hdrRelocatable] = 1
	le.PutUint16(b[hdrXLoadFlags:], xlfKernel64)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	le.PutUint64(b[hdrPrefAddress:], 16<<20)
	le.PutUint32(b[hdrInitSize:], 8<<20)
	copy(b[5*512+entry64:], "entry point")
	return b
}

// testELF is an ELF of 64 or 32 bits with one segment at 2 MiB and, if note, a
// PVH note; multiboot asks for a header in the segment.
func testELF(bits int, note, multiboot bool) []byte {
	b := make([]byte, 0x1000)
	copy(b, elfMagic)
	b[5] = elfLSB
	text := make([]byte, 0x200)
	copy(text, "kernel text")
	if multiboot {
		le.PutUint32(text[0x100:], mbMagic)
		le.PutUint32(text[0x104:], mbPageAlign|mbMemory)
		le.PutUint32(text[0x108:], 1<<32-mbMagic-mbPageAlign-mbMemory)
	}
	copy(b[0x800:], text)
	n := le.AppendUint32(nil, 4)
	n = le.AppendUint32(n, 4)
	n = le.AppendUint32(n, notePhys32Entry)
	n = append(n, "Xen\x00"...)
	n = le.AppendUint32(n, 2<<20+0x10)
	copy(b[0xc00:], n)
	kind := uint32(ptNote)
	if !note {
		kind = 0
	}
	if bits == 64 {
		b[4] = elfClass64
		le.PutUint16(b[18:], emX8664)
		le.PutUint64(b[24:], 2<<20+0x20)
		le.PutUint64(b[32:], 64)
		le.PutUint16(b[54:], 56)
		le.PutUint16(b[56:], 2)
		for i, v := range []uint64{ptLoad, 0x800, 0, 2 << 20, 0x200, 0x3000, 0} {
			le.PutUint64(b[64+i*8:], v)
		}
		for i, v := range []uint64{uint64(kind), 0xc00, 0, 0, uint64(len(n)), uint64(len(n)), 0} {
			le.PutUint64(b[64+56+i*8:], v)
		}
		return b
	}
	b[4] = elfClass32
	le.PutUint16(b[18:], emI386)
	le.PutUint32(b[24:], 2<<20+0x20)
	le.PutUint32(b[28:], 64)
	le.PutUint16(b[42:], 32)
	le.PutUint16(b[44:], 2)
	for i, v := range []uint32{ptLoad, 0x800, 0, 2 << 20, 0x200, 0x3000, 0, 0} {
		le.PutUint32(b[64+i*4:], v)
	}
	for i, v := range []uint32{kind, 0xc00, 0, 0, uint32(len(n)), uint32(len(n)), 0, 0} {
		le.PutUint32(b[64+32+i*4:], v)
	}
	return b
}

// testFlat is a flat Multiboot image with address fields, as our own host's.
func testFlat() []byte {
	b := make([]byte, 0x2000)
	flags := uint32(mbKludge)
	for i, v := range []uint32{mbMagic, flags, 1<<32 - mbMagic - mbKludge, 1<<20 + 0x40, 1 << 20, 1<<20 + 0x2000, 1<<20 + 0x4000, 1<<20 + 0x80} {
		le.PutUint32(b[0x40+i*4:], v)
	}
	return b
}

func mustLoad(t *testing.T, im *Image, want Kind) (*testRAM, *vcpu.State) {
	t.Helper()
	if im.Map == nil {
		im.Map = testMap()
	}
	ram, s := newRAM(), new(vcpu.State)
	k, err := Load(ram, im, s)
	if err != nil || k != want {
		t.Fatalf("loaded as %v, %v; want %v", k, err, want)
	}
	return ram, s
}

func TestBzImageIsEnteredAsTheBootProtocolSays(t *testing.T) {
	initrd := bytes.Repeat([]byte("initrd!"), 1000)
	kernel := testBzImage()
	le.PutUint32(kernel[hdrSysSize:], uint32(len(kernel)-5*512+15)/16)
	kernel = kernel[:len(kernel)-8] // the last paragraph may be short
	ram, s := mustLoad(t, &Image{Kernel: kernel, Initrd: initrd, CommandLine: "console=ttyS0", RSDP: 0xe0000}, BzImage)
	if s.Regs.RIP != 16<<20+0x200 || ram.str(s.Regs.RIP) != "entry point" {
		t.Errorf("RIP is %#x, with %q there", s.Regs.RIP, ram.str(s.Regs.RIP))
	}
	z := ram.b[s.Regs.GPR[vcpu.RSI]:]
	if c := ram.str(uint64(le.Uint32(z[hdrCmdline:]))); c != "console=ttyS0" {
		t.Errorf("command line %q", c)
	}
	at, n := le.Uint32(z[hdrRamdisk:]), le.Uint32(z[hdrRamdiskSize:])
	if int(n) != len(initrd) || !bytes.Equal(ram.b[at:at+n], initrd) || at%4096 != 0 {
		t.Errorf("initrd at %#x+%#x", at, n)
	}
	if z[zpE820Entries] != 3 || le.Uint64(z[zpE820Table+2*e820Size:]) != 1<<20 || le.Uint64(z[zpRSDP:]) != 0xe0000 {
		t.Error("memory map or RSDP not in the zero page")
	}
	if s.Reg[vcpu.EFER] != eferLMA|eferLME || s.Seg[vcpu.CS].Attr&vcpu.AttrL == 0 || s.Regs.RFLAGS != 2 {
		t.Error("not in 64-bit mode with interrupts off")
	}
	// The identity map: walk to the last 2 MiB page below 4 GiB.
	pml4 := le.Uint64(ram.b[s.Reg[vcpu.CR3]:]) &^ 0xfff
	pd := le.Uint64(ram.b[pml4+3*8:]) &^ 0xfff
	if e := le.Uint64(ram.b[pd+511*8:]); e != 4<<30-2<<20|ptPresent|ptWrite|ptLarge {
		t.Errorf("the last page table entry is %#x", e)
	}
	if d := le.Uint64(ram.b[s.Reg[vcpu.GDTBase]+selCode:]); d != 0x00af9b000000ffff {
		t.Errorf("code descriptor is %#x", d)
	}
}

func TestBzImageWithout64BitEntryIsEnteredAt32Bits(t *testing.T) {
	for name, tune := range map[string]func(k []byte){
		"32-bit kernel":       func(k []byte) { le.PutUint16(k[hdrXLoadFlags:], 0) },
		"older than the flag": func(k []byte) { le.PutUint16(k[hdrVersion:], 0x20a) },
	} {
		k := testBzImage()
		tune(k)
		copy(k[5*512:], "entry point")
		ram, s := mustLoad(t, &Image{Kernel: k, CommandLine: "quiet"}, BzImage)
		if s.Regs.RIP != 16<<20 || ram.str(s.Regs.RIP) != "entry point" {
			t.Errorf("%s: RIP is %#x", name, s.Regs.RIP)
		}
		cs, ds := s.Seg[vcpu.CS], s.Seg[vcpu.DS]
		if s.Reg[vcpu.CR0]&(cr0PE|cr0PG) != cr0PE || s.Reg[vcpu.EFER] != 0 || cs.Attr&vcpu.AttrDB == 0 || cs.Selector != 0x10 || ds.Selector != 0x18 || s.Regs.RFLAGS != 2 {
			t.Errorf("%s: CR0 %#x, CS %+v, DS %+v", name, s.Reg[vcpu.CR0], cs, ds)
		}
		for _, r := range []int{vcpu.RBP, vcpu.RDI, vcpu.RBX} {
			if s.Regs.GPR[r] != 0 {
				t.Errorf("%s: register %d is %#x, not zero", name, r, s.Regs.GPR[r])
			}
		}
		z := ram.b[s.Regs.GPR[vcpu.RSI]:]
		if c := ram.str(uint64(le.Uint32(z[hdrCmdline:]))); c != "quiet" {
			t.Errorf("%s: command line %q", name, c)
		}
	}
}

func TestBzImageMovesWhenItsPlaceIsTaken(t *testing.T) {
	k := testBzImage()
	le.PutUint64(k[hdrPrefAddress:], 512<<10) // from there it would reach beyond low memory
	_, s := mustLoad(t, &Image{Kernel: k}, BzImage)
	if s.Regs.RIP != 2<<20+0x200 {
		t.Errorf("RIP is %#x, not the lowest aligned place", s.Regs.RIP)
	}
	// A kernel below its preferred address moves itself there, so there must be memory.
	le.PutUint64(k[hdrPrefAddress:], testMem-4<<20)
	if _, err := Load(newRAM(), &Image{Kernel: k, Map: testMap()}, new(vcpu.State)); err == nil {
		t.Error("a kernel was loaded that moves itself out of memory")
	}
	le.PutUint64(k[hdrPrefAddress:], 512<<10)
	k[hdrRelocatable] = 0
	if _, err := Load(newRAM(), &Image{Kernel: k, Map: testMap()}, new(vcpu.State)); err == nil {
		t.Error("a kernel that can not move was moved")
	}
}

func TestPVHIsEnteredWithStartInfo(t *testing.T) {
	for _, bits := range []int{32, 64} {
		ram, s := mustLoad(t, &Image{
			Kernel: testELF(bits, true, true), Initrd: []byte("rd"), CommandLine: "a b",
			Modules: []Module{{"second x=1", []byte("module two")}}, RSDP: 0xe1230,
		}, PVH)
		if s.Regs.RIP != 2<<20+0x10 || s.Reg[vcpu.CR0] != cr0PE|cr0ET || s.Seg[vcpu.CS].Attr&vcpu.AttrDB == 0 {
			t.Errorf("%d: RIP %#x CR0 %#x", bits, s.Regs.RIP, s.Reg[vcpu.CR0])
		}
		if ram.str(2<<20) != "kernel text" || ram.b[2<<20+0x2fff] != 0 || ram.b[2<<20+0x3000] != 0xaa {
			t.Errorf("%d: the segment is not loaded or its rest not zeroed", bits)
		}
		i := ram.b[s.Regs.GPR[vcpu.RBX]:]
		if le.Uint32(i) != pvhMagic || le.Uint32(i[4:]) != 1 || le.Uint32(i[12:]) != 2 || le.Uint64(i[32:]) != 0xe1230 || le.Uint32(i[48:]) != 3 {
			t.Fatalf("%d: start info % x", bits, i[:startInfoSize])
		}
		m := ram.b[le.Uint64(i[16:]):]
		if a := le.Uint64(m); string(ram.b[a:a+2]) != "rd" {
			t.Errorf("%d: the first module is not the initrd", bits)
		}
		if a := le.Uint64(m[modlistSize:]); string(ram.b[a:a+10]) != "module two" || ram.str(le.Uint64(m[modlistSize+16:])) != "second x=1" {
			t.Errorf("%d: second module", bits)
		}
		if ram.str(le.Uint64(i[24:])) != "a b" {
			t.Errorf("%d: command line", bits)
		}
	}
}

func TestMultibootIsEnteredWithModules(t *testing.T) {
	for name, k := range map[string][]byte{"elf32": testELF(32, false, true), "elf64": testELF(64, false, true), "flat": testFlat()} {
		ram, s := mustLoad(t, &Image{Kernel: k, CommandLine: "cmd", Modules: []Module{{"one", []byte("111")}, {"two", []byte("22")}}}, Multiboot)
		want := uint64(2<<20 + 0x20)
		if name == "flat" {
			want = 1<<20 + 0x80
			if ram.b[1<<20+0x3fff] != 0 {
				t.Error("flat: bss not zeroed")
			}
		}
		if s.Regs.RIP != want || s.Regs.GPR[vcpu.RAX] != mbBootMagic {
			t.Errorf("%s: RIP %#x RAX %#x", name, s.Regs.RIP, s.Regs.GPR[vcpu.RAX])
		}
		i := ram.b[s.Regs.GPR[vcpu.RBX]:]
		if le.Uint32(i[4:]) != 640 || le.Uint32(i[8:]) != testMem>>10-1024 {
			t.Errorf("%s: lower %d upper %d KiB", name, le.Uint32(i[4:]), le.Uint32(i[8:]))
		}
		m := ram.b[le.Uint32(i[24:])+16:]
		a, e := le.Uint32(m), le.Uint32(m[4:])
		if le.Uint32(i[20:]) != 2 || string(ram.b[a:e]) != "22" || ram.str(uint64(le.Uint32(m[8:]))) != "two" {
			t.Errorf("%s: modules", name)
		}
		if ram.str(uint64(le.Uint32(i[16:]))) != "cmd" || le.Uint32(i[44:]) != 3*24 {
			t.Errorf("%s: command line or map", name)
		}
	}
}

func TestMultibootKernelThatIsLinkedHighIsEnteredWhereItIsLoaded(t *testing.T) {
	for bits, high := range map[int]uint64{32: 0xc0000000, 64: 0xffffffff80000000} {
		k := testELF(bits, false, true)
		if bits == 64 {
			le.PutUint64(k[24:], high+0x20)
			le.PutUint64(k[64+16:], high)
		} else {
			le.PutUint32(k[24:], uint32(high+0x20))
			le.PutUint32(k[64+8:], uint32(high))
		}
		if _, s := mustLoad(t, &Image{Kernel: k}, Multiboot); s.Regs.RIP != 2<<20+0x20 {
			t.Errorf("%d bits: RIP %#x", bits, s.Regs.RIP)
		}
	}
}

func TestWhatDoesNotFitIsRefusedByName(t *testing.T) {
	put := func(b []byte, off int, v uint32) []byte { le.PutUint32(b[off:], v); return b }
	for _, c := range []struct {
		name string
		im   Image
		want string
	}{
		{"empty", Image{}, "empty"},
		{"gzip", Image{Kernel: []byte{0x1f, 0x8b, 8, 0}}, "gzip"},
		{"text", Image{Kernel: []byte("<html>not found</html>")}, "neither"},
		{"plain ELF", Image{Kernel: testELF(64, false, false)}, "CONFIG_PVH"},
		{"half a download", Image{Kernel: put(testBzImage(), hdrSysSize, 0x102)}, "cut short: it has 6656 bytes, and its header tells of 6688"},
		{"old bzImage", Image{Kernel: put(testBzImage(), hdrVersion, 0x204)}, "2.04"},
		{"huge init_size", Image{Kernel: put(testBzImage(), hdrInitSize, 1<<30)}, "more memory"},
		{"huge initrd", Image{Kernel: testBzImage(), Initrd: make([]byte, testMem)}, "initrd"},
		{"long command line", Image{Kernel: testBzImage(), CommandLine: strings.Repeat("x", 2048)}, "2047"},
		{"zero in command line", Image{Kernel: testBzImage(), CommandLine: "a\x00b"}, "zero byte"},
		{"modules", Image{Kernel: testBzImage(), Modules: []Module{{"m", nil}}}, "modules"},
		{"segment outside", Image{Kernel: put(testELF(32, true, false), 64+12, testMem)}, "not all RAM"},
		{"segment over boot structures", Image{Kernel: put(testELF(32, true, false), 64+12, 0x7000)}, "overlaps"},
		{"segment outside the file", Image{Kernel: put(testELF(32, false, true), 64+4, 0xfff)}, "outside the file"},
		{"flat load end", Image{Kernel: put(testFlat(), 0x40+20, 1<<30)}, "load end"},
		{"flat load address", Image{Kernel: put(testFlat(), 0x40+16, 0)}, "load address"},
	} {
		c.im.Map = testMap()
		_, err := Load(newRAM(), &c.im, new(vcpu.State))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
		if again := Check(&c.im); again == nil || again.Error() != err.Error() {
			t.Errorf("%s: Check says %v, Load %v", c.name, again, err)
		}
	}
}

// boundsOnly is RAM that checks and forgets, so that fuzzing is fast.
type boundsOnly struct{}

func (boundsOnly) WriteAt(p []byte, gpa uint64) error { return boundsOnly{}.Zero(gpa, uint64(len(p))) }

func (boundsOnly) Zero(gpa, n uint64) error {
	if gpa > testMem || n > testMem-gpa {
		return fmt.Errorf("%#x+%#x is not RAM", gpa, n)
	}
	return nil
}

func FuzzLoad(f *testing.F) {
	f.Add(testBzImage(), 10)
	f.Add(testELF(64, true, false), 10)
	f.Add(testELF(32, true, true), 10)
	f.Add(testELF(64, false, true), 0)
	f.Add(testFlat(), 100000)
	spare := make([]byte, 1<<20)
	f.Fuzz(func(t *testing.T, kernel []byte, initrd int) {
		im := Image{Kernel: kernel, Map: testMap()}
		if initrd > 0 && initrd < len(spare) {
			im.Initrd = spare[:initrd]
		}
		var s vcpu.State
		if _, err := Load(boundsOnly{}, &im, &s); err == nil && s.Reg[vcpu.CR0]&cr0PE == 0 {
			t.Error("loaded, but the processor is not set up")
		}
	})
}
