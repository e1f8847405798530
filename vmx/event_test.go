package vmx

import (
	"testing"

	"godwit/vmm/vcpu"
)

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

// A processor may report the window while STI's shadow, in which no NMI is injected, has not
// ended: it would do so after each entry, before the instruction that ends it.
func TestAnNMIDoesNotHaltAGuestInTheShadowOfSTI(t *testing.T) {
	m, _, v := start(t)
	s := long()
	s.Regs.RFLAGS |= flagIF
	s.STI = true
	load(t, v, s)
	v.WantNMI(true)
	n := 0
	m.guest = func(g *guest) {
		if n++; n > 10 {
			t.Fatal("entered again and again without an instruction executed")
		}
		if g.r.fields[fPrimaryControls]&procNMIWindow != 0 {
			g.exit(reasonNMIWindow, 0)
			return
		}
		g.r.fields[fGuestInterruptibility] = 0
		g.r.fields[fGuestRIP]++
		if g.r.fields[fPrimaryControls]&procInterruptWindow == 0 {
			t.Error("nothing tells that the shadow is over")
			halt(g)
			return
		}
		g.exit(reasonIntrWindow, 0)
	}
	if e := run(t, v); e.Reason != vcpu.ExitInterruptWindow || !v.CanNMI() || v.Regs().RIP != s.Regs.RIP+1 {
		t.Errorf("%v at RIP %#x, began at %#x", e.Reason, v.Regs().RIP, s.Regs.RIP)
	}
}

func TestDebugTrapsEndDetectionAndBranchSteps(t *testing.T) {
	for _, info := range []uint64{3<<8 | vcpu.VecDB, 5<<8 | vcpu.VecDB} { // a single step, INT1
		m, _, v := start(t)
		s := long()
		s.Reg[vcpu.DR7] = dr7Ones | dr7GD
		s.Reg[vcpu.DebugCtl] = debugBTF
		load(t, v, s)
		n := 0
		m.guest = func(g *guest) {
			if n++; n == 1 {
				g.r.fields[fExitEvent] = infoValid | info
				g.exit(reasonException, dr6BS)
				return
			}
			halt(g)
		}
		run(t, v)
		if v.Get(vcpu.DR7) != dr7Ones || v.Get(vcpu.DebugCtl) != 0 {
			t.Errorf("event %#x: DR7 %#x, DEBUGCTL %#x in its handler", info, v.Get(vcpu.DR7), v.Get(vcpu.DebugCtl))
		}
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

func TestSecondLevelFaultsOweNoSingleStep(t *testing.T) {
	for _, shadow := range []uint64{0, blockMovSS} {
		m, _, v := start(t)
		s := long()
		s.Regs.RFLAGS |= flagTF
		load(t, v, s)
		m.guest = func(g *guest) {
			g.r.fields[fGuestInterruptibility] = shadow
			g.r.fields[fGuestPendingDebug] = pendingBS
			g.exit(reasonEPTViolation, eptFetch)
		}
		run(t, v)
		m.guest = func(g *guest) {
			if got := g.r.fields[fGuestPendingDebug] & pendingBS; (got != 0) != (shadow != 0) {
				t.Errorf("interruptibility %d: pending debug exceptions %#x", shadow, got)
			}
			halt(g)
		}
		run(t, v)
	}
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
