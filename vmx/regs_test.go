package vmx

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu"
)

func TestSkipEndsShadows(t *testing.T) {
	m, _, v := start(t)
	s := long()
	load(t, v, s)
	m.guest = func(g *guest) { // STI; HLT
		g.r.fields[fGuestInterruptibility] = blockSTI
		g.r.fields[fGuestRFLAGS] |= flagRF
		g.exit(reasonHLT, 0)
	}
	e := run(t, v)
	if v.CanInterrupt() {
		t.Error("an interrupt in the shadow of STI")
	}
	v.Skip(e.Len)
	if !v.CanInterrupt() || v.Regs().RIP != s.Regs.RIP+2 || v.Regs().RFLAGS&flagRF != 0 {
		t.Errorf("after Skip: %+v", v.Regs())
	}
	m.guest = func(g *guest) {
		if g.r.fields[fGuestInterruptibility] != 0 || g.r.fields[fGuestRIP] != s.Regs.RIP+2 {
			t.Error("the VMCS does not know")
		}
		halt(g)
	}
	run(t, v)
}

func TestSkipWrapsOutside64BitMode(t *testing.T) {
	m, _, v := start(t)
	s := pae()
	s.Regs.RIP = 0xffffffff
	load(t, v, s)
	m.guest = halt
	e := run(t, v)
	v.Skip(e.Len)
	m.guest = func(g *guest) {
		if rip := g.r.fields[fGuestRIP]; rip != 1 {
			t.Errorf("RIP %#x", rip)
		}
		halt(g)
	}
	run(t, v)
}

func TestControlRegisterBitsOfTheHost(t *testing.T) {
	mov := func(cr, reg uint64) uint64 { return cr | reg<<crReg }
	_, _, v := start(t)
	m := v.m.(*simulated)
	load(t, v, long())
	v.Regs().GPR[vcpu.RBX] = 0x80050033 | cr0CD
	n := 0
	m.guest = func(g *guest) {
		if n++; n == 1 {
			g.exit(reasonCR, mov(0, vcpu.RBX))
			return
		}
		if s := g.r.fields[fCR0Shadow]; s&(cr0CD|cr0NW|cr0NE) != cr0CD|cr0NE || g.r.fields[fGuestCR0]&cr0CD != 0 {
			t.Errorf("shadow %#x, CR0 %#x", s, g.r.fields[fGuestCR0])
		}
		if rip := g.r.fields[fGuestRIP]; rip != long().Regs.RIP {
			t.Errorf("the instruction is not repeated: RIP %#x", rip)
		}
		halt(g)
	}
	run(t, v)
	if cr0 := v.Get(vcpu.CR0); cr0 != 0x80050033|cr0CD {
		t.Errorf("CR0 %#x", cr0)
	}

	for name, x := range map[string]struct{ cr, value uint64 }{
		"NW without CD": {0, 0x80050033 | cr0NW},
		"PG without PE": {0, 0x80050032},
		"bit 32":        {0, 1<<32 | 0x80050033},
		"VMXE":          {4, cr4PAE | cr4VMXE},
		"no PAE":        {4, 1 << 9},
	} {
		load(t, v, long())
		v.Regs().GPR[vcpu.RBX] = x.value
		n := 0
		m.guest = func(g *guest) {
			if n++; n == 1 {
				g.exit(reasonCR, mov(x.cr, vcpu.RBX))
				return
			}
			if e := g.r.fields[fEntryEvent]; e != infoValid|infoError|3<<8|13 {
				t.Errorf("%s: injected %#x, want #GP", name, e)
			}
			halt(g)
		}
		run(t, v)
	}
}

// A MOV to CR0 exits while its operand differs from the shadow in a bit of the mask
// (SDM vol. 3, 25.1.3).
func TestMovToCR0ExitsOnceAtMost(t *testing.T) {
	m, _, v := start(t)
	for _, x := range []uint64{0x80050033, 0x80050023, 0x80050033 | 1<<6, 0x80050033 | cr0CD | 1<<28, 0x80050013} {
		load(t, v, long())
		v.Regs().GPR[vcpu.RBX] = x
		exits := 0
		m.guest = func(g *guest) {
			if (x^g.r.fields[fCR0Shadow])&g.r.fields[fCR0Mask] == 0 || exits > 1 {
				halt(g)
				return
			}
			exits++
			g.exit(reasonCR, vcpu.RBX<<crReg)
		}
		if e := run(t, v); e.Reason != vcpu.ExitHLT || exits > 1 {
			t.Errorf("MOV of %#x to CR0: %d exits, then %v", x, exits, e.Reason)
		}
	}
}

func TestGuestRunsWithItsOwnMSRs(t *testing.T) {
	m, _, v := start(t)
	s := long()
	s.Reg[vcpu.STAR], s.Reg[vcpu.LSTAR], s.Reg[vcpu.KernelGSBase], s.Reg[vcpu.TSCAux] = 1, 2, 3, 4
	load(t, v, s)
	m.guest = func(g *guest) {
		h := m.msrs[m.thisCPU()]
		if h[msrSTAR] != 1 || h[msrLSTAR] != 2 || h[msrKernelGSBase] != 3 || h[msrTSCAux] != 4 {
			t.Errorf("MSRs %#x", h)
		}
		h[msrKernelGSBase] = 0x30 // SWAPGS
		halt(g)
	}
	run(t, v)
	if x := v.Get(vcpu.KernelGSBase); x != 0x30 {
		t.Errorf("KERNEL_GS_BASE %#x", x)
	}
	m.msrs[0][msrKernelGSBase] = 0x99 // another guest's, on this CPU, meanwhile
	m.at.Store(1)
	m.guest = func(g *guest) {
		if h := m.msrs[1]; h[msrKernelGSBase] != 0x30 || h[msrTSCAux] != 4 {
			t.Errorf("on the other CPU: %#x", h)
		}
		h := m.msrs[1]
		h[msrKernelGSBase] = 0x40
		halt(g)
	}
	run(t, v)
	m.at.Store(0) // where nobody else has run meanwhile
	m.guest = func(g *guest) {
		if x := m.msrs[0][msrKernelGSBase]; x != 0x40 {
			t.Errorf("back on the first CPU: KERNEL_GS_BASE %#x", x)
		}
		halt(g)
	}
	run(t, v)
}

func TestDebugRegistersAreLoadedWhenTouched(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	if err := v.Set(vcpu.DR1, 0x11); err != nil {
		t.Fatal(err)
	}
	n := 0
	m.guest = func(g *guest) {
		if n++; n == 1 {
			if g.r.fields[fPrimaryControls]&procMOVDR == 0 || m.dr.dr1 == 0x11 {
				t.Error("loaded too early")
			}
			g.exit(reasonDR, 0)
			return
		}
		if g.r.fields[fPrimaryControls]&procMOVDR != 0 || m.dr.dr1 != 0x11 {
			t.Error("not loaded")
		}
		m.dr.dr2 = 0x22
		g.r.fields[fGuestDR7] = 0x401
		halt(g)
	}
	run(t, v)
	if v.Get(vcpu.DR2) != 0x22 || v.Get(vcpu.DR7) != 0x401 {
		t.Errorf("DR2 %#x DR7 %#x", v.Get(vcpu.DR2), v.Get(vcpu.DR7))
	}
	m.dr = debugRegs{}
	m.guest = func(g *guest) {
		if m.dr.dr1 != 0x11 || g.r.fields[fPrimaryControls]&procMOVDR != 0 {
			t.Error("a breakpoint is on, and the registers are not loaded")
		}
		halt(g)
	}
	run(t, v)
}

func TestSetChecksLikeTheInstruction(t *testing.T) {
	_, _, v := start(t)
	load(t, v, long())
	for _, c := range []struct {
		r    vcpu.Reg
		x    uint64
		want string
	}{
		{vcpu.CR0, 0x80050032, "paging without protection"},
		{vcpu.CR0, 0x00050033, "paging can not end in 64-bit mode"},
		{vcpu.CR4, 0, "PAE can not be off"},
		{vcpu.CR3, 1 << 41, "does not fit 40"},
		{vcpu.EFER, 0x401, "LME can not change"},
		{vcpu.XCR0, 2, "x87 state can not be off"},
		{vcpu.XCR0, 1 << 17, "CPU model lacks"},
		{vcpu.LSTAR, 1 << 63, "not canonical"},
		{vcpu.PAT, 0x0303, "no memory type"},
		{vcpu.NumRegs, 0, "no register"},
	} {
		if err := v.Set(c.r, c.x); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Set(%d, %#x): %v, want %q", c.r, c.x, err, c.want)
		}
	}
	for r, x := range map[vcpu.Reg]uint64{vcpu.CR0: 0x80050033 &^ cr0WP, vcpu.CR3: 0x5000, vcpu.CR4: cr4PAE, vcpu.XCR0: 7, vcpu.DR7: 0x403} {
		if err := v.Set(r, x); err != nil || v.Get(r) != x {
			t.Errorf("Set(%d, %#x): %v, %#x", r, x, err, v.Get(r))
		}
	}
	g := v.Segment(vcpu.SS)
	g.Attr |= attrDPL
	if err := v.SetSegment(vcpu.SS, g); err != nil {
		t.Errorf("one segment alone: %v", err)
	}
	var e vcpu.Exit
	if err := v.Run(&e); err == nil || !strings.Contains(err.Error(), "privilege levels differ") {
		t.Errorf("Run with CS and SS that do not match: %v", err)
	}
}
