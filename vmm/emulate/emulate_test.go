package emulate

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

// rig is a processor with 1 MiB of RAM and a device at every other address.
type rig struct {
	*Emulator
	v    *fakecpu.VCPU
	ram  []byte
	reg  uint64 // the device's only register
	acc  []span // of RAM, that Wrote told of
	in   []uint32
	out  []uint32
	size []int
}

const ramSize = 1 << 20

type span struct{ gpa, n uint64 }

func (r *rig) Page(gpa uint64) *[4096]byte {
	if gpa >= ramSize {
		return nil
	}
	return (*[4096]byte)(r.ram[gpa:])
}
func (r *rig) Wrote(gpa, n uint64) { r.acc = append(r.acc, span{gpa, n}) }
func (r *rig) ReadMMIO(gpa uint64, b []byte) {
	var v [8]byte
	le.PutUint64(v[:], r.reg)
	copy(b, v[:])
}
func (r *rig) WriteMMIO(gpa uint64, b []byte) {
	var v [8]byte
	le.PutUint64(v[:], r.reg)
	copy(v[:], b)
	r.reg = le.Uint64(v[:])
	r.size = append(r.size, len(b))
}
func (r *rig) In(port uint16, size int) uint32 {
	v := r.in[0]
	r.in = r.in[1:]
	return v
}
func (r *rig) Out(port uint16, size int, v uint32) { r.out = append(r.out, v) }

const (
	devGPA  = 0xfee00000
	codeLin = 0x40000
	devLin  = 0x600000 // maps to devGPA in long mode
)

// longRig has page tables at 0x1000: the first 2 MiB to themselves (4K pages
// there, user), and devLin to the device, supervisor.
func longRig() *rig {
	r := &rig{v: fakecpu.New(nil), ram: make([]byte, ramSize)}
	r.Emulator = New(r.v, r)
	put := func(at, v uint64) { le.PutUint64(r.ram[at:], v) }
	put(0x1000, 0x2000|7)
	put(0x2000, 0x3000|7)
	put(0x3000, 0x4000|7)
	put(0x3000+3*8, 0x5000|7)
	for i := uint64(0); i < 256; i++ {
		put(0x4000+i*8, i<<12|7)
	}
	put(0x5000, devGPA|3)
	r.v.Set(vcpu.CR0, cr0PG|cr0PE|cr0WP)
	r.v.Set(vcpu.CR3, 0x1000)
	r.v.Set(vcpu.CR4, cr4PAE)
	r.v.Set(vcpu.EFER, eferLMA|1<<8|eferNXE)
	r.v.SetSegment(vcpu.CS, vcpu.Segment{Attr: 0xa09b, Limit: 0xffffffff})
	r.v.SetSegment(vcpu.SS, vcpu.Segment{Attr: 0xc093, Limit: 0xffffffff})
	r.v.Regs().RIP = codeLin
	return r
}

func (r *rig) code(b ...byte) *rig {
	copy(r.ram[codeLin:], b)
	r.v.Regs().RIP = codeLin
	return r
}

func TestMemoryFormsReadAndWriteTheDevice(t *testing.T) {
	const A, C, D = vcpu.RAX, vcpu.RCX, vcpu.RDX
	for _, c := range []struct {
		name    string
		code    []byte
		reg     uint64 // the device's register before
		a       uint64 // RAX before; RBX is the device's address
		wantReg uint64
		wantA   uint64
		flags   uint64 // arithmetic ones afterwards
	}{
		{"mov eax,[rbx]", []byte{0x8b, 0x03}, 0x1122334455667788, ^uint64(0), 0x1122334455667788, 0x55667788, 0},
		{"mov rax,[rbx]", []byte{0x48, 0x8b, 0x03}, 0x1122334455667788, 0, 0x1122334455667788, 0x1122334455667788, 0},
		{"mov al,[rbx]", []byte{0x8a, 0x03}, 0x88, 0x1111, 0x88, 0x1188, 0},
		{"mov ah,[rbx]", []byte{0x8a, 0x23}, 0x88, 0x1111, 0x88, 0x8811, 0},
		{"mov [rbx],eax", []byte{0x89, 0x03}, 0xffffffffffffffff, 0x12345678, 0xffffffff12345678, 0x12345678, 0},
		{"mov [rbx],ah", []byte{0x88, 0x23}, 0, 0x1234, 0x12, 0x1234, 0},
		{"mov dword [rbx],imm", []byte{0xc7, 0x03, 0x78, 0x56, 0x34, 0x12}, 0, 0, 0x12345678, 0, 0},
		{"mov qword [rbx],-1", []byte{0x48, 0xc7, 0x03, 0xff, 0xff, 0xff, 0xff}, 0, 0, ^uint64(0), 0, 0},
		{"movzx eax,word [rbx]", []byte{0x0f, 0xb7, 0x03}, 0xffff8001, 5, 0xffff8001, 0x8001, 0},
		{"movsx rax,byte [rbx]", []byte{0x48, 0x0f, 0xbe, 0x03}, 0x80, 5, 0x80, ^uint64(0x7f), 0},
		{"movsxd rax,[rbx]", []byte{0x48, 0x63, 0x03}, 0x80000000, 5, 0x80000000, ^uint64(0x7fffffff), 0},
		{"or [rbx],eax", []byte{0x09, 0x03}, 0xf0, 0x0f, 0xff, 0x0f, flagPF},
		{"and eax,[rbx]", []byte{0x23, 0x03}, 0xf0, 0x0f, 0xf0, 0, flagZF | flagPF},
		{"add [rbx],eax", []byte{0x01, 0x03}, 0x7fffffff, 1, 0x80000000, 1, flagOF | flagSF | flagPF | flagAF},
		{"sub dword [rbx],1", []byte{0x83, 0x2b, 0x01}, 0, 0, 0xffffffff, 0, flagCF | flagSF | flagPF | flagAF},
		{"cmp eax,[rbx]", []byte{0x3b, 0x03}, 7, 7, 7, 7, flagZF | flagPF},
		{"test dword [rbx],imm", []byte{0xf7, 0x03, 0, 0, 0, 0x80}, 0x80000000, 0, 0x80000000, 0, flagSF | flagPF},
		{"xchg [rbx],eax", []byte{0x87, 0x03}, 7, 9, 9, 7, 0},
		{"lock bts dword [rbx],3", []byte{0xf0, 0x0f, 0xba, 0x2b, 3}, 0, 0, 8, 0, 0},
		{"bt [rbx],eax", []byte{0x0f, 0xa3, 0x03}, 8, 3, 8, 3, flagCF},
		{"inc dword [rbx]", []byte{0xff, 0x03}, 0xffffffff, 0, 0, 0, flagZF | flagPF | flagAF},
		{"not byte [rbx]", []byte{0xf6, 0x13}, 0x0f, 0, 0xf0, 0, 0},
		{"neg dword [rbx]", []byte{0xf7, 0x1b}, 1, 0, 0xffffffff, 0, flagCF | flagSF | flagPF | flagAF},
		{"cmpxchg [rbx],ecx equal", []byte{0x0f, 0xb1, 0x0b}, 5, 5, 0x99, 5, flagZF | flagPF},
		{"cmpxchg [rbx],ecx other", []byte{0x0f, 0xb1, 0x0b}, 6, 5, 6, 6, flagCF | flagSF | flagPF | flagAF},
		{"xadd [rbx],eax", []byte{0x0f, 0xc1, 0x03}, 5, 2, 7, 5, 0},
		{"mov eax,[rip+disp]", []byte{0x8b, 0x05, 0xfa, 0xff, 0x5b, 0x00}, 0x77, 0, 0x77, 0x77, 0},
		{"mov eax,[rbx+rdx*4+8]", []byte{0x8b, 0x44, 0x93, 0x08}, 0x77, 0, 0x77, 0x77, 0},
		{"mov eax,[moffs64]", []byte{0xa1, 0, 0, 0x60, 0, 0, 0, 0, 0}, 0x66, 0, 0x66, 0x66, 0},
		{"mov [r11],r8d", []byte{0x45, 0x89, 0x03}, 0, 0, 0x88, 0, 0},
		{"movnti [rbx],eax", []byte{0x0f, 0xc3, 0x03}, 0, 0x33, 0x33, 0x33, 0},
		{"stosd", []byte{0xab}, 0, 0x44, 0x44, 0x44, 0},
		{"lodsb", []byte{0xac}, 0x55, 0, 0x55, 0x55, 0},
	} {
		r := longRig().code(c.code...)
		g := &r.v.Regs().GPR
		g[A], g[vcpu.RBX], g[C], g[vcpu.R11], g[vcpu.R8] = c.a, devLin, 0x99, devLin, 0x88
		g[vcpu.RDI], g[vcpu.RSI] = devLin, devLin
		gpa := uint64(devGPA)
		if strings.Contains(c.name, "+8") {
			gpa, g[D] = devGPA+0x108, 0x40
		}
		r.reg = c.reg
		for range 2 { // the second time from the cache
			r.reg, g[A], r.v.Regs().RIP, r.v.Regs().RFLAGS = c.reg, c.a, codeLin, 2
			g[vcpu.RDI], g[vcpu.RSI] = devLin, devLin
			if o := r.MMIO(gpa); o != Done {
				t.Errorf("%s: %v, %v %v", c.name, o, r.Err, r.Fault)
				break
			}
			if r.reg != c.wantReg || g[A] != c.wantA {
				t.Errorf("%s: device %#x, RAX %#x, want %#x, %#x", c.name, r.reg, g[A], c.wantReg, c.wantA)
			}
			if f := r.v.Regs().RFLAGS & arithmetic; f != c.flags {
				t.Errorf("%s: flags %#x, want %#x", c.name, f, c.flags)
			}
			if n := r.v.Regs().RIP - codeLin; n != uint64(len(c.code)) {
				t.Errorf("%s: RIP moved by %d", c.name, n)
			}
		}
		if r.count.Hits != 1 || r.count.Slow != 0 {
			t.Errorf("%s: counters %+v", c.name, r.count)
		}
	}
}

func TestChangedCodeAndChangedTablesAreSeen(t *testing.T) {
	r := longRig().code(0x89, 0x03)
	g := &r.v.Regs().GPR
	g[vcpu.RAX], g[vcpu.RBX] = 5, devLin
	if r.MMIO(devGPA) != Done || r.reg != 5 {
		t.Fatal("first")
	}
	r.code(0x8b, 0x03) // self-modifying
	r.reg = 6
	if r.MMIO(devGPA) != Done || g[vcpu.RAX] != 6 {
		t.Fatalf("changed code: RAX %d", g[vcpu.RAX])
	}
	copy(r.ram[0x50000:], []byte{0x87, 0x03}) // another page under the same address
	le.PutUint64(r.ram[0x4000+0x40*8:], 0x50000|7)
	g[vcpu.RAX], r.v.Regs().RIP = 9, codeLin
	if r.MMIO(devGPA) != Done || r.reg != 9 || g[vcpu.RAX] != 6 {
		t.Fatalf("changed table: device %d RAX %d", r.reg, g[vcpu.RAX])
	}
}

func TestLengthOfExitingInstructions(t *testing.T) {
	for _, c := range []struct {
		op   Op
		code []byte
	}{
		{OpCPUID, []byte{0x0f, 0xa2}}, {OpCPUID, []byte{0x66, 0x48, 0x0f, 0xa2}}, {OpRDMSR, []byte{0x0f, 0x32}},
		{OpWRMSR, []byte{0x0f, 0x30}}, {OpHLT, []byte{0xf4}}, {OpPAUSE, []byte{0xf3, 0x90}}, {OpXSETBV, []byte{0x0f, 1, 0xd1}},
		{OpVMCALL, []byte{0x0f, 1, 0xc1}}, {OpVMMCALL, []byte{0x0f, 1, 0xd9}}, {OpWBINVD, []byte{0x0f, 9}},
		{OpIN, []byte{0xed}}, {OpIN, []byte{0x66, 0xe5, 0x70}}, {OpOUT, []byte{0xe6, 0x80}}, {OpOUTS, []byte{0xf3, 0x6e}},
	} {
		r := longRig().code(append(c.code, 0x90, 0x90)...)
		if n, o := r.Length(c.op); o != Done || int(n) != len(c.code) {
			t.Errorf("op %d: length %d, %v, want %d", c.op, n, o, len(c.code))
		}
		// The last page's last bytes, and across the end of a page.
		for at := uint64(codeLin + 0x1000 - len(c.code)); at < codeLin+0x1000; at++ {
			copy(r.ram[at:], c.code)
			r.v.Regs().RIP = at
			if n, o := r.Length(c.op); o != Done || int(n) != len(c.code) {
				t.Errorf("op %d at %#x: length %d, %v", c.op, at, n, o)
			}
		}
		if _, o := r.Length(OpNone); o != Again {
			t.Errorf("op %d: %v for another instruction, want Again", c.op, o)
		}
	}
}

func TestWhatCanNotBeEmulatedIsNamed(t *testing.T) {
	for _, c := range []struct {
		code []byte
		want string
	}{
		{[]byte{0x0f, 0x6f, 0x03}, "movq"},
		{[]byte{0x66, 0x0f, 0x7f, 0x03}, "movdqa"},
		{[]byte{0xff, 0x33}, "push"},
		{[]byte{0xc5, 0xfe, 0x6f, 0x03}, "vmovdqu"},
		{[]byte{0x06}, "decoded"},
	} {
		r := longRig().code(c.code...)
		r.v.Regs().GPR[vcpu.RBX] = devLin
		if o := r.MMIO(devGPA); o != Unhandled || !strings.Contains(r.Err.Error(), c.want) || !strings.Contains(r.Err.Error(), "0x40000") {
			t.Errorf("% x: %v, %v", c.code, o, r.Err)
		}
	}
	r := longRig()
	r.v.Set(vcpu.CR3, ramSize)
	if o := r.MMIO(devGPA); o != Unhandled || !strings.Contains(r.Err.Error(), "page table") {
		t.Errorf("%v %v", o, r.Err)
	}
}

func TestStringIO(t *testing.T) {
	r := longRig().code(0xf3, 0x6e) // rep outsb
	g := &r.v.Regs().GPR
	copy(r.ram[0x50ffe:], "abcd")
	g[vcpu.RSI], g[vcpu.RCX], g[vcpu.RDX] = 0x50ffe, 4, 0x3f8
	if o := r.StringIO(OpOUTS); o != Done || len(r.out) != 4 || r.out[3] != 'd' || g[vcpu.RCX] != 0 || g[vcpu.RSI] != 0x51002 || r.v.Regs().RIP != codeLin+2 {
		t.Fatalf("%v out %v RCX %d RSI %#x RIP %#x %v", o, r.out, g[vcpu.RCX], g[vcpu.RSI], r.v.Regs().RIP, r.Fault)
	}
	// INSD across a page's end, the second page not present: nothing is read
	// from the port, and the fault names the second page.
	r.code(0xf3, 0x6d)
	le.PutUint64(r.ram[0x4000+0x52*8:], 0)
	r.in = []uint32{0x11223344, 0x55667788}
	g[vcpu.RDI], g[vcpu.RCX] = 0x51ffa, 2
	if o := r.StringIO(OpINS); o != Fault || r.Fault.Vector != vcpu.VecPF || r.Fault.CR2 != 0x52000 || r.Fault.Error != pfW {
		t.Fatalf("%v %+v", o, r.Fault)
	}
	if len(r.in) != 1 || g[vcpu.RCX] != 1 || g[vcpu.RDI] != 0x51ffe || r.v.Regs().RIP != codeLin {
		t.Fatalf("after the fault: %d left, RCX %d RDI %#x RIP %#x", len(r.in), g[vcpu.RCX], g[vcpu.RDI], r.v.Regs().RIP)
	}
	le.PutUint64(r.ram[0x4000+0x52*8:], 0x60000|7)
	if o := r.StringIO(OpINS); o != Done || g[vcpu.RCX] != 0 {
		t.Fatalf("%v", o)
	}
	got := append(bytes.Clone(r.ram[0x51ffa:0x52000]), r.ram[0x60000:0x60002]...)
	if !bytes.Equal(got, []byte{0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55}) {
		t.Errorf("% x", got)
	}
	// Accessed and dirty bits as the processor would have set them.
	if e := le.Uint64(r.ram[0x4000+0x52*8:]); e&(pteA|pteD) != pteA|pteD {
		t.Errorf("PTE %#x", e)
	}
	// Backwards, with a 32-bit address size, and a count of nothing.
	r.code(0xfd, 0x67, 0xf3, 0x6c)
	r.v.Regs().RIP++
	r.v.Regs().RFLAGS |= flagDF
	r.in = []uint32{1, 2}
	g[vcpu.RDI], g[vcpu.RCX] = 0x50001, 2
	if o := r.StringIO(OpINS); o != Done || r.ram[0x50001] != 1 || r.ram[0x50000] != 2 || g[vcpu.RDI] != 0x4ffff {
		t.Errorf("%v RDI %#x", o, g[vcpu.RDI])
	}
	r.v.Regs().RIP = codeLin + 1
	if o := r.StringIO(OpINS); o != Done || r.v.Regs().RIP != codeLin+4 {
		t.Errorf("empty: %v RIP %#x", o, r.v.Regs().RIP)
	}
}

// A migration sends the pages that Wrote names, page tables too.
func TestEveryChangeOfRAMIsTold(t *testing.T) {
	r := longRig().code(0xf3, 0x6d) // rep insd
	g := &r.v.Regs().GPR
	g[vcpu.RDI], g[vcpu.RCX], r.in = 0x51ffa, 3, []uint32{1, 0x22222222, 3}
	before := bytes.Clone(r.ram)
	if o := r.StringIO(OpINS); o != Done {
		t.Fatal(o)
	}
	for i := range r.ram {
		told := slices.ContainsFunc(r.acc, func(s span) bool { return uint64(i)-s.gpa < s.n })
		if r.ram[i] != before[i] && !told {
			t.Errorf("%#x has become %#x, and nobody was told", i, r.ram[i])
		}
	}
}

func TestFetchAcrossAPagesEndFaultsOnTheSecond(t *testing.T) {
	r := longRig()
	copy(r.ram[codeLin+0xffe:], []byte{0x8b, 0x05, 0, 0, 0, 0}) // mov eax, [rip]
	le.PutUint64(r.ram[0x4000+0x41*8:], 0)
	r.v.Regs().RIP = codeLin + 0xffe
	if o := r.MMIO(devGPA); o != Fault || r.Fault.Vector != vcpu.VecPF || r.Fault.CR2 != codeLin+0x1000 || r.Fault.Error != pfI {
		t.Errorf("%v %+v %v", o, r.Fault, r.Err)
	}
}

func TestUserCodeMayNotTouchSupervisorPages(t *testing.T) {
	r := longRig().code(0x6e)
	r.v.SetSegment(vcpu.SS, vcpu.Segment{Attr: 0xc0f3, Limit: 0xffffffff})
	le.PutUint64(r.ram[0x4000+0x50*8:], 0x50000|3)
	r.v.Regs().GPR[vcpu.RSI] = 0x50000
	if o := r.StringIO(OpOUTS); o != Fault || r.Fault.Error != pfP|pfU {
		t.Errorf("%v %+v", o, r.Fault)
	}
	r.v.Regs().GPR[vcpu.RSI] = 1 << 47
	if o := r.StringIO(OpOUTS); o != Fault || r.Fault.Vector != vcpu.VecGP {
		t.Errorf("not canonical: %v %+v", o, r.Fault)
	}
}

func TestEveryPagingModeTranslates(t *testing.T) {
	for _, c := range []struct {
		name           string
		cr0, cr4, efer uint64
		build          func(put func(at, v uint64, n int))
		lin, gpa       uint64
	}{
		{"none", cr0PE, 0, 0, nil, 0x12345, 0x12345},
		{"32-bit 4K", cr0PE | cr0PG, 0, 0, func(put func(at, v uint64, n int)) {
			put(0x1000+4*1, 0x2003, 4)
			put(0x2000+4*2, 0x77003, 4)
		}, 0x402345, 0x77345},
		{"32-bit 4M", cr0PE | cr0PG, cr4PSE, 0, func(put func(at, v uint64, n int)) {
			put(0x1000+4*1, 0x00c00083|1<<13, 4)
		}, 0x412345, 0x100c12345},
		{"PAE 4K", cr0PE | cr0PG, cr4PAE, 0, func(put func(at, v uint64, n int)) {
			put(0x1000+8*3, 0x2001, 8)
			put(0x2000+8*511, 0x3003, 8)
			put(0x3000+8*511, 0x123000|3|1<<63, 8)
		}, 0xfffff123, 0x123123},
		{"PAE 2M", cr0PE | cr0PG, cr4PAE, eferNXE, func(put func(at, v uint64, n int)) {
			put(0x1000, 0x2001, 8)
			put(0x2000+8*2, 0x600083, 8)
		}, 0x412345, 0x612345},
		{"4-level 1G", cr0PE | cr0PG, cr4PAE, eferLMA, func(put func(at, v uint64, n int)) {
			put(0x1000+8*511, 0x2003, 8)
			put(0x2000+8*511, 0x40000083, 8)
		}, 0xffffffffc1234567, 0x41234567},
		{"5-level", cr0PE | cr0PG, cr4PAE | cr4LA57, eferLMA, func(put func(at, v uint64, n int)) {
			put(0x1000+8*1, 0x2003, 8)
			put(0x2000, 0x3003, 8)
			put(0x3000, 0x4003, 8)
			put(0x4000, 0x200083, 8)
		}, 1<<48 | 0x1234, 0x201234},
	} {
		r := &rig{v: fakecpu.New(nil), ram: make([]byte, ramSize)}
		r.Emulator = New(r.v, r)
		if c.build != nil {
			c.build(func(at, v uint64, n int) {
				if n == 4 {
					le.PutUint32(r.ram[at:], uint32(v))
				} else {
					le.PutUint64(r.ram[at:], v)
				}
			})
		}
		r.v.Set(vcpu.CR0, c.cr0)
		r.v.Set(vcpu.CR3, 0x1000)
		r.v.Set(vcpu.CR4, c.cr4)
		r.v.Set(vcpu.EFER, c.efer)
		r.look()
		var p path
		gpa, o := r.translate(c.lin, store, &p)
		if o != Done || gpa != c.gpa || !p.same() {
			t.Errorf("%s: %#x, %v %+v; want %#x", c.name, gpa, o, r.Fault, c.gpa)
		}
	}
}

func BenchmarkRepeatedMMIO(b *testing.B) {
	r := longRig().code(0x89, 0x03)
	r.v.Regs().GPR[vcpu.RBX] = devLin
	b.ReportAllocs()
	for b.Loop() {
		r.v.Regs().RIP = codeLin
		r.size = r.size[:0]
		if r.MMIO(devGPA) != Done {
			b.Fatal(r.Err)
		}
	}
}

func BenchmarkRepeatedLength(b *testing.B) {
	r := longRig().code(0x0f, 0xa2)
	b.ReportAllocs()
	for b.Loop() {
		if _, o := r.Length(OpCPUID); o != Done {
			b.Fatal(r.Err)
		}
	}
}

// FuzzLength compares our lengths with x86asm's: where both know an
// instruction they agree, and ours never reads past its bytes.
func FuzzLength(f *testing.F) {
	for _, s := range [][]byte{{0x0f, 0xa2}, {0x8b, 0x84, 0x93, 1, 2, 3, 4}, {0x66, 0x67, 0x48, 0xc7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8},
		{0xf3, 0xa4}, {0xa1, 1, 2, 3, 4, 5, 6, 7, 8}, {0x67, 0x8b, 0x46, 0x10}, {0xf0, 0x0f, 0xb1, 0x0b}, {0x80, 0x7d, 0x10, 0x20}} {
		for _, bits := range []uint8{16, 32, 64} {
			f.Add(s, bits)
		}
	}
	f.Fuzz(func(t *testing.T, code []byte, bits uint8) {
		if bits != 16 && bits != 32 && bits != 64 {
			return
		}
		var in insn
		in.reset(code[:min(len(code), maxLen)])
		if in.decode(bits) != nil {
			return
		}
		if in.len == 0 || in.len > in.nbytes {
			t.Fatalf("% x: %d bytes of %d", in.bytes, in.len, in.nbytes)
		}
		x, err := x86asm.Decode(in.bytes[:in.nbytes], int(bits))
		if err != nil || x.Op == 0 {
			return
		}
		if x.Len != int(in.len) && !quirk(x, &in, bits) {
			t.Fatalf("%d bits, % x: ours %d, x86asm %d (%v)", bits, in.bytes[:in.nbytes], in.len, x.Len, x)
		}
	})
}

// quirk is where x86asm is known to go its own way.
func quirk(x x86asm.Inst, in *insn, bits uint8) bool {
	switch x.Op {
	case x86asm.PAUSE:
		return true // it returns some prefixes as instructions of their own
	}
	return false
}

// FuzzEmulate gives any code at all to a processor in any mode: it must end
// without a panic, and RIP moves by an instruction at most.
func FuzzEmulate(f *testing.F) {
	f.Add([]byte{0x89, 0x03}, uint64(devLin), uint64(0xa09b), true)
	f.Add([]byte{0xf3, 0xa5}, uint64(0x50000), uint64(0xc09b), false)
	f.Add([]byte{0xf3, 0x6e}, uint64(0x50fff), uint64(0x9b), true)
	r := longRig()
	f.Fuzz(func(t *testing.T, code []byte, reg, cs uint64, long bool) {
		clear(r.ram[codeLin : codeLin+64])
		r.code(code[:min(len(code), 32)]...)
		efer := uint64(eferNXE)
		if long {
			efer |= eferLMA
		}
		r.v.Set(vcpu.EFER, efer)
		r.v.SetSegment(vcpu.CS, vcpu.Segment{Attr: uint32(cs), Limit: 0xffffffff})
		for i := range r.v.Regs().GPR {
			r.v.Regs().GPR[i] = reg
		}
		r.out, r.acc, r.size = nil, nil, nil
		if o := r.MMIO(devGPA + reg&0xfff); o == Unhandled && r.Err == nil || o == Fault && !r.Fault.Valid {
			t.Errorf("outcome %v without its reason", o)
		}
		if n := r.v.Regs().RIP - codeLin; n > maxLen {
			t.Errorf("RIP moved by %d", n)
		}
	})
}
