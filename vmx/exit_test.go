package vmx

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu"
)

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

// One that comes during an entry ends it before the guest runs. The guest's state is
// whole, but the entry is not tried again: the host's handler, which has run, did not
// expect to return.
func TestMachineCheckDuringAnEntryReachesTheHost(t *testing.T) {
	m, _, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonEntryFailed|reasonEntryMachine, 0) }
	var e vcpu.Exit
	if err := v.Run(&e); err == nil || !strings.Contains(err.Error(), "VM entry failed: machine check") {
		t.Errorf("%v", err)
	}
	if m.mces != 1 || m.nmis != 0 {
		t.Errorf("%d machine checks, %d NMIs", m.mces, m.nmis)
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
