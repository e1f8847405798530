package vmx

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu"
)

// long is a 64-bit guest in the middle of its work.
func long() *vcpu.State {
	var s vcpu.State
	s.Reset(true)
	s.Reg[vcpu.CR0] = 0x80050033
	s.Reg[vcpu.CR3] = 0x1000
	s.Reg[vcpu.CR4] = cr4PAE | 1<<9
	s.Reg[vcpu.EFER] = eferSCE | eferLME | eferLMA | eferNXE
	s.Regs.RIP = 0xffffffff81000000
	s.Regs.RFLAGS = flagOnes | flagIF
	for i := range s.Seg {
		s.Seg[i] = vcpu.Segment{Selector: 0x18, Attr: 0xc093, Limit: 0xffffffff}
	}
	s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x10, Attr: 0xa09b, Limit: 0xffffffff}
	s.Seg[vcpu.LDTR] = vcpu.Segment{Attr: vcpu.AttrUnusable}
	s.Seg[vcpu.TR] = vcpu.Segment{Selector: 0x40, Attr: 0x8b, Limit: 0x67, Base: 0xfffffe0000001000}
	s.Seg[vcpu.GS].Base = 0xffff888000000000
	return &s
}

// pae is a 32-bit guest with PAE paging.
func pae() *vcpu.State {
	s := long()
	s.Reg[vcpu.EFER] = eferNXE
	s.Regs.RIP = 0xc0100000
	s.Seg[vcpu.CS].Attr = 0xc09b
	s.Seg[vcpu.TR].Base, s.Seg[vcpu.GS].Base = 0x1000, 0
	s.PDPTE = [4]uint64{0x2001, 0x3001, 0, 0x4001}
	return s
}

func real16() *vcpu.State {
	var s vcpu.State
	s.Reset(true)
	return &s
}

func v86() *vcpu.State {
	s := pae()
	s.Regs.RIP = 0x100
	s.Regs.RFLAGS |= flagVM
	for i := range vcpu.LDTR {
		s.Seg[i] = vcpu.Segment{Selector: 0x1234, Base: 0x12340, Limit: 0xffff, Attr: attrV86}
	}
	return s
}

func TestLoadTakesGoodStates(t *testing.T) {
	_, _, v := start(t)
	for name, s := range map[string]*vcpu.State{"long": long(), "pae": pae(), "real": real16(), "v86": v86()} {
		if err := v.Load(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadNamesTheCheckThatFails(t *testing.T) {
	type state = vcpu.State
	_, _, v := start(t)
	if err := v.Load(long()); err != nil {
		t.Fatal(err)
	}
	ext := vcpu.Event{Valid: true, Type: vcpu.EventInterrupt, Vector: 0x30}
	for _, c := range []struct {
		from func() *state
		harm func(*state)
		want string
	}{
		{long, func(s *state) { s.Reg[vcpu.CR0] |= 1 << 6 }, "CR0 0x80050073: reserved bits 0x40"},
		{real16, func(s *state) { s.Reg[vcpu.CR0] |= cr0PG }, "PG without PE"},
		{long, func(s *state) { s.Reg[vcpu.CR0] |= cr0NW }, "NW without CD"},
		{long, func(s *state) { s.Reg[vcpu.CR4] |= cr4VMXE }, "the CPU model lacks bits 0x2000"},
		{long, func(s *state) { s.Reg[vcpu.EFER] |= 1 << 12 }, "the CPU model lacks bits 0x1000"},
		{long, func(s *state) { s.Reg[vcpu.EFER] &^= eferLMA }, "LMA must be LME and PG"},
		{long, func(s *state) { s.Reg[vcpu.CR4] &^= cr4PAE }, "IA-32e mode without PAE"},
		{pae, func(s *state) { s.Reg[vcpu.CR4] |= cr4PCIDE }, "PCIDE outside IA-32e mode"},
		{long, func(s *state) { s.Reg[vcpu.CR3] = 1 << 40 }, "beyond 40 physical-address bits"},
		{long, func(s *state) { s.Reg[vcpu.LSTAR] = 1 << 47 }, "LSTAR = 0x800000000000: it is not canonical"},
		{long, func(s *state) { s.Reg[vcpu.PAT] = 2 }, "no memory type"},
		{long, func(s *state) { s.Reg[vcpu.DebugCtl] = 1 }, "DEBUGCTL = 0x1"},
		{long, func(s *state) { s.Reg[vcpu.DR7] = 1 << 32 }, "DR7"},
		{long, func(s *state) { s.Reg[vcpu.IDTLimit] = 1 << 16 }, "IDTR limit"},
		{long, func(s *state) { s.Reg[vcpu.XCR0] = xX87 | xAVX }, "AVX state needs SSE"},
		{long, func(s *state) { s.Reg[vcpu.XCR0] = 7 | 1<<5 }, "AVX-512 needs all three"},
		{long, func(s *state) { s.Seg[vcpu.CS].Attr |= vcpu.AttrUnusable }, "CS is unusable"},
		{long, func(s *state) { s.Seg[vcpu.CS].Attr |= vcpu.AttrDB }, "L and D"},
		{long, func(s *state) { s.Seg[vcpu.CS].Base = 1 << 32 }, "more than 32 bits"},
		{long, func(s *state) { s.Seg[vcpu.CS].Attr &^= typeAccessed }, "CS access rights 0xa09a: type 10"},
		{long, func(s *state) { s.Seg[vcpu.CS].Attr |= attrDPL }, "the privilege levels differ"},
		{long, func(s *state) { s.Seg[vcpu.SS].Attr |= 1 << 8 }, "SS access rights 0xc193: reserved bits"},
		{long, func(s *state) { s.Seg[vcpu.SS].Attr &^= 2 }, "SS access rights 0xc091: type 1"},
		{long, func(s *state) { s.Seg[vcpu.DS].Attr |= 1 << 17 }, "reserved bits"},
		{long, func(s *state) { s.Seg[vcpu.DS].Attr &^= 1 }, "DS access rights 0xc092: type 2"},
		{long, func(s *state) { s.Seg[vcpu.DS].Attr &^= vcpu.AttrS }, "S is wrong"},
		{long, func(s *state) { s.Seg[vcpu.ES].Limit = 0xffffeffe }, "ES limit 0xffffeffe is not one of 4 KiB granularity"},
		{long, func(s *state) { s.Seg[vcpu.GS].Base = 1 << 47 }, "GS base 0x800000000000 is not canonical"},
		{long, func(s *state) { s.Seg[vcpu.TR].Attr = 0x83 }, "IA-32e mode needs a busy 64-bit TSS"},
		{long, func(s *state) { s.Seg[vcpu.TR].Attr = 0x89 }, "TR access rights 0x89: type 9"},
		{long, func(s *state) { s.Seg[vcpu.TR].Selector = 0x44 }, "points into the LDT"},
		{long, func(s *state) { s.Seg[vcpu.LDTR] = vcpu.Segment{Attr: 0x8b} }, "LDTR access rights 0x8b: type 11"},
		{real16, func(s *state) { s.Seg[vcpu.SS].Attr |= attrDPL; s.Seg[vcpu.CS].Attr |= attrDPL }, "privilege level not 0 in real mode"},
		{v86, func(s *state) { s.Seg[vcpu.FS].Base++ }, "is not one of virtual-8086 mode"},
		{pae, func(s *state) { s.Regs.RIP = 1 << 32 }, "outside 64-bit mode"},
		{long, func(s *state) { s.Regs.RIP = 1 << 48 }, "RIP 0x1000000000000 is not canonical"},
		{long, func(s *state) { s.Regs.RFLAGS |= 1 << 15 }, "RFLAGS 0x8202: reserved bits"},
		{long, func(s *state) { s.Regs.RFLAGS &^= flagOnes }, "RFLAGS 0x200: reserved bits"},
		{long, func(s *state) { s.Regs.RFLAGS |= flagVM }, "VM in real or IA-32e mode"},
		{long, func(s *state) { s.STI, s.MovSS = true, true }, "at the same time"},
		{long, func(s *state) { s.STI = true; s.Regs.RFLAGS &^= flagIF }, "a shadow of STI, and IF is 0"},
		{long, func(s *state) { s.Pending = ext; s.Regs.RFLAGS &^= flagIF }, "IF is 0"},
		{long, func(s *state) { s.Pending = ext; s.MovSS = true }, "pending delivery in a shadow"},
		{long, func(s *state) {
			s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2}
			s.NMIBlock = true
		}, "NMIs are blocked"},
		{long, func(s *state) { s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 3} }, "NMI with vector 3"},
		{long, func(s *state) { s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 32} }, "exception 32"},
		{long, func(s *state) { s.Pending = vcpu.Event{Valid: true, Type: 1} }, "there is no type 1"},
		{long, func(s *state) { s.Pending = vcpu.Event{Valid: true, Type: 7} }, "there is no type 7"},
		{long, func(s *state) { s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventSoft, Len: 16} }, "instruction length 16"},
		{long, func(s *state) {
			s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 13, HasError: true, Error: 1 << 16}
		}, "more than 16 bits"},
		{pae, func(s *state) { s.PDPTE[1] |= 2 }, "PDPTE 1 0x3003: reserved bits"},
		{pae, func(s *state) { s.PDPTE[3] |= 1 << 40 }, "PDPTE 3"},
		{long, func(s *state) { s.XSAVE = s.XSAVE[:100] }, "XSAVE area of 100 bytes"},
		{long, func(s *state) { s.XSAVE[xOffBV+1] = 0xc }, "state components 0xc00"},
		{long, func(s *state) { s.XSAVE[xOffBV] |= xAVX }, "component 2 ends at 832"},
		{long, func(s *state) { s.XSAVE[xOffBV+15] = 0x80 }, "byte 15 is 0x80"},
		{long, func(s *state) { s.XSAVE[xOffMXCSR+2] = 1 }, "MXCSR is 0x11f80: reserved bits 0x10000"},
		{long, func(s *state) { s.XSAVE[xOffMXCSR+2] = 2 }, "MXCSR is 0x21f80: the guest uses AMD's misaligned SSE mode (bit 17), which this processor lacks"},
		{long, func(s *state) { s.Regs.CR8 = 16 }, "CR8"},
		{long, func(s *state) { s.Activity = vcpu.Shutdown + 1 }, "activity 4"},
	} {
		s := c.from()
		c.harm(s)
		err := v.Load(s)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
	var s vcpu.State
	v.Save(&s)
	if s.Regs != long().Regs || s.Seg != long().Seg {
		t.Error("a refused state has changed the VCPU")
	}
}

// FuzzLoad: whatever is loaded, either it is refused or the checks pass.
func FuzzLoad(f *testing.F) {
	f.Add(uint64(0x80050033), uint64(0x20), uint64(0xd01), uint64(2), uint32(0xa09b), uint32(0xc093), uint8(0), uint8(0))
	f.Add(uint64(0x10), uint64(0), uint64(0), uint64(0x20202), uint32(0x9b), uint32(0x93), uint8(3), uint8(14))
	f.Fuzz(func(t *testing.T, cr0, cr4, efer, flags uint64, cs, ss uint32, kind, vector uint8) {
		m, _, v := start(t)
		s := long()
		s.Reg[vcpu.CR0], s.Reg[vcpu.CR4], s.Reg[vcpu.EFER] = cr0, cr4, efer
		s.Regs.RFLAGS, s.Seg[vcpu.CS].Attr, s.Seg[vcpu.SS].Attr = flags, cs, ss
		s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventType(kind), Vector: vector, Len: 1}
		if v.Load(s) != nil {
			return
		}
		m.guest = func(g *guest) {
			if e := g.r.fields[fEntryEvent]; e&infoError != 0 && g.r.fields[fGuestCR0]&cr0PE == 0 {
				t.Errorf("event %#x in real mode", e)
			}
			if g.r.fields[fGuestCR4]&cr4VMXE == 0 || g.r.fields[fGuestCR0]&cr0NE == 0 {
				t.Errorf("CR0 %#x CR4 %#x", g.r.fields[fGuestCR0], g.r.fields[fGuestCR4])
			}
			g.exit(reasonHLT, 0)
		}
		run(t, v)
		var b vcpu.State
		v.Save(&b)
		if b.Reg[vcpu.CR0] != cr0|cr0ET || b.Reg[vcpu.CR4] != cr4 || b.Reg[vcpu.EFER] != efer {
			t.Errorf("CR0 %#x CR4 %#x EFER %#x became %#x %#x %#x", cr0, cr4, efer,
				b.Reg[vcpu.CR0], b.Reg[vcpu.CR4], b.Reg[vcpu.EFER])
		}
	})
}
