package vmx

import (
	"slices"
	"strings"
	"testing"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// openWith makes a VCPU on a processor with these bits of CPUID.7:EDX and capabilities,
// whose model has the controls.
func openWith(t *testing.T, edx7 uint32, caps uint64, c x86.Controls) (*simulated, *VCPU, error) {
	t.Helper()
	m := newMachine(t, "corei7_icelake_u")
	m.edx7, m.model = edx7, m.model.with(x86.MSRArchCapabilities, caps)
	b, err := open(m, x86.Untrusted)
	if err != nil {
		t.Fatal(err)
	}
	p := wide
	p.Controls = c
	s, err := b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: &tables{}, CPUID: p})
	if err != nil {
		return m, nil, err
	}
	v, err := s.NewVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	load(t, v.(*VCPU), long())
	return m, v.(*VCPU), nil
}

const (
	edxIBRS, edxSTIBP, edxL1D, edxCaps, edxSSBD = 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 31
	everything                                  = edxIBRS | edxSTIBP | edxL1D | edxSSBD
)

var allControls = x86.Controls{SpecCtrl: x86.SpecIBRS | x86.SpecSTIBP | x86.SpecSSBD, IBPB: true, FlushL1D: true}

// guestWrites has the guest write SPEC_CTRL, read it and halt; what it read, and what the
// CPU and the frame held in the end, comes back.
func guestWrites(t *testing.T, m *simulated, v *VCPU, x uint64) (read, inCPU, inFrame uint64) {
	t.Helper()
	steps := 0
	m.guest = func(g *guest) {
		r := &g.f.regs.GPR
		switch steps++; steps {
		case 1:
			r[vcpu.RCX], r[vcpu.RAX], r[vcpu.RDX] = x86.MSRSpecCtrl, x&0xffffffff, x>>32
			g.exit(reasonWRMSR, 0)
		case 2:
			g.exit(reasonRDMSR, 0)
		default:
			read, inCPU, inFrame = r[vcpu.RDX]<<32|r[vcpu.RAX], m.msrs[m.thisCPU()][x86.MSRSpecCtrl], g.f.spec
			g.exit(reasonHLT, 0)
		}
	}
	if e := run(t, v); e.Reason != vcpu.ExitHLT {
		t.Fatalf("exit %v", e.Reason)
	}
	return read, inCPU, inFrame
}

// With enhanced IBRS a guest runs with the host's bits and its own, and the host with its
// own again, on whichever CPU.
func TestGuestsHaveTheirSpecCtrlAndTheHostItsOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		edx7 uint32
		caps uint64
		host uint64
		hand bool // the entry writes it
	}{
		{"enhanced IBRS", everything | edxCaps, 1 << 1, x86.SpecIBRS, false},
		{"IBRS written at each exit", everything, 0, 0, true},
	} {
		m, v, err := openWith(t, c.edx7, c.caps, allControls)
		if err != nil {
			t.Fatal(err)
		}
		for x := range allControls.SpecCtrl + 1 {
			m.at.Store(int64(x & 1))
			read, inCPU, inFrame := guestWrites(t, m, v, x)
			if read != x || v.Get(vcpu.SpecCtrl) != x {
				t.Errorf("%s: %#x reads as %#x, and is %#x", c.name, x, read, v.Get(vcpu.SpecCtrl))
			}
			if c.hand && (inCPU != 0 || inFrame != x) || !c.hand && (inCPU != c.host|x || inFrame != 0) {
				t.Errorf("%s: with %#x the CPU holds %#x, the frame %#x", c.name, x, inCPU, inFrame)
			}
			for cpu := range m.cpus {
				if got := m.msrs[cpu][x86.MSRSpecCtrl]; got != c.host {
					t.Errorf("%s: after %#x CPU %d is left with %#x", c.name, x, cpu, got)
				}
			}
			// It is the same at the next stay, on the other CPU, and after Save and Load.
			m.at.Store(int64(^x & 1))
			var s vcpu.State
			v.Save(&s)
			load(t, v, &s)
			m.guest = func(g *guest) {
				if got := m.msrs[m.thisCPU()][x86.MSRSpecCtrl]; !c.hand && got != c.host|x || c.hand && g.f.spec != x {
					t.Errorf("%s: %#x at the next stay: %#x, in the frame %#x", c.name, x, got, g.f.spec)
				}
				g.exit(reasonHLT, 0)
			}
			run(t, v)
		}
	}
}

// A guest that leaves SPEC_CTRL alone costs no write of it.
func TestSpecCtrlIsNotTouchedForOthers(t *testing.T) {
	m, v, err := openWith(t, everything|edxCaps, 1<<1, allControls)
	if err != nil {
		t.Fatal(err)
	}
	for cpu := range m.cpus {
		m.msrs[cpu][x86.MSRSpecCtrl] = 0xdead // what enable has written, and nobody writes again
	}
	m.guest = halt
	run(t, v)
	for cpu := range m.cpus {
		if got := m.msrs[cpu][x86.MSRSpecCtrl]; got != 0xdead {
			t.Errorf("CPU %d's SPEC_CTRL was written: %#x", cpu, got)
		}
	}
}

// Bits that the model lacks fault in the guest, and are refused from outside.
func TestSpecCtrlBeyondTheModel(t *testing.T) {
	m, v, err := openWith(t, everything|edxCaps, 1<<1, x86.Controls{SpecCtrl: x86.SpecSTIBP})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []uint64{x86.SpecIBRS, x86.SpecSSBD | x86.SpecSTIBP, x86.SpecBHIDisS, 1 << 63} {
		steps := 0
		m.guest = func(g *guest) {
			if steps++; steps > 1 {
				if e := g.r.fields[fEntryEvent]; e&0xff != vcpu.VecGP || e&infoValid == 0 {
					t.Errorf("%#x: event %#x", bad, e)
				}
				halt(g)
				return
			}
			r := &g.f.regs.GPR
			r[vcpu.RCX], r[vcpu.RAX], r[vcpu.RDX] = x86.MSRSpecCtrl, bad&0xffffffff, bad>>32
			g.exit(reasonWRMSR, 0)
		}
		run(t, v)
		if v.Get(vcpu.SpecCtrl) != 0 || v.Set(vcpu.SpecCtrl, bad) == nil {
			t.Errorf("%#x was taken", bad)
		}
		s := long()
		s.Reg[vcpu.SpecCtrl] = bad
		if err := v.Load(s); err == nil || !strings.Contains(err.Error(), "SPEC_CTRL") {
			t.Errorf("%#x: error is %v", bad, err)
		}
	}
	// A model without any has no such register: the exit is the VMM's to answer.
	m, v, err = openWith(t, everything|edxCaps, 1<<1, x86.Controls{})
	if err != nil {
		t.Fatal(err)
	}
	m.guest = func(g *guest) {
		g.f.regs.GPR[vcpu.RCX] = x86.MSRSpecCtrl
		g.exit(reasonRDMSR, 0)
	}
	if e := run(t, v); e.Reason != vcpu.ExitRDMSR || e.MSR != x86.MSRSpecCtrl || v.Set(vcpu.SpecCtrl, 1) == nil {
		t.Errorf("exit %v of MSR %#x", e.Reason, e.MSR)
	}
}

// Commands are open for writing where the model has them, and nothing else is.
func TestCommandsAreOpenToModelsThatHaveThem(t *testing.T) {
	bitmap := func(c x86.Controls) []byte {
		_, v, err := openWith(t, everything|edxCaps, 1<<1, c)
		if err != nil {
			t.Fatal(err)
		}
		return v.s.msr.Data
	}
	plain := bitmap(x86.Controls{})
	for _, c := range []struct {
		x86.Controls
		msrs []uint32
	}{
		{x86.Controls{SpecCtrl: allControls.SpecCtrl}, nil},
		{x86.Controls{IBPB: true}, []uint32{x86.MSRPredCmd}},
		{allControls, []uint32{x86.MSRPredCmd, x86.MSRFlushCmd}},
	} {
		want := slices.Clone(plain)
		for _, msr := range c.msrs {
			if plain[2048+msr/8]>>(msr%8)&1 == 0 {
				t.Errorf("MSR %#x is open to all", msr)
			}
			want[2048+msr/8] &^= 1 << (msr % 8)
		}
		if !slices.Equal(bitmap(c.Controls), want) {
			t.Errorf("%v: the bitmap is another", c.Controls)
		}
	}
	if _, _, err := openWith(t, edxIBRS, 0, allControls); err == nil || !strings.Contains(err.Error(), "can not give to guests: stibp, ssbd, flush_l1d") {
		t.Errorf("error is %v", err)
	}
}

// Where each entry and exit writes SPEC_CTRL, a guest whose model has all of it does so
// without an exit: its system calls would each cost two otherwise.
func TestGuestsOwnSpecCtrlWhereItIsWrittenAtEachExit(t *testing.T) {
	for _, c := range []struct {
		name string
		edx7 uint32
		caps uint64
		x86.Controls
		own bool
	}{
		{"all of it", everything, 0, allControls, true},
		{"not SSBD, which the processor would take", everything, 0, x86.Controls{SpecCtrl: x86.SpecIBRS | x86.SpecSTIBP}, false},
		{"none", everything, 0, x86.Controls{IBPB: true}, false},
		{"enhanced IBRS", everything | edxCaps, 1 << 1, allControls, false},
	} {
		m, v, err := openWith(t, c.edx7, c.caps, c.Controls)
		if err != nil {
			t.Fatal(err)
		}
		for _, half := range []int{0, 2048} { // reads, writes
			if open := v.s.msr.Data[half+x86.MSRSpecCtrl/8]>>(x86.MSRSpecCtrl%8)&1 == 0; open != c.own {
				t.Errorf("%s: open is %v", c.name, open)
			}
		}
		if !c.own {
			continue
		}
		m.guest = func(g *guest) {
			if g.f.keep != 1 || g.f.spec != 0 {
				t.Errorf("%s: keep %d, %#x", c.name, g.f.keep, g.f.spec)
			}
			g.f.spec = x86.SpecSSBD | x86.SpecIBRS | 1<<9 // as the world switch read it
			g.exit(reasonCPUID, 0)
		}
		run(t, v)
		if got := v.Get(vcpu.SpecCtrl); got != x86.SpecSSBD|x86.SpecIBRS {
			t.Errorf("%s: SPEC_CTRL is %#x", c.name, got)
		}
		var s vcpu.State
		v.Save(&s)
		load(t, v, &s) // what it saved can be loaded
		if v.frame.spec != x86.SpecSSBD|x86.SpecIBRS {
			t.Errorf("%s: loaded, the next entry writes %#x", c.name, v.frame.spec)
		}
	}
}
