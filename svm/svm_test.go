package svm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"godwit/vmm/mem"
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// memory hands out pieces of one arena, so that a physical address leads to its
// bytes as on a host.
type memory struct {
	arena []byte
	used  uint64
	live  uint64
}

const arenaAt = 1 << 32

func (m *memory) Alloc(size, align uint64) (mem.Block, error) {
	m.used = (m.used + align - 1) &^ (align - 1)
	if m.used+size > uint64(len(m.arena)) {
		return mem.Block{}, errors.New("the arena is used up")
	}
	b := mem.Block{Phys: arenaAt + m.used, Data: m.arena[m.used:][:size:size]}
	m.used += size
	m.live += size
	return b, nil
}

func (m *memory) Free(b mem.Block) { m.live -= uint64(len(b.Data)) }
func (m *memory) Live() uint64     { return m.live }

// testSilicon has what QEMU's TCG has, and AVX.
var testSilicon = silicon{
	features: featNested, asids: 4, physBits: 40, xcr0: 7, xsaveSize: 832, mxcsrMask: 0xffff,
	xoffset: [64]uint32{2: 576}, xend: [64]uint32{2: 832},
}

var testPolicy = vcpu.Policy{
	CR4: 0x620 | 1<<7 | cr4PSE | cr4OSXSAVE | cr4PCIDE, XCR0: 7, EFER: 1 | eferLME | eferLMA | eferNXE, PhysBits: 40,
}

const testRAM = 128 << 10

func newTestVCPU(t testing.TB, si silicon) (*VCPU, []byte, *memory) {
	t.Helper()
	m := &memory{arena: make([]byte, 512<<10)}
	tables, err := slat.New(slat.NPT, m, slat.Options{Limit: 1 << 30, Page2M: true, AD: true})
	if err != nil {
		t.Fatal(err)
	}
	ram, err := m.Alloc(testRAM, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := tables.Map(0, ram.Phys, testRAM, slat.PermRWX, slat.WriteBack); err != nil {
		t.Fatal(err)
	}
	b, err := newBackend(si, m, 2)
	if err != nil {
		t.Fatal(err)
	}
	b.base = addressOf(m.arena) - arenaAt
	s, err := b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: tables, CPUID: testPolicy})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.NewVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	return v.(*VCPU), ram.Data, m
}

func longMode(s *vcpu.State) {
	s.Reset(true)
	s.Reg[vcpu.CR0] = 0x8000_0011
	s.Reg[vcpu.CR4] = cr4PAE
	s.Reg[vcpu.CR3] = 0x1000
	s.Reg[vcpu.EFER] = eferLME | eferLMA
	s.Seg[vcpu.CS] = vcpu.Segment{Selector: 8, Attr: 0xa09b, Limit: 0xffffffff}
}

func TestStateSurvivesARoundTrip(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	var in, out vcpu.State
	longMode(&in)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range in.Regs.GPR {
		in.Regs.GPR[i] = r.Uint64()
	}
	in.Regs.RIP, in.Regs.RFLAGS, in.Regs.CR8 = 0x1234_5678_9abc, 0x202, 9
	for _, reg := range []vcpu.Reg{vcpu.CR2, vcpu.DR0, vcpu.DR1, vcpu.DR2, vcpu.DR3, vcpu.STAR, vcpu.SFMASK, vcpu.SysenterCS} {
		in.Reg[reg] = r.Uint64()
	}
	for _, reg := range []vcpu.Reg{vcpu.LSTAR, vcpu.CSTAR, vcpu.KernelGSBase, vcpu.SysenterESP, vcpu.SysenterEIP, vcpu.GDTBase, vcpu.IDTBase} {
		in.Reg[reg] = 0xffff_8000_0000_0000 | r.Uint64()>>17
	}
	in.Reg[vcpu.DR6], in.Reg[vcpu.DR7] = 0xffff4ff0, 0x455
	in.Reg[vcpu.TSCAux], in.Reg[vcpu.XCR0] = 77, 7
	in.Reg[vcpu.GDTLimit], in.Reg[vcpu.IDTLimit] = 0x7f, 0xfff
	in.Seg[vcpu.FS].Base = 0x7fff_1234_5678
	in.Seg[vcpu.DS] = vcpu.Segment{Attr: vcpu.AttrUnusable | 0x13}
	in.Seg[vcpu.SS] = vcpu.Segment{Selector: 0x1b, Attr: 0xc0f3, Limit: 0xffffffff}
	in.Pending = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 14, HasError: true, Error: 5}
	in.STI, in.NMIBlock, in.Activity = true, true, vcpu.Halted
	in.XSAVE = make([]byte, 832)
	for i := range in.XSAVE {
		in.XSAVE[i] = byte(r.Uint32())
	}
	clear(in.XSAVE[512:576])
	in.XSAVE[512] = 7
	binary.LittleEndian.PutUint32(in.XSAVE[24:], 0x1fbf)
	if err := v.Load(&in); err != nil {
		t.Fatal(err)
	}
	v.Save(&out)
	out.TSC, in.TSC = 0, 0 // a clock
	if !reflect.DeepEqual(in, out) {
		t.Errorf("loaded %+v\nsaved  %+v", in, out)
	}
}

// VT-x refuses segments that do not look loaded.
func TestSegmentsAreAccessedAndTasksBusy(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	var s vcpu.State
	longMode(&s)
	if err := v.Load(&s); err != nil {
		t.Fatal(err)
	}
	for r := vcpu.ES; r <= vcpu.TR; r++ {
		v.vm.seg(r).attr &^= 3 // whatever the processor keeps of it
	}
	v.vm.seg(vcpu.FS).attr = 0 // a null selector's
	v.vm.seg(vcpu.DS).attr = 0x413
	v.Save(&s)
	if a := s.Seg[vcpu.DS].Attr; a != vcpu.AttrUnusable|0x13 {
		t.Errorf("DS of a null selector: attributes %#x", a)
	}
	for r, want := range map[vcpu.SegReg]uint32{
		vcpu.ES: 1, vcpu.CS: 1, vcpu.SS: 1, vcpu.FS: 0, vcpu.GS: 1, vcpu.LDTR: 0, vcpu.TR: 2,
	} {
		if got := s.Seg[r].Attr & 3; got != want {
			t.Errorf("segment register %d: attributes %#x", r, s.Seg[r].Attr)
		}
	}
}

// The CPU model decides how large a state is, and not the host: a host with more state
// components than the model's hands its guests to one without them, and the other way.
func TestStateFitsEveryHostThatHasTheModel(t *testing.T) {
	large := testSilicon
	large.xcr0, large.xsaveSize = 0xe7, 2688
	large.xoffset[5], large.xend[5] = 1088, 1152
	large.xoffset[6], large.xend[6] = 1152, 1664
	large.xoffset[7], large.xend[7] = 1664, 2688
	wide, _, _ := newTestVCPU(t, large)
	narrow, _, _ := newTestVCPU(t, testSilicon)
	var s, in, out vcpu.State
	longMode(&in)
	in.XSAVE = append(in.XSAVE, make([]byte, 832-len(in.XSAVE))...)
	in.XSAVE[512], in.XSAVE[600] = 7, 0x5a
	for _, v := range []*VCPU{wide, narrow, wide} {
		if err := v.Load(&in); err != nil {
			t.Fatal(err)
		}
		v.Save(&out)
		if !bytes.Equal(out.XSAVE, in.XSAVE) {
			t.Errorf("a state of %d bytes, not the %d loaded", len(out.XSAVE), len(in.XSAVE))
		}
		in.XSAVE = bytes.Clone(out.XSAVE)
	}
	// As an area of all that a host has.
	longMode(&s)
	s.XSAVE = append(s.XSAVE, make([]byte, 2688-len(s.XSAVE))...)
	if err := narrow.Load(&s); err != nil {
		t.Error(err)
	}
	s.XSAVE[512] = 0xe7
	if err := narrow.Load(&s); err == nil {
		t.Error("components that the model lacks were taken")
	}
}

func TestLoadRefusesWhatTheProcessorWould(t *testing.T) {
	reg := func(r vcpu.Reg, x uint64) func(*vcpu.State) { return func(s *vcpu.State) { s.Reg[r] = x } }
	for name, change := range map[string]func(*vcpu.State){
		"NW without CD":            reg(vcpu.CR0, 0x8000_0011|cr0NW),
		"bits above 31":            reg(vcpu.CR0, 1<<40|0x8000_0011),
		"PG without PE":            reg(vcpu.CR0, 0x8000_0010),
		"CR3":                      reg(vcpu.CR3, 1<<40),
		"CR4":                      reg(vcpu.CR4, 1<<13|cr4PAE),
		"without CR4.PAE":          reg(vcpu.CR4, 0),
		"EFER":                     reg(vcpu.EFER, eferSVME|eferLME|eferLMA),
		"LMA is not":               reg(vcpu.EFER, eferLME),
		"without x87":              reg(vcpu.XCR0, 6),
		"AVX without SSE":          reg(vcpu.XCR0, 5),
		"no components 0x8":        reg(vcpu.XCR0, 0xf),
		"IA32_XSS":                 reg(vcpu.XSS, 1<<8),
		"DEBUGCTL":                 reg(vcpu.DebugCtl, 1),
		"DR6 0x1000000000":         reg(vcpu.DR6, 1<<36),
		"DR7 0x1000000000":         reg(vcpu.DR7, 1<<36),
		"memory type":              reg(vcpu.PAT, 2),
		"LSTAR":                    reg(vcpu.LSTAR, 1<<47),
		"GDTR":                     reg(vcpu.GDTBase, 1<<60),
		"descriptor table limits":  reg(vcpu.IDTLimit, 0x10000),
		"L and D":                  func(s *vcpu.State) { s.Seg[vcpu.CS].Attr |= vcpu.AttrDB },
		"attributes":               func(s *vcpu.State) { s.Seg[vcpu.ES].Attr = 1 << 9 },
		"no canonical":             func(s *vcpu.State) { s.Seg[vcpu.GS].Base = 1 << 50 },
		"above 4 GiB":              func(s *vcpu.State) { s.Seg[vcpu.DS].Base = 1 << 33 },
		"RFLAGS":                   func(s *vcpu.State) { s.Regs.RFLAGS = 1 << 30 },
		"CR8 0x10":                 func(s *vcpu.State) { s.Regs.CR8 = 16 },
		"activity":                 func(s *vcpu.State) { s.Activity = 9 },
		"an NMI with vector 3":     func(s *vcpu.State) { s.Pending = vcpu.Event{Valid: true, Type: 2, Vector: 3} },
		"exception with vector 32": func(s *vcpu.State) { s.Pending = vcpu.Event{Valid: true, Type: 3, Vector: 32} },
		"event of type 7":          func(s *vcpu.State) { s.Pending = vcpu.Event{Valid: true, Type: 7} },
		"XSAVE area of 575":        func(s *vcpu.State) { s.XSAVE = s.XSAVE[:575] },
		"components 0x8;":          func(s *vcpu.State) { s.XSAVE[512] = 8 },
		"header is not zero":       func(s *vcpu.State) { s.XSAVE[527] = 0x80 },
		"only a part":              func(s *vcpu.State) { s.XSAVE[512] = 7; s.XSAVE = s.XSAVE[:700] },
		"MXCSR":                    func(s *vcpu.State) { s.XSAVE[27] = 1 },
	} {
		v, _, _ := newTestVCPU(t, testSilicon)
		var before, after, s vcpu.State
		v.Save(&before)
		longMode(&s)
		s.XSAVE = append(s.XSAVE, make([]byte, 832-len(s.XSAVE))...)
		if err := v.Load(&s); err != nil {
			t.Fatalf("%s: good state: %v", name, err)
		}
		v.Save(&before)
		change(&s)
		if err := v.Load(&s); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
		v.Save(&after)
		before.TSC, after.TSC = 0, 0
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%q: a refused state changed the VCPU", name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(uint8(vcpu.CR0), uint64(0x8000_0011), uint16(512), byte(7))
	f.Add(uint8(vcpu.EFER), uint64(0xd01), uint16(24), byte(0x80))
	f.Fuzz(func(t *testing.T, reg uint8, x uint64, at uint16, b byte) {
		v, _, _ := newTestVCPU(t, testSilicon)
		var s vcpu.State
		longMode(&s)
		s.Reg[reg%uint8(vcpu.NumRegs)] = x
		s.XSAVE[int(at)%len(s.XSAVE)] = b
		s.Regs.RFLAGS = x
		if v.Load(&s) != nil {
			return
		}
		// What was accepted can be entered: the checks of APM 15.5.1 again.
		m := v.vm
		if checkCR0(m.cr0) != nil || m.efer&eferSVME == 0 || m.dr6>>32 != 0 || m.dr7>>32 != 0 || m.rflags>>22 != 0 {
			t.Fatalf("accepted %+v", s)
		}
	})
}

func TestPermissionMaps(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	b := v.space.b
	open := map[uint32]byte{0x10: 1}
	for _, msr := range msrPassed {
		open[msr] = 3
	}
	for _, base := range []uint32{0, 0xc000_0000, 0xc001_0000} {
		for i := range uint32(0x2000) {
			n, ok := msrBit(base + i)
			if got := ^b.msrpm.Data[n/8] >> (n % 8) & 3; !ok || got != open[base+i] {
				t.Errorf("MSR %#x: open for %b, want %b", base+i, got, open[base+i])
			}
		}
	}
	if _, ok := msrBit(0x4b564d00); ok {
		t.Error("an MSR outside the map has a place in it")
	}
	for i, x := range b.iopm.Data {
		if x != 0xff {
			t.Fatalf("ports %#x: open for %b", i*8, ^x)
		}
	}
}

func TestInstructionsAreMeasuredInGuestMemory(t *testing.T) {
	v, ram, _ := newTestVCPU(t, testSilicon)
	var s vcpu.State
	longMode(&s)
	// 0x5000 and on are mapped at 0x7fff_ffff_e000, two pages that are not
	// neighbours in guest-physical memory.
	le := binary.LittleEndian
	le.PutUint64(ram[0x1000+8*0xff:], 0x2003)
	le.PutUint64(ram[0x2000+8*0x1ff:], 0x3003)
	le.PutUint64(ram[0x3000+8*0x1ff:], 0x4003)
	le.PutUint64(ram[0x4000+8*0x1fe:], 0x9003)
	le.PutUint64(ram[0x4000+8*0x1ff:], 0x5003)
	for _, c := range []struct {
		code uint64
		insn string
		want uint8
	}{
		{exitCPUID, "\x0f\xa2", 2},
		{exitCPUID, "\x66\x48\x0f\xa2", 4},
		{exitCPUID, "\x0f\xa3", 0},
		{exitMSR, "\x0f\x32", 2},
		{exitMSR, "\x40\x0f\x30", 3},
		{exitMSR, "\x0f\x31", 0},
		{exitHLT, "\xf4", 1},
		{exitVMMCALL, "\x0f\x01\xd9", 3},
		{exitPAUSE, "\xf3\x90", 2},
		{exitXSETBV, "\x0f\x01\xd1", 3},
		{exitWBINVD, "\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x0f\x09", 15},
		{exitWBINVD, "\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x0f", 0},
	} {
		for _, at := range []uint64{0x000, 0xff0, 0xffd, 0xffe, 0xfff} {
			// Across the boundary from guest-physical 0x9000 to 0x5000.
			for i := range uint64(16) {
				x := byte(0x90)
				if i < uint64(len(c.insn)) {
					x = c.insn[i]
				}
				if at+i < 0x1000 {
					ram[0x9000+at+i] = x
				} else {
					ram[0x5000+at+i-0x1000] = x
				}
			}
			s.Regs.RIP = 0x7fff_ffff_e000 + at
			if err := v.Load(&s); err != nil {
				t.Fatal(err)
			}
			if n := v.length(c.code); n != c.want {
				t.Errorf("%#x at %#x, % x: length %d, want %d", c.code, at, c.insn, n, c.want)
			}
		}
	}
	s.Regs.RIP = 0x1000 // not mapped
	if err := v.Load(&s); err != nil {
		t.Fatal(err)
	}
	if n := v.length(exitHLT); n != 0 {
		t.Errorf("unmapped code: length %d", n)
	}
}

// A guest's page tables can point anywhere, at themselves too.
func FuzzTranslate(f *testing.F) {
	f.Add([]byte{3, 0x10, 0, 0, 0, 0, 0, 0}, uint64(0x1000), uint64(0), uint8(0))
	f.Add([]byte{0x83, 0, 0, 0, 0, 0, 0, 0x80}, uint64(0x3ff000), uint64(0x7fff_ffff_ffff), uint8(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint64(0x1fe0), uint64(0xffff_ffff), uint8(2))
	f.Fuzz(func(t *testing.T, table []byte, cr3, lin uint64, mode uint8) {
		v, ram, _ := newTestVCPU(t, testSilicon)
		if len(table) > 0 {
			for i := range testRAM {
				ram[i] = table[i%len(table)]
			}
		}
		v.vm.cr3 = cr3
		v.vm.cr0 = cr0PE | cr0PG
		v.vm.efer = uint64(mode&1) * (eferLME | eferLMA)
		v.vm.cr4 = uint64(mode) >> 1 & 3 * cr4PSE
		v.regs.RIP = lin
		var b [15]byte
		if n := v.fetch(&b); n < 0 || n > 15 {
			t.Fatalf("%d bytes", n)
		}
		v.pdptes()
	})
}

func TestMovToCR4FollowsThePolicy(t *testing.T) {
	v, ram, _ := newTestVCPU(t, testSilicon)
	var s vcpu.State
	s.Reset(true)
	s.Seg[vcpu.CS] = vcpu.Segment{Attr: 0x9b, Limit: 0xffff}
	s.Regs.RIP = 0x100
	s.Reg[vcpu.CR0] = 0x11
	copy(ram[0x100:], "\x0f\x22\xe3") // mov cr4, ebx
	for _, c := range []struct {
		x   uint64
		ok  bool
		bad vcpu.Event
	}{{0x620, true, vcpu.Event{}}, {1 << 13, false, vcpu.GP()}, {0xffff_ffff_0000_0620, true, vcpu.Event{}}} {
		s.Regs.GPR[vcpu.RBX] = c.x
		if err := v.Load(&s); err != nil {
			t.Fatal(err)
		}
		if !v.writeCR(movToCR, 4) || v.Pending() != c.bad {
			t.Fatalf("CR4 %#x: pending %+v", c.x, v.Pending())
		}
		if c.ok && (v.Get(vcpu.CR4) != 0x620 || v.regs.RIP != 0x103) || !c.ok && (v.Get(vcpu.CR4) != 0 || v.regs.RIP != 0x100) {
			t.Errorf("CR4 %#x: CR4 %#x, RIP %#x", c.x, v.Get(vcpu.CR4), v.regs.RIP)
		}
	}
}

func TestInterruptedEventsAreQueuedAgain(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	ext := vcpu.Event{Valid: true, Vector: 0x41}
	soft := vcpu.Event{Valid: true, Type: vcpu.EventSoft, Vector: 0x80, Len: 2}
	nmi := vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2}
	pf := vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 14, HasError: true, Error: 2, CR2: 0x1000}
	for _, c := range []struct {
		name   string
		inject vcpu.Event
		info   uint64
		want   vcpu.Event
	}{
		{"delivered", ext, 0x41, vcpu.Event{}}, // low bits stale
		{"interrupt", ext, 1<<31 | 0x41, ext},
		{"page fault", pf, 2<<32 | 1<<31 | 0xb0e, pf},
		{"guest's own page fault", vcpu.Event{}, 6<<32 | 1<<31 | 0xb0e, vcpu.Event{}},
		{"NMI", nmi, 1<<31 | 0x202, nmi},
		{"guest's INT n", vcpu.Event{}, 1<<31 | 0x480, vcpu.Event{}},
		{"guest's INT3", vcpu.Event{}, 1<<31 | 0x303, vcpu.Event{}},
		{"injected INT n", soft, 1<<31 | 0x480, vcpu.Event{Valid: true, Type: vcpu.EventSoft, Vector: 0x80}},
		{"another after it", ext, 1<<31 | 0x480, vcpu.Event{}},
		{"nonsense", vcpu.Event{}, 1<<31 | 0x7ff, vcpu.Event{}},
	} {
		v.pending, v.nmiBlocked = vcpu.Event{}, false
		if c.inject.Valid && !v.Inject(c.inject) {
			t.Fatal("Inject")
		}
		rip := v.vm.rip
		v.armEvent()
		if want := c.inject.Valid; (v.vm.eventInj>>31&1 == 1) != want {
			t.Errorf("%s: EVENTINJ %#x", c.name, v.vm.eventInj)
		}
		if v.vm.rip != rip+uint64(c.inject.Len) {
			t.Errorf("%s: RIP moved by %d", c.name, v.vm.rip-rip)
		}
		v.vm.exitIntInfo = c.info
		v.settleEvent()
		if v.Pending() != c.want {
			t.Errorf("%s: pending %+v, want %+v", c.name, v.Pending(), c.want)
		}
		if v.nmiBlocked {
			t.Errorf("%s: NMIs blocked by one that was not delivered", c.name)
		}
	}
	if v.pending = ext; v.Inject(pf) {
		t.Error("a second event was queued")
	}
}

// Processors with next-RIP saving push that for a software event, and an exit that is none of
// an instruction zeroes it.
func TestSoftwareEventsReturnBehindTheirInstructionAfterAFault(t *testing.T) {
	si := testSilicon
	si.features |= featNextRIP
	v, _, _ := newTestVCPU(t, si)
	for _, e := range []vcpu.Event{
		{Valid: true, Type: vcpu.EventSoft, Vector: 0x80, Len: 2},
		{Valid: true, Type: vcpu.EventSoftExc, Vector: vcpu.VecBP, Len: 1},
	} {
		v.vm.rip = 0x1000
		behind := v.vm.rip + uint64(e.Len)
		if !v.Inject(e) {
			t.Fatal("Inject")
		}
		for try := range 3 {
			v.armEvent()
			if v.vm.rip != behind || v.vm.nextRIP != behind {
				t.Errorf("%+v, injected %d times before: RIP %#x, next RIP %#x, want %#x", e, try, v.vm.rip, v.vm.nextRIP, behind)
			}
			v.vm.exitCode, v.vm.nextRIP = exitNPF, 0
			v.vm.exitIntInfo = v.vm.eventInj
			v.settleEvent()
		}
		v.pending = vcpu.Event{}
	}
}

// A trap flag of ours in a guest could get into its memory, with an exception that the stepped
// instruction raises. Silicon needs none to tell when a shadow is over.
func TestShadowsAreSteppedOverWhereNothingTellsOfTheirEnd(t *testing.T) {
	for _, steps := range []bool{false, true} {
		si := testSilicon
		si.features |= featNextRIP
		v, _, _ := newTestVCPU(t, si)
		v.space.b.stepsShadows = steps
		v.vm.rflags = 2 | flagIF
		v.regs.RFLAGS, v.vm.shadow = v.vm.rflags, 1
		v.WantInterrupt(4)
		v.armWindows()
		if step := v.vm.rflags&flagTF != 0; step != steps {
			t.Errorf("single step: %v, want %v", step, steps)
		}
		if irq := v.vm.vintr&vWindow == vIRQ|4<<vPrioShift && v.vm.intercepted(exitVINTR); irq == steps {
			t.Errorf("virtual interrupt: %v, want %v", irq, !steps)
		}
	}
	v, _, _ := newTestVCPU(t, testSilicon)
	if !v.space.b.stepsShadows || !mayBeBochs("BOCHS") || mayBeBochs("DELL") {
		t.Error("an emulator is taken for silicon, or silicon for an emulator")
	}
}

// On TCG an interrupt of the host that comes with an entry must not end the guest's shadow.
func TestShadowsOutlastExitsBeforeTheFirstInstruction(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	for _, c := range []struct{ entered, code, rip, want uint64 }{
		{1, exitINTR, 0x1000, 1}, {1, exitNPF, 0x1000, 1}, {0, exitINTR, 0x1000, 0}, {1, exitINTR, 0x1001, 0},
		{1, exitException + vcpu.VecDB, 0x1000, 0},
	} {
		v.regs.RIP, v.vm.rip, v.vm.exitCode, v.vm.shadow = 0x1000, c.rip, c.code, 0
		if v.keepShadow(c.entered); v.vm.shadow != c.want {
			t.Errorf("%+v: shadow %d", c, v.vm.shadow)
		}
	}
}

func TestDebugTrapsEndDetection(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	v.vm.dr7, v.vm.dr6, v.clean = 0x2400, 0xffff4ff0, cleanAll
	v.vm.exitCode = exitException + vcpu.VecDB
	var e vcpu.Exit
	if v.handle(&e) || v.Pending().Vector != vcpu.VecDB || v.Get(vcpu.DR7) != 0x400 || v.clean&cleanDR != 0 {
		t.Errorf("%+v queued, DR7 %#x in its handler, clean %#x", v.Pending(), v.Get(vcpu.DR7), v.clean)
	}
}

func TestASIDsAreNeverSharedWithinAGeneration(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	vs := []*VCPU{v}
	for range 5 {
		w, err := v.space.NewVCPU(len(vs))
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, w.(*VCPU))
	}
	c := &v.space.b.cpus[0]
	type tag struct {
		generation uint64
		asid       uint32
	}
	owner := map[tag]*VCPU{}
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		w := vs[r.IntN(len(vs))]
		before := c.generation
		w.vm.tlb = tlbKeep
		w.flush = w.flush || r.IntN(2) == 0
		w.place(c, 0, 1)
		w.flush = false
		k := tag{c.generation, w.vm.asid}
		if o := owner[k]; o != nil && o != w {
			t.Fatalf("%+v belongs to two", k)
		}
		owner[k] = w
		if w.vm.asid == 0 || w.vm.asid >= testSilicon.asids {
			t.Fatalf("ASID %d", w.vm.asid)
		}
		if (w.vm.tlb == tlbFlushAll) != (c.generation != before) {
			t.Fatalf("TLB control %d at generation %d after %d", w.vm.tlb, c.generation, before)
		}
	}
}

func TestDiscoverNamesWhatIsMissing(t *testing.T) {
	leaf := map[uint64][4]uint32{
		0x8000_0000: {0x8000_000a}, 0x8000_0001: {0, 0, 4, 1 << 26}, 0x8000_0008: {48},
		0x8000_000a: {1, 16, 0, featNested | featNextRIP}, 1: {0, 0, 1 << 27}, 0xd: {7, 832},
		2<<32 | 0xd: {256, 576},
	}
	vmcr := uint64(0)
	try := func() (silicon, error) {
		return discover(func(l, s uint32) (a, b, c, d uint32) {
			x := leaf[uint64(s)<<32|uint64(l)]
			return x[0], x[1], x[2], x[3]
		}, func(uint32) (uint64, bool) { return vmcr, true }, func() uint64 { return 7 })
	}
	s, err := try()
	if err != nil || s.asids != 16 || !s.page1G || s.xend[2] != 832 {
		t.Fatalf("%+v, %v", s, err)
	}
	if c := s.capabilities(); !c.NextRIP || c.DecodeAssist || len(c.Notes) == 0 {
		t.Errorf("%+v", c)
	}
	s.physBits = 52
	if c := s.capabilities(); c.GuestPhysBits != 48 {
		t.Errorf("four levels of tables translate %d bits", c.GuestPhysBits)
	}
	for _, c := range []struct {
		want  string
		leaf  uint64
		value [4]uint32
		vmcr  uint64
	}{
		{"ends at leaf 0x80000008", 0x8000_0000, [4]uint32{0x8000_0008}, 0},
		{"no AMD-V", 0x8000_0001, [4]uint32{}, 0},
		{"can not unlock", 0, [4]uint32{}, vmcrDisabled},
		{"locked it", 0x8000_000a, [4]uint32{1, 16, 0, featNested | featLock}, vmcrDisabled},
		{"nested paging", 0x8000_000a, [4]uint32{1, 16, 0, 0}, 0},
		{"address-space identifiers", 0x8000_000a, [4]uint32{1, 1, 0, featNested}, 0},
		{"XSAVE is missing", 1, [4]uint32{}, 0},
		{"area of 99999", 0xd, [4]uint32{7, 99999}, 0},
		{"component 2", 2<<32 | 0xd, [4]uint32{256, 600}, 0},
		{"60 bits", 0x8000_0008, [4]uint32{60}, 0},
	} {
		old := leaf[c.leaf]
		leaf[c.leaf], vmcr = c.value, c.vmcr
		if _, err := try(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.want, err)
		}
		leaf[c.leaf], vmcr = old, 0
	}
}

func TestSpaceRefusesModelsItCanNotKeep(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	for want, p := range map[string]vcpu.Policy{
		"XSAVE components 0x8": {XCR0: 15},
		"supervisor XSAVE":     {XSS: 1 << 8},
		"EFER bits 0x1000":     {EFER: eferSVME},
		"5-level":              {CR4: cr4LA57},
		"48 physical":          {PhysBits: 48},
	} {
		_, err := v.space.b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: v.space.cfg.Tables, CPUID: p})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestCloseFreesEverything(t *testing.T) {
	v, _, m := newTestVCPU(t, testSilicon)
	before := m.Live()
	w, err := v.space.NewVCPU(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.space.Close(); err == nil {
		t.Error("a space closed with open VCPUs")
	}
	if err := w.Close(); err != nil || m.Live() != before {
		t.Errorf("%v, %d bytes live, %d before", err, m.Live(), before)
	}
	if err := w.Close(); err == nil {
		t.Error("closed twice")
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if err := v.space.Close(); err != nil {
		t.Error(err)
	}
}

func TestKickBeforeRunIsNotLost(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	v.Kick()
	v.Kick()
	var e vcpu.Exit
	if err := v.Run(&e); err != nil || e.Reason != vcpu.ExitKicked || v.takeKick() {
		t.Errorf("%v, %v", e.Reason, err)
	}
}

// A machine check that comes while a guest runs is the host's: its handler runs once,
// the guest goes on if that returns, and loses no event that was being delivered.
func TestMachineChecksReachTheHost(t *testing.T) {
	v, _, _ := newTestVCPU(t, testSilicon)
	told := 0
	v.space.b.machineCheck = func() { told++ }
	if v.vm.exceptions&(1<<vcpu.VecMC) == 0 {
		t.Error("machine checks do not exit")
	}
	v.vm.exitCode = exitCPUID
	if v.handOver(); told != 0 {
		t.Error("CPUID is no machine check")
	}
	ext := vcpu.Event{Valid: true, Vector: 0x41}
	if !v.Inject(ext) {
		t.Fatal("Inject")
	}
	v.armEvent()
	v.vm.exitCode, v.vm.exitIntInfo = exitException+vcpu.VecMC, eventValid|0x41
	v.handOver()
	v.settleEvent()
	var e vcpu.Exit
	if v.handle(&e) {
		t.Errorf("the VMM is told of %v", e.Reason)
	}
	if told != 1 || v.Pending() != ext {
		t.Errorf("%d machine checks, %+v queued", told, v.Pending())
	}
}
