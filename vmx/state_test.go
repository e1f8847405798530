package vmx

import (
	"bytes"
	"testing"

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

// A trap that waits for the next entry is not lost if the state is saved before it.
func TestSaveFindsAPendingSingleStep(t *testing.T) {
	m, _, v := start(t)
	s := long()
	s.NMIBlock = true
	load(t, v, s)
	v.WantNMI(true)
	m.guest = func(g *guest) {
		g.r.fields[fGuestInterruptibility] = 0 // so that there is no next entry
		g.r.fields[fGuestRFLAGS] |= flagTF
		g.f.regs.GPR[vcpu.RCX] = msrDebugCtl
		g.exit(reasonRDMSR, 0)
	}
	if e := run(t, v); e.Reason != vcpu.ExitInterruptWindow {
		t.Fatal(e.Reason)
	}
	var got vcpu.State
	v.Save(&got)
	if !got.Pending.Valid || got.Pending.Vector != vcpu.VecDB || got.Reg[vcpu.DR6]&dr6BS == 0 {
		t.Errorf("pending %+v, DR6 %#x", got.Pending, got.Reg[vcpu.DR6])
	}
}
