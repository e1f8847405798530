package svm

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

const ibrs, ssbd = 1 << 14, 1 << 24

// newSpecVCPU is one whose model has all the controls that the processor has.
func newSpecVCPU(t *testing.T, si silicon) *VCPU {
	t.Helper()
	old, _, _ := newTestVCPU(t, si)
	p := testPolicy
	p.Controls = si.offered
	s, err := old.space.b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: old.space.cfg.Tables, CPUID: p})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.NewVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	return v.(*VCPU)
}

// SPEC_CTRL is written at entries only for guests whose value asks for it, never without
// the host's bits, and not at all where the VMCB holds it.
func TestSpecCtrlIsSwitchedOnlyForWhoeverUsesIt(t *testing.T) {
	for _, c := range []struct {
		name     string
		features uint32
		ebx8     uint32
		host     uint64
		virtual  bool
	}{
		{"without STIBP", featNested | featNextRIP, ibpb | ibrs | ssbd, 0, false},
		{"with STIBP, which the host sets", featNested | featNextRIP, ibpb | ibrs | stibp | ssbd, x86.SpecSTIBP, false},
		{"and a place in the VMCB", featNested | featNextRIP | featSpecCtrl, ibpb | ibrs | stibp | ssbd, x86.SpecSTIBP, true},
	} {
		si := newChip(c.features, sigZen3, c.ebx8|btcNo, lfence).silicon(t, x86.Untrusted)
		v := newSpecVCPU(t, si)
		for x := range si.offered.SpecCtrl + 1 {
			if x&^si.offered.SpecCtrl != 0 {
				if v.Set(vcpu.SpecCtrl, x) == nil {
					t.Errorf("%s: %#x was taken", c.name, x)
				}
				continue
			}
			if err := v.Set(vcpu.SpecCtrl, x); err != nil {
				t.Fatal(err)
			}
			inside, differ := v.speculation()
			want := !c.virtual && x&^c.host != 0
			if inside != c.host|x || differ != want || v.byHand != want || v.Get(vcpu.SpecCtrl) != x {
				t.Errorf("%s: guest's %#x: %#x inside, written %v, by hand %v", c.name, x, inside, differ, v.byHand)
			}
			if place := v.vm.specCtrl; c.virtual && place != x || !c.virtual && place != 0 {
				t.Errorf("%s: guest's %#x: the VMCB has %#x", c.name, x, place)
			}
			var s, again vcpu.State
			v.Save(&s)
			v.Set(vcpu.SpecCtrl, 0)
			if err := v.Load(&s); err != nil {
				t.Fatal(err)
			}
			v.Save(&again)
			if s.Reg[vcpu.SpecCtrl] != x || again.Reg[vcpu.SpecCtrl] != x || v.byHand != want {
				t.Errorf("%s: %#x was saved as %#x, then %#x", c.name, x, s.Reg[vcpu.SpecCtrl], again.Reg[vcpu.SpecCtrl])
			}
		}
		// A guest that uses debug registers is switched by hand, too, and stays so.
		v.Set(vcpu.SpecCtrl, 0)
		v.shareDR(true)
		if v.Set(vcpu.SpecCtrl, x86.SpecSSBD); !v.byHand {
			t.Errorf("%s: debug registers are not switched", c.name)
		}
		if v.Set(vcpu.SpecCtrl, 0); !v.byHand {
			t.Errorf("%s: debug registers are not switched any more", c.name)
		}
	}
}

// Only the write of PRED_CMD is open, and only to those whose model has IBPB; no
// guest writes SPEC_CTRL by itself.
func TestOnlyModelsWithIBPBReachIt(t *testing.T) {
	si := newChip(featNested|featNextRIP|featSpecCtrl, sigZen3, ibpb|ibrs|stibp|ssbd|btcNo, lfence).silicon(t, x86.Untrusted)
	plain, _, _ := newTestVCPU(t, si)
	with := newSpecVCPU(t, si)
	b := with.space.b
	if plain.vm.msrpm == with.vm.msrpm || with.vm.msrpm != b.ibpbm.Phys {
		t.Error("both have the same permission map")
	}
	at := func(m []byte, msr uint32) byte {
		n, _ := msrBit(msr)
		return ^m[n/8] >> (n % 8) & 3
	}
	for _, base := range []uint32{0, 0xc000_0000, 0xc001_0000} {
		for msr := base; msr < base+0x2000; msr++ {
			want := at(b.msrpm.Data, msr)
			if msr == x86.MSRPredCmd {
				want = passWrite
			}
			if got := at(b.ibpbm.Data, msr); got != want {
				t.Errorf("MSR %#x: open for %b, want %b", msr, got, want)
			}
		}
	}
}

// Zen 1 has an IBPB and nothing else; a processor that promises bits which it does not take
// gives none.
func TestControlsThatTheProcessorDoesNotTake(t *testing.T) {
	zen1 := newChip(featNested|featNextRIP, sigZen1, ibpb, 0).silicon(t, x86.Untrusted)
	if got := zen1.capabilities().Controls; got != (x86.Controls{IBPB: true}) {
		t.Errorf("Zen 1: %+v", got)
	}
	deaf := newChip(featNested|featNextRIP, sigZen3, ibpb|ibrs|ssbd|btcNo, lfence)
	delete(deaf.msrs, x86.MSRSpecCtrl)
	si := deaf.silicon(t, x86.Untrusted)
	if got := si.capabilities().Controls; got != (x86.Controls{IBPB: true}) {
		t.Errorf("without the register: %+v", got)
	}
	full := newChip(featNested|featNextRIP, sigZen3, ibpb|ibrs|stibp|ssbd|btcNo, lfence)
	si = full.silicon(t, x86.Untrusted)
	if full.msrs[x86.MSRSpecCtrl] != x86.SpecSTIBP {
		t.Errorf("the trial leaves %#x in SPEC_CTRL", full.msrs[x86.MSRSpecCtrl])
	}
	other := deaf.processor()
	if si.takesControls(&other) {
		t.Error("another CPU lacks the register, and that is not seen")
	}
	v, _, _ := newTestVCPU(t, zen1)
	p := testPolicy
	p.Controls = x86.Controls{SpecCtrl: x86.SpecSSBD, IBPB: true}
	if _, err := v.space.b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: v.space.cfg.Tables, CPUID: p}); err == nil || !strings.Contains(err.Error(), "can not give: ssbd") {
		t.Errorf("error is %v", err)
	}
	var s vcpu.State
	longMode(&s)
	s.Reg[vcpu.SpecCtrl] = x86.SpecSSBD
	if err := v.Load(&s); err == nil || !strings.Contains(err.Error(), "SPEC_CTRL") {
		t.Errorf("error is %v", err)
	}
}
