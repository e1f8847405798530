package vmx

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu/x86"
)

func TestDiscoverRecordedModels(t *testing.T) {
	for name, want := range map[string]struct {
		pml, ad, pause, timer, page1G bool
	}{
		"tigerlake":                 {true, true, true, true, true},
		"corei7_icelake_u":          {true, true, true, true, true},
		"broadwell_ult":             {false, true, true, true, true},
		"corei7_sandy_bridge_2600k": {false, false, false, true, false},
	} {
		m := newMachine(t, name)
		m.edx7, m.model = 1<<29, m.model.with(x86.MSRArchCapabilities, 1<<6) // IF_PSCHANGE_MC_NO
		s, err := discover(m)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := s.capabilities()
		if c.PML != want.pml || c.AccessedDirty != want.ad || c.PauseFilter != want.pause ||
			c.Preemption != want.timer || c.Page1G != want.page1G || !c.Page2M || !c.NextRIP || c.GuestPhysBits != 40 {
			t.Errorf("%s: %+v", name, c)
		}
		if (len(c.Notes) == 0) != (want.pml && want.ad && want.pause) {
			t.Errorf("%s: notes %q", name, c.Notes)
		}
		for k := range rules {
			v := allowedBy(m.model.msrs[rules[k].trueMSR])
			if got := s.controls[k]; got&^v.hi != 0 || v.lo&^got != 0 {
				t.Errorf("%s: %s controls %#x are not among those allowed, %#x", name, rules[k].name, got, v)
			}
		}
	}
}

func TestCodeInLargePagesNeedsTheProcessorsWord(t *testing.T) {
	m := newMachine(t, "corei7_icelake_u")
	for _, said := range []bool{false, true} {
		if said {
			m.edx7, m.model = 1<<29, m.model.with(x86.MSRArchCapabilities, 1<<6) // IF_PSCHANGE_MC_NO
		}
		s, err := discover(m)
		if err != nil {
			t.Fatal(err)
		}
		c := s.capabilities()
		noted := strings.Contains(strings.Join(c.Notes, "\n"), "IF_PSCHANGE_MC_NO")
		if c.SmallCode == said || noted == said {
			t.Errorf("the processor says that it is safe: %v; large pages hold no code: %v, and that is noted: %v", said, c.SmallCode, noted)
		}
	}
}

func TestRefusalsNameWhatIsMissing(t *testing.T) {
	good := models["corei7_icelake_u"]
	for _, c := range []struct {
		why  string
		m    model
		want string
	}{
		{"no unrestricted guest", models["corei5_lynnfield_750"], `"unrestricted guest"`},
		{"no EPT", models["core2_penryn_t9600"], `"enable EPT", "unrestricted guest"`},
		{"locked off", good.with(msrFeatureControl, 1), "firmware has locked VT-x off"},
		{"no TRUE MSRs", good.with(msrVMXBasic, 0x0058100000000004), "TRUE control MSRs"},
		{"32-bit VMCS", good.with(msrVMXBasic, 0x00d9100000000004), "above 4 GiB"},
		{"CR3 exits can not be off", good.with(0x48e, 0xfff9fffe04006172|procCR3Load), `can not switch off the primary processor-based control(s) "CR3-load exiting"`},
		{"interrupt window always on", good.with(0x48e, 0xfff9fffe04006172|procInterruptWindow), `can not switch off the primary processor-based control(s) "interrupt-window exiting"`},
		{"no virtual NMIs", good.with(0x48d, 0x0000005f00000016), `lacks the pin-based control(s) "virtual NMIs"`},
		{"no INVEPT", good.with(msrEPTVPIDCap, 0x00000f0106234141), "lacks INVEPT"},
		{"no WB", good.with(msrEPTVPIDCap, 0x00000f0106330141), "write-back memory"},
		{"exits do not store LMA", good.with(msrVMXMisc, 0x600401c0), "EFER.LMA"},
	} {
		m := newMachine(t, "tigerlake")
		m.model = c.m
		_, err := discover(m)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %s", c.why, err, c.want)
		}
	}
}

func TestFoldTakesWhatThereIs(t *testing.T) {
	r := &rule{name: "some", must: 1, may: 2, bits: map[uint32]string{1: "first"}}
	if v, err := r.fold(allowed{lo: 0x10, hi: 0x11}); v != 0x11 || err != nil {
		t.Errorf("%#x, %v", v, err)
	}
	if v, err := r.fold(allowed{lo: 0, hi: 3}); v != 3 || err != nil {
		t.Errorf("%#x, %v", v, err)
	}
	if _, err := r.fold(allowed{lo: 0, hi: 2}); err == nil || !strings.Contains(err.Error(), `"first"`) {
		t.Errorf("%v", err)
	}
}

func TestOpenEnablesEveryCPU(t *testing.T) {
	m := newMachine(t, "tigerlake")
	b, err := open(m, x86.Untrusted)
	if err != nil {
		t.Fatal(err)
	}
	for c := range m.cpus {
		if !m.on[c] {
			t.Errorf("CPU %d is not in VMX operation", c)
		}
		if r := b.cpus[c].vmxon.Data[0]; r != 4 {
			t.Errorf("CPU %d: revision %d in the VMXON region", c, r)
		}
	}
}

func TestFieldsAreDistinctAndWellFormed(t *testing.T) {
	for f, width := range map[field]uint{
		fVPID: 16, fGuestTR: 16, fHostTR: 16, fEPTPointer: 64, fGuestPhysical: 64, fHostEFER: 64,
		fSecondaryControls: 32, fExitInstruction: 32, fPreemptionTimer: 32, fHostSysenterCS: 32,
		fCR4Shadow: 64, fGuestLinear: 64, fGuestSysenterEIP: 64, fHostRIP: 64,
	} {
		if !f.valid() || f.width() != width {
			t.Errorf("field %#x: valid %v, width %d, want %d", f, f.valid(), f.width(), width)
		}
	}
	for _, f := range []field{fGuestPhysical, fInstructionError, fExitReason, fExitInstruction, fQualification, fGuestLinear} {
		if !f.readOnly() {
			t.Errorf("field %#x should be read-only", f)
		}
	}
	if fGuestCR0.readOnly() || fHostRIP.readOnly() || fEntryEvent.readOnly() {
		t.Error("a field that is written is read-only")
	}
}
