package vmx

import (
	"strings"
	"sync"
	"testing"
	"time"

	"godwit/vmm/vcpu"
)

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

func TestADeadlineEndsAStay(t *testing.T) {
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
}

// On Bochs an interrupt of the host can wait for the end of the stay.
func TestStaysAreShortWhereTheMachineMayBeBochs(t *testing.T) {
	for _, c := range []struct {
		oem  string
		most uint64
	}{{"BOCHS", 2_000_000}, {"", 2_000_000}, {"ALASKA", 1_000_000_000}} {
		m := newMachine(t, "corei7_icelake_u")
		m.oem = c.oem
		_, _, v := startOn(t, m)
		load(t, v, long())
		n := 0
		m.guest = func(g *guest) {
			if x := g.r.fields[fPreemptionTimer]; x < c.most/2 || x > c.most+1 {
				t.Errorf("firmware of %q: timer %d", c.oem, x)
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
