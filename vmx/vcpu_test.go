package vmx

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"godwit/vmm/vcpu"
)

func load(t *testing.T, v *VCPU, s *vcpu.State) {
	t.Helper()
	if err := v.Load(s); err != nil {
		t.Fatal(err)
	}
}

// halt is a guest that does nothing.
func halt(g *guest) { g.exit(reasonHLT, 0) }

func TestStateSurvivesSaveAndLoad(t *testing.T) {
	m, _, v := start(t)
	m.guest = halt
	for name, s := range map[string]*vcpu.State{"long": long(), "pae": pae(), "real": real16(), "v86": v86()} {
		s.Regs.GPR[vcpu.R15], s.Regs.CR8 = 15, 3
		s.Reg[vcpu.CR2], s.Reg[vcpu.DR3], s.Reg[vcpu.TSCAux] = 0x1234, 0x5678, 7
		s.Reg[vcpu.XCR0] = 7
		s.XSAVE = append(s.XSAVE, make([]byte, 256)...)
		s.XSAVE[xOffBV] = 7
		s.XSAVE[600] = 0xaa
		s.NMIBlock = true
		load(t, v, s)
		run(t, v) // through the VMCS
		var got vcpu.State
		v.Save(&got)
		if got.TSC < s.TSC || got.TSC > s.TSC+1000 {
			t.Errorf("%s: TSC %d became %d", name, s.TSC, got.TSC)
		}
		n := normal(s)
		if got.Regs != n.Regs || got.Reg != n.Reg || got.Seg != n.Seg || got.PDPTE != n.PDPTE || !got.NMIBlock {
			t.Errorf("%s:\n%+v\nbecame\n%+v", name, n, got)
		}
		if !bytes.HasPrefix(got.XSAVE, s.XSAVE) {
			t.Errorf("%s: the XSAVE area has changed", name)
		}
	}
}

func TestExitsAreDecoded(t *testing.T) {
	type fields = map[field]uint64
	for _, c := range []struct {
		name   string
		reason uint64
		q      uint64
		fields fields
		want   vcpu.Exit
	}{
		{"hlt", reasonHLT, 0, nil, vcpu.Exit{Reason: vcpu.ExitHLT, Len: 2}},
		{"cpuid", reasonCPUID, 0, nil, vcpu.Exit{Reason: vcpu.ExitCPUID, Len: 2}},
		{"in", reasonIO, 0x3f8<<16 | ioIn, nil, vcpu.Exit{Reason: vcpu.ExitIO, Len: 2, Size: 1, In: true, Port: 0x3f8}},
		{"out dword", reasonIO, 0xcf8<<16 | 3, nil, vcpu.Exit{Reason: vcpu.ExitIO, Len: 2, Size: 4, Port: 0xcf8}},
		{"rep outsw", reasonIO, 0x1f0<<16 | 1 | ioString | ioRep, fields{fExitInstruction: 1<<7 | 3<<15, fGuestLinear: 0x99},
			vcpu.Exit{Reason: vcpu.ExitIO, Len: 2, Size: 2, Port: 0x1f0, String: true, Rep: true, AddrLen: 4, Seg: vcpu.DS, GVA: 0x99, HasGVA: true}},
		{"insb", reasonIO, 0x60<<16 | ioIn | ioString, fields{fExitInstruction: 2 << 7, fGuestLinear: 0x77},
			vcpu.Exit{Reason: vcpu.ExitIO, Len: 2, Size: 1, Port: 0x60, In: true, String: true, AddrLen: 8, Seg: vcpu.ES, GVA: 0x77, HasGVA: true}},
		{"rdmsr", reasonRDMSR, 0, nil, vcpu.Exit{Reason: vcpu.ExitRDMSR, Len: 2, MSR: 0x1b}},
		{"wrmsr", reasonWRMSR, 0, nil, vcpu.Exit{Reason: vcpu.ExitWRMSR, Len: 2, MSR: 0x1b, Value: 0x2_00000001}},
		{"read fault", reasonEPTViolation, eptRead | eptHasLinear | eptFinal, fields{fGuestPhysical: 0xfee00020, fGuestLinear: 0x20},
			vcpu.Exit{Reason: vcpu.ExitMemory, Access: vcpu.Read, GPA: 0xfee00020, GVA: 0x20, HasGVA: true}},
		{"write to read-only", reasonEPTViolation, eptWrite | 1<<3 | 1<<5 | eptHasLinear | eptFinal, fields{fGuestPhysical: 0x1000},
			vcpu.Exit{Reason: vcpu.ExitMemory, Access: vcpu.Write, GPA: 0x1000, HasGVA: true, Mapped: true}},
		{"walk", reasonEPTViolation, eptRead | eptWrite | eptHasLinear, fields{fGuestPhysical: 0x2000},
			vcpu.Exit{Reason: vcpu.ExitMemory, Access: vcpu.Read | vcpu.Write | vcpu.PageWalk, GPA: 0x2000, HasGVA: true}},
		{"fetch", reasonEPTViolation, eptFetch, fields{fGuestPhysical: 0x3000},
			vcpu.Exit{Reason: vcpu.ExitMemory, Access: vcpu.Exec, GPA: 0x3000}},
		{"vmcall", reasonVMCALL, 0, nil, vcpu.Exit{Reason: vcpu.ExitHypercall, Len: 2}},
		{"triple fault", reasonTripleFault, 0, nil, vcpu.Exit{Reason: vcpu.ExitShutdown}},
		{"task switch", reasonTaskSwitch, 0x40000028, nil, vcpu.Exit{Reason: vcpu.ExitTaskSwitch, Len: 2, Task: vcpu.TaskSwitch{Selector: 0x28, Cause: vcpu.TaskIRET, Insn: true}}},
		{"task gate of an interrupt", reasonTaskSwitch, 3<<30 | 0x38, fields{fVectoringEvent: 0x41 | infoValid}, vcpu.Exit{Reason: vcpu.ExitTaskSwitch,
			Task: vcpu.TaskSwitch{Selector: 0x38, Cause: vcpu.TaskGate, Event: vcpu.Event{Valid: true, Vector: 0x41}}}},
		{"task gate of INT n", reasonTaskSwitch, 3<<30 | 0x38, fields{fVectoringEvent: 0x80 | 4<<8 | infoValid}, vcpu.Exit{Reason: vcpu.ExitTaskSwitch, Len: 2,
			Task: vcpu.TaskSwitch{Selector: 0x38, Cause: vcpu.TaskGate, Insn: true, Event: vcpu.Event{Valid: true, Type: vcpu.EventSoft, Vector: 0x80, Len: 2}}}},
		{"wbinvd", reasonWBINVD, 0, nil, vcpu.Exit{Reason: vcpu.ExitWBINVD, Len: 2}},
		{"invd", reasonINVD, 0, nil, vcpu.Exit{Reason: vcpu.ExitWBINVD, Len: 2}},
		{"pause", reasonPAUSE, 0, nil, vcpu.Exit{Reason: vcpu.ExitPause, Len: 2}},
		{"monitor", reasonMONITOR, 0, nil, vcpu.Exit{Reason: vcpu.ExitMonitor, Len: 2}},
		{"mwait", reasonMWAIT, 0, nil, vcpu.Exit{Reason: vcpu.ExitMonitor, Len: 2}},
		{"xsetbv", reasonXSETBV, 0, nil, vcpu.Exit{Reason: vcpu.ExitXSETBV, Len: 2}},
		{"vmxon", reasonVMXON, 0, nil, vcpu.Exit{Reason: vcpu.ExitOther, Len: 2}},
		{"getsec", reasonGETSEC, 0, nil, vcpu.Exit{Reason: vcpu.ExitOther, Len: 2}},
		{"init", reasonINIT, 0, nil, vcpu.Exit{Reason: vcpu.ExitINIT}},
		{"misconfiguration", reasonEPTMisconfig, 0, nil, vcpu.Exit{Reason: vcpu.ExitInternal, Value: reasonEPTMisconfig}},
		{"a reason of the future", 200, 0, nil, vcpu.Exit{Reason: vcpu.ExitInternal, Value: 200}},
	} {
		m, _, v := start(t)
		load(t, v, long())
		r := v.Regs()
		r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = 0x1b, 1, 2
		m.guest = func(g *guest) {
			for f, x := range c.fields {
				g.r.fields[f] = x
			}
			g.exit(c.reason, c.q)
		}
		if e := run(t, v); e != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, e, c.want)
		}
	}
}

func TestInterruptedEventsAreInjectedAgain(t *testing.T) {
	for _, e := range []vcpu.Event{
		{Valid: true, Type: vcpu.EventInterrupt, Vector: 0x31},
		{Valid: true, Type: vcpu.EventNMI, Vector: 2},
		{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, Error: 6, CR2: 0x1234},
		{Valid: true, Type: vcpu.EventSoft, Vector: 0x80, Len: 2},
		{Valid: true, Type: vcpu.EventSoftExc, Vector: 3, Len: 1},
	} {
		m, _, v := start(t)
		load(t, v, long())
		if !v.Inject(e) {
			t.Fatalf("%+v: refused", e)
		}
		if v.Inject(e) {
			t.Errorf("%+v: two events queued", e)
		}
		if v.Pending() != e || v.CanInterrupt() || v.CanNMI() {
			t.Errorf("%+v: pending %+v", e, v.Pending())
		}
		want := uint64(e.Vector) | uint64(e.Type)<<8 | infoValid
		if e.HasError {
			want |= infoError
		}
		n := 0
		m.guest = func(g *guest) {
			if got := g.r.fields[fEntryEvent]; got != want {
				t.Errorf("%+v: injected as %#x, want %#x", e, got, want)
			}
			if g.r.fields[fEntryLength] != uint64(e.Len) && e.Len != 0 || e.HasError && g.r.fields[fEntryErrorCode] != uint64(e.Error) {
				t.Errorf("%+v: length %d, error %#x", e, g.r.fields[fEntryLength], g.r.fields[fEntryErrorCode])
			}
			if e.CR2 != 0 && g.f.cr2 != e.CR2 {
				t.Errorf("%+v: CR2 %#x", e, g.f.cr2)
			}
			if n++; n == 1 { // its delivery faults on memory
				g.r.fields[fVectoringEvent] = want
				g.r.fields[fVectoringErrorCode] = uint64(e.Error)
				g.r.fields[fExitLength] = uint64(e.Len)
				if e.Type == vcpu.EventNMI {
					g.r.fields[fGuestInterruptibility] |= blockNMI
				}
				g.exit(reasonEPTViolation, eptWrite)
				return
			}
			if e.Type == vcpu.EventNMI && g.r.fields[fGuestInterruptibility]&blockNMI != 0 {
				t.Error("an NMI injected while NMIs are blocked")
			}
			g.exit(reasonHLT, 0)
		}
		run(t, v)
		if p := v.Pending(); p != e {
			t.Errorf("after the fault %+v is pending, want %+v", p, e)
		}
		run(t, v)
		if v.Pending().Valid {
			t.Errorf("%+v: still pending after delivery", e)
		}
	}
}

func TestRealModeGetsNoErrorCodes(t *testing.T) {
	m, _, v := start(t)
	v.Inject(vcpu.GP())
	m.guest = func(g *guest) {
		if e := g.r.fields[fEntryEvent]; e != infoValid|3<<8|13 {
			t.Errorf("injected %#x", e)
		}
		halt(g)
	}
	run(t, v)
}

func TestProtectedModeAlwaysGetsThem(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	v.Inject(vcpu.Event{Type: vcpu.EventException, Vector: vcpu.VecGP})
	m.guest = func(g *guest) {
		if e := g.r.fields[fEntryEvent]; e != infoValid|infoError|3<<8|13 || g.r.fields[fEntryErrorCode] != 0 {
			t.Errorf("injected %#x, error %#x", e, g.r.fields[fEntryErrorCode])
		}
		halt(g)
	}
	run(t, v)
}

func TestInterruptsWaitForTheirWindow(t *testing.T) {
	m, _, v := start(t)
	s := long()
	s.Regs.RFLAGS &^= flagIF
	load(t, v, s)
	ext := vcpu.Event{Type: vcpu.EventInterrupt, Vector: 0x51}
	if v.CanInterrupt() || v.Inject(ext) {
		t.Error("an interrupt with IF=0")
	}
	v.WantInterrupt(5)
	n := 0
	m.guest = func(g *guest) {
		n++
		window := g.r.fields[fPrimaryControls]&procInterruptWindow != 0
		switch n {
		case 1:
			if !window || g.r.fields[fTPRThreshold] != 0 {
				t.Errorf("window %v, threshold %d; want the window", window, g.r.fields[fTPRThreshold])
			}
			v.apic.Data[virtualTPR] = 7 << 4 // MOV CR8 does not exit upwards
			g.r.fields[fGuestRFLAGS] |= flagIF
			g.exit(reasonIntrWindow, 0)
		case 2: // the priority holds it back now
			if window || g.r.fields[fTPRThreshold] != 5 {
				t.Errorf("window %v, threshold %d; want the threshold", window, g.r.fields[fTPRThreshold])
			}
			v.apic.Data[virtualTPR] = 4 << 4
			g.r.fields[fGuestInterruptibility] = blockSTI
			g.exit(reasonTPR, 0)
		case 3:
			if !window {
				t.Error("no window behind STI")
			}
			g.r.fields[fGuestInterruptibility] = 0
			g.exit(reasonIntrWindow, 0)
		default:
			t.Fatal("entered once too often")
		}
	}
	if e := run(t, v); e.Reason != vcpu.ExitInterruptWindow || v.Regs().CR8 != 4 || !v.CanInterrupt() {
		t.Errorf("%v, CR8 %d", e.Reason, v.Regs().CR8)
	}
	if !v.Inject(ext) {
		t.Error("refused in an open window")
	}
	m.guest = func(g *guest) {
		if g.r.fields[fPrimaryControls]&procInterruptWindow != 0 {
			t.Error("a satisfied request exits again")
		}
		halt(g)
	}
	run(t, v)
}

func TestNMIWindow(t *testing.T) {
	m, _, v := start(t)
	s := long()
	s.NMIBlock = true
	load(t, v, s)
	nmi := vcpu.Event{Type: vcpu.EventNMI, Vector: 2}
	if v.CanNMI() || v.Inject(nmi) {
		t.Error("an NMI inside the handler of another")
	}
	v.WantNMI(true)
	m.guest = func(g *guest) {
		if g.r.fields[fPrimaryControls]&procNMIWindow == 0 {
			t.Error("no NMI window")
		}
		g.r.fields[fGuestInterruptibility] = 0
		g.exit(reasonNMIWindow, 0)
	}
	if e := run(t, v); e.Reason != vcpu.ExitInterruptWindow || !v.Inject(nmi) {
		t.Errorf("%v", e.Reason)
	}
}

func TestFaultingIRETLeavesNMIsBlocked(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonEPTViolation, eptRead|infoUnblocks) }
	run(t, v)
	if v.CanNMI() {
		t.Error("NMIs are open")
	}
	m.guest = func(g *guest) {
		if g.r.fields[fGuestInterruptibility] != blockNMI {
			t.Error("NMIs are open in the VMCS")
		}
		halt(g)
	}
	run(t, v)
}

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

func TestRunRefusesARIPThatIsNotCanonical(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	v.Regs().RIP = 1 << 50
	var e vcpu.Exit
	if err := v.Run(&e); err == nil || !strings.Contains(err.Error(), "RIP 0x4000000000000 is not canonical") {
		t.Errorf("%v", err)
	}
	load(t, v, long())
	m.guest = halt
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

func TestMSRsHandledInside(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	write := func(msr uint32, x uint64) (fault bool) {
		r := v.Regs()
		r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = uint64(msr), x&0xffffffff, x>>32
		n := 0
		m.guest = func(g *guest) {
			if n++; n == 1 {
				g.exit(reasonWRMSR, 0)
				return
			}
			fault = g.r.fields[fEntryEvent]&infoValid != 0
			halt(g)
		}
		run(t, v)
		return fault
	}
	for _, c := range []struct {
		msr   uint32
		x     uint64
		fault bool
		reg   vcpu.Reg
	}{
		{msrLSTAR, 0xffffffff81000100, false, vcpu.LSTAR},
		{msrLSTAR, 1 << 47, true, 0},
		{msrSTAR, 0x23001000000000, false, vcpu.STAR},
		{msrTSCAux, 5, false, vcpu.TSCAux},
		{msrTSCAux, 1 << 32, true, 0},
		{msrEFER, 0x501, false, vcpu.EFER},
		{msrEFER, 0x1d01, true, 0},
		{msrEFER, 1, true, 0}, // LME while paging is on
		{msrDebugCtl, debugBTF, false, vcpu.DebugCtl},
		{msrDebugCtl, 1, true, 0},
		{msrXSS, 1 << 8, true, 0},
	} {
		if got := write(c.msr, c.x); got != c.fault {
			t.Errorf("WRMSR %#x, %#x: fault %v", c.msr, c.x, got)
		} else if !c.fault && v.Get(c.reg) != c.x {
			t.Errorf("WRMSR %#x, %#x: the register holds %#x", c.msr, c.x, v.Get(c.reg))
		}
	}
	for cpu, want := range map[int]map[uint32]uint64{0: {msrSTAR: 0x1111, msrLSTAR: 0x2222, msrSFMASK: 0x3333}} {
		for msr, x := range want {
			if m.msrs[cpu][msr] != x {
				t.Errorf("host MSR %#x is %#x after the guest ran", msr, m.msrs[cpu][msr])
			}
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

func TestDebugAndAlignmentTrapsGoToTheGuest(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	n := 0
	m.guest = func(g *guest) {
		switch n++; n {
		case 1:
			g.r.fields[fExitEvent] = infoValid | 3<<8 | vcpu.VecDB
			g.exit(reasonException, dr6BS|1)
		case 2:
			if e := g.r.fields[fEntryEvent]; e != infoValid|3<<8|vcpu.VecDB {
				t.Errorf("injected %#x", e)
			}
			g.r.fields[fExitEvent] = infoValid | infoError | 3<<8 | vcpu.VecAC
			g.exit(reasonException, 0)
		case 3:
			if e := g.r.fields[fEntryEvent]; e != infoValid|infoError|3<<8|vcpu.VecAC {
				t.Errorf("injected %#x", e)
			}
			halt(g)
		}
	}
	run(t, v)
	if d := v.Get(vcpu.DR6); d != dr6Ones|dr6BS|1 {
		t.Errorf("DR6 %#x", d)
	}
	if n := v.Stats().Exits[vcpu.ExitException]; n != 2 {
		t.Errorf("%d exceptions counted", n)
	}
}

func TestHostNMIAndMachineCheckReachTheHost(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	n := 0
	m.guest = func(g *guest) {
		switch n++; n {
		case 1:
			g.r.fields[fExitEvent] = infoValid | 2<<8 | 2
			g.exit(reasonException, 0)
		case 2:
			g.r.fields[fExitEvent] = infoValid | 3<<8 | vcpu.VecMC
			g.exit(reasonException, 0)
		default:
			halt(g)
		}
	}
	run(t, v)
	if m.nmis != 1 || m.mces != 1 || v.Stats().Exits[vcpu.ExitHost] != 2 {
		t.Errorf("%d NMIs, %d machine checks", m.nmis, m.mces)
	}
}

func TestKickBeforeAndDuringRun(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	v.Kick()
	v.Kick()
	if e := run(t, v); e.Reason != vcpu.ExitKicked {
		t.Errorf("kicked before: %v", e.Reason)
	}
	m.guest = func(g *guest) {
		v.Kick()
		v.Kick()
		g.exit(reasonInterrupt, 0)
	}
	if e := run(t, v); e.Reason != vcpu.ExitKicked || len(m.kicks) != 1 {
		t.Errorf("kicked during: %v, %d interrupts", e.Reason, len(m.kicks))
	}
	m.guest = func(g *guest) {
		v.Kick()
		halt(g)
	}
	if e := run(t, v); e.Reason != vcpu.ExitHLT {
		t.Errorf("an exit lost to a kick: %v", e.Reason)
	}
	if e := run(t, v); e.Reason != vcpu.ExitKicked {
		t.Errorf("a kick lost to an exit: %v", e.Reason)
	}
	m.guest = halt
	if e := run(t, v); e.Reason != vcpu.ExitHLT {
		t.Errorf("kicked twice: %v", e.Reason)
	}
}

// TestKickStress: no kick is lost, whenever it comes.
func TestKickStress(t *testing.T) {
	var w word
	const rounds = 20000
	var seen, sent int
	var interrupt = make(chan struct{}, 1)
	ack := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for range rounds {
			if _, send := w.kick(); send {
				sent++
				interrupt <- struct{}{}
			}
			<-ack
		}
	}()
	for seen < rounds {
		if w.takeKick() {
			seen++
			ack <- struct{}{}
			continue
		}
		if w.enter(3) {
			select {
			case <-interrupt: // the guest's run ends
			case <-time.After(time.Microsecond):
			}
			w.leave()
			select {
			case <-interrupt: // it came between
			default:
			}
		}
	}
	wg.Wait()
	t.Logf("%d of %d kicks needed an interrupt", sent, rounds)
}

func TestVMCSFollowsTheThread(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonCPUID, 0) }
	for i := range 20 {
		m.at.Store(int64(i / 3 % 2))
		run(t, v) // the simulated machine reports a VMCS active on two CPUs
		if v.home != i/3%2 {
			t.Fatalf("run %d: VMCS on CPU %d", i, v.home)
		}
	}
	if n := len(m.tags); n < 7 {
		t.Errorf("the tag was flushed %d times in 7 moves", n)
	}
	m.at.Store(0)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range m.regions {
		if r.active != nowhere {
			t.Errorf("a VMCS is active on CPU %d after Close", r.active)
		}
	}
}

func TestGetFetchesFromAnotherCPU(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) {
		g.r.fields[fGuestCR3] = 0x9000
		g.exit(reasonCPUID, 0)
	}
	run(t, v)
	m.at.Store(1)
	if x := v.Get(vcpu.CR3); x != 0x9000 {
		t.Errorf("CR3 %#x", x)
	}
	run(t, v)
}

func TestTwoVCPUsOnOneCPU(t *testing.T) {
	m, _, v := start(t)
	w_, err := v.s.NewVCPU(1)
	if err != nil {
		t.Fatal(err)
	}
	w := w_.(*VCPU)
	if v.vpid == w.vpid || v.vpid == 0 || w.vpid == 0 {
		t.Errorf("VPIDs %d and %d", v.vpid, w.vpid)
	}
	load(t, v, long())
	load(t, w, pae())
	m.guest = func(g *guest) {
		g.f.regs.GPR[vcpu.RAX] = g.r.fields[fGuestRIP]
		g.exit(reasonCPUID, 0)
	}
	for range 4 {
		run(t, v)
		run(t, w)
		if v.Regs().GPR[vcpu.RAX] != long().Regs.RIP || w.Regs().GPR[vcpu.RAX] != pae().Regs.RIP {
			t.Fatalf("%#x %#x", v.Regs().GPR[vcpu.RAX], w.Regs().GPR[vcpu.RAX])
		}
	}
	if _, err := v.s.NewVCPU(1); err == nil {
		t.Error("two VCPUs with one index")
	}
}

func TestGenerationFlushesOncePerCPU(t *testing.T) {
	m, tab, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonCPUID, 0) }
	flushes := func() int {
		n := len(m.invepts)
		run(t, v)
		return len(m.invepts) - n
	}
	if n := flushes(); n != 1 {
		t.Errorf("first entry: %d flushes", n)
	}
	if n := flushes(); n != 0 {
		t.Errorf("second entry: %d", n)
	}
	tab.generation.Add(1)
	if n := flushes(); n != 1 {
		t.Errorf("after a change: %d", n)
	}
	m.at.Store(1)
	if n := flushes(); n != 1 {
		t.Errorf("on another CPU: %d", n)
	}
	if e := m.invepts[len(m.invepts)-1]; e != 0x7000|eptpAD|eptpFourLevel|eptpWriteBack {
		t.Errorf("EPT pointer %#x", e)
	}
}

func TestSyncWaitsForOldEntries(t *testing.T) {
	m, tab, v := start(t)
	load(t, v, long())
	v.s.Sync() // nobody is inside
	done := make(chan struct{})
	m.guest = func(g *guest) {
		tab.generation.Add(1)
		go func() { v.s.Sync(); close(done) }()
		select {
		case <-done:
			t.Error("Sync returned while a VCPU used old translations")
		case <-time.After(5 * time.Millisecond):
		}
		m.guest = halt
		g.exit(reasonInterrupt, 0)
	}
	run(t, v)
	<-done
	if len(m.kicks) == 0 {
		t.Error("nobody was interrupted")
	}
}

func TestPageModificationLogIsDrained(t *testing.T) {
	m, tab, v := start(t)
	load(t, v, long())
	log := logEntries(v.pml.Data)
	m.guest = func(g *guest) {
		if g.r.fields[fPMLIndex] != 511 || g.r.fields[fPMLAddress] != v.pml.Phys {
			t.Errorf("index %d", g.r.fields[fPMLIndex])
		}
		log[511], log[510] = 0x1000, 0x2000
		g.r.fields[fPMLIndex] = 509
		g.exit(reasonCPUID, 0)
	}
	run(t, v)
	if len(tab.logged) != 2 || tab.logged[0] != 0x2000 || tab.logged[1] != 0x1000 {
		t.Errorf("logged %#x", tab.logged)
	}
	tab.logged = nil
	n := 0
	m.guest = func(g *guest) {
		if n++; n > 1 {
			halt(g)
			return
		}
		g.r.fields[fPMLIndex] = 0xffff
		g.exit(reasonPMLFull, 0)
	}
	run(t, v)
	if len(tab.logged) != 512 {
		t.Errorf("%d entries of a full log", len(tab.logged))
	}
}

func TestDeadlineAndSlice(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.now.Store(1000)
	v.SetDeadline(5000)
	m.guest = func(g *guest) {
		if n := g.r.fields[fPreemptionTimer]; n < 3900 || n > 4001 {
			t.Errorf("timer %d", n)
		}
		m.now.Store(6000)
		g.exit(reasonTimer, 0)
	}
	if e := run(t, v); e.Reason != vcpu.ExitDeadline {
		t.Errorf("%v", e.Reason)
	}
	m.guest = nil
	if e := run(t, v); e.Reason != vcpu.ExitDeadline {
		t.Errorf("a deadline that has passed: %v", e.Reason)
	}
	v.SetDeadline(0)
	n := 0
	m.guest = func(g *guest) {
		if x := g.r.fields[fPreemptionTimer]; x == 0 || x > sliceNS+1 {
			t.Errorf("timer %d without a deadline", x)
		}
		if n++; n < 3 {
			g.exit(reasonTimer, 0) // the slice is over: the host gets its turn
			return
		}
		halt(g)
	}
	if e := run(t, v); e.Reason != vcpu.ExitHLT {
		t.Errorf("%v", e.Reason)
	}
}

func TestEntryFailuresAreExplained(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) {
		g.r.fields[fGuestESAttr+2*field(vcpu.TR)] = 0x83 // what no check saw
		g.exit(reasonEntryFailed|reasonEntryState, 0)
	}
	var e vcpu.Exit
	err := v.Run(&e)
	if err == nil || !strings.Contains(err.Error(), "TR access rights 0x83: IA-32e mode needs a busy 64-bit TSS") {
		t.Errorf("%v", err)
	}
	if again := v.Run(&e); again != err {
		t.Errorf("the second Run: %v", again)
	}
	load(t, v, long())
	m.guest = halt
	run(t, v) // Load makes it usable again
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

func TestRunDoesNotAllocate(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonCPUID, 0) }
	var e vcpu.Exit
	v.Run(&e)
	n := testing.AllocsPerRun(100, func() {
		v.Run(&e)
		v.Skip(e.Len)
		v.Get(vcpu.CR4)
		v.Segment(vcpu.CS)
	})
	if n > 1 { // the simulated machine's
		t.Errorf("%v allocations a Run", n)
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	m := newMachine(t, "tigerlake")
	b, err := open(m)
	if err != nil {
		t.Fatal(err)
	}
	before := m.Live()
	for range 3 {
		s, err := b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: wide})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.NewVCPU(0)
		if err != nil {
			t.Fatal(err)
		}
		if s.Close() == nil {
			t.Error("closed with a VCPU in it")
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if v.Close() == nil || v.Run(&vcpu.Exit{}) == nil {
			t.Error("a closed VCPU is used")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if m.Live() != before {
		t.Errorf("%d bytes live, %d before", m.Live(), before)
	}
	m.Limit = before + 5*4096
	s, err := b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: wide})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewVCPU(0); err == nil {
		t.Error("a VCPU without memory")
	}
	s.Close()
	if m.Live() != before {
		t.Errorf("%d bytes live after running out, %d before", m.Live(), before)
	}
}

func TestSpaceRefusesWhatTheHostLacks(t *testing.T) {
	m := newMachine(t, "corei7_sandy_bridge_2600k")
	b, err := open(m)
	if err != nil {
		t.Fatal(err)
	}
	plain := vcpu.Policy{CR4: 0x6f0, XCR0: 7, EFER: 0xd01, PhysBits: 36, RDTSCP: true}
	for want, change := range map[string]func(*vcpu.SpaceConfig){
		"page tables":  func(c *vcpu.SpaceConfig) { c.Tables = nil },
		"INVPCID":      func(c *vcpu.SpaceConfig) { c.CPUID.INVPCID = true },
		"XSAVES":       func(c *vcpu.SpaceConfig) { c.CPUID.XSAVES = true },
		"supervisor":   func(c *vcpu.SpaceConfig) { c.CPUID.XSS = 1 << 11 },
		"XSAVE":        func(c *vcpu.SpaceConfig) { c.CPUID.XCR0 |= 1 << 17 },
		"VMX":          func(c *vcpu.SpaceConfig) { c.CPUID.CR4 |= cr4VMXE },
		"CR4 bits 0x2": func(c *vcpu.SpaceConfig) { c.CPUID.CR4 |= 1 << 21 },
	} {
		c := vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: plain}
		change(&c)
		if _, err := b.NewSpace(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	if _, err := b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: plain}); err != nil {
		t.Error(err)
	}
}

func TestActivityStates(t *testing.T) {
	m, _, v := start(t)
	m.guest = func(g *guest) { g.exit(reasonCPUID, 0) }
	s := long()
	s.Activity = vcpu.Halted
	load(t, v, s)
	if e := run(t, v); e.Reason != vcpu.ExitHLT || e.Len != 0 {
		t.Errorf("halted: %+v", e)
	}
	if e := run(t, v); e.Reason != vcpu.ExitCPUID {
		t.Errorf("awake: %v", e.Reason)
	}
	var ap vcpu.State
	ap.Reset(false)
	load(t, v, &ap)
	if err := v.Run(&vcpu.Exit{}); err == nil || !strings.Contains(err.Error(), "waits for a start-up interrupt") {
		t.Errorf("%v", err)
	}
	ap.SIPI(0x9a)
	load(t, v, &ap)
	m.guest = func(g *guest) {
		if g.r.fields[fGuestCS] != 0x9a00 || g.r.fields[fGuestRIP] != 0 {
			t.Errorf("CS %#x RIP %#x", g.r.fields[fGuestCS], g.r.fields[fGuestRIP])
		}
		g.exit(reasonTripleFault, 0)
	}
	for range 2 {
		if e := run(t, v); e.Reason != vcpu.ExitShutdown {
			t.Errorf("%v", e.Reason)
		}
	}
}
