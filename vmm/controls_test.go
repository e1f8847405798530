package vmm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"godwit/vmm/cpuid"
	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/state"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// withControls is a machine that has run and is paused, of a CPU model.
func withControls(t *testing.T, r *rig, model string) *VM {
	t.Helper()
	cfg := config(1)
	cfg.Model = model
	vm, err := New(r.Host, cfg, kernel())
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	if err := vm.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Stop(gone); vm.Delete() })
	return vm
}

func saved(t *testing.T, vm *VM) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := vm.SaveState(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The guest has SPEC_CTRL only if its model does, with the model's bits; the commands can
// not be read.
func TestSpeculationControlsAreTheModels(t *testing.T) {
	r := newRig(printer)
	plain := withControls(t, r, "").cpus[0]
	some := withControls(t, r, "godwit-v1+ibpb+stibp").cpus[0]
	for _, msr := range []uint32{x86.MSRSpecCtrl, x86.MSRPredCmd, x86.MSRFlushCmd, x86.MSRArchCapabilities} {
		if _, ok := plain.readMSR(msr); ok || plain.writeMSR(msr, 0) {
			t.Errorf("a model without it has MSR %#x", msr)
		}
	}
	for _, msr := range []uint32{x86.MSRPredCmd, x86.MSRFlushCmd} {
		if _, ok := some.readMSR(msr); ok {
			t.Errorf("MSR %#x can be read", msr)
		}
	}
	if v, ok := some.readMSR(x86.MSRSpecCtrl); !ok || v != 0 {
		t.Errorf("SPEC_CTRL is %#x, %v", v, ok)
	}
	for _, bad := range []uint64{x86.SpecIBRS, x86.SpecSSBD | x86.SpecSTIBP, 1 << 10, 1 << 63} {
		if some.writeMSR(x86.MSRSpecCtrl, bad) {
			t.Errorf("SPEC_CTRL took %#x", bad)
		}
	}
	if !some.writeMSR(x86.MSRSpecCtrl, x86.SpecSTIBP) {
		t.Error("SPEC_CTRL did not take STIBP")
	}
	if v, _ := some.readMSR(x86.MSRSpecCtrl); v != x86.SpecSTIBP {
		t.Errorf("SPEC_CTRL is %#x", v)
	}
}

// The state of a machine without them is what it was before there were any, so that it
// moves to and from older releases; with them it has one register more.
func TestSpecCtrlIsPartOfTheState(t *testing.T) {
	r := newRig(printer)
	section := func(b []byte) (s state.Section) {
		for in := bytes.NewReader(b); s.Name != "vcpu/0"; {
			var err error
			if s, err = state.ReadSection(in); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	plain, with := withControls(t, r, ""), withControls(t, r, "+spec")
	if !with.cpus[0].writeMSR(x86.MSRSpecCtrl, x86.SpecSSBD) {
		t.Fatal("SSBD refused")
	}
	a, b := section(saved(t, plain)), section(saved(t, with))
	const registers = 28 // of version 1
	if a.Version != 1 || b.Version != 2 || len(b.Payload) != len(a.Payload)+8 || a.Payload[19*8] != registers {
		t.Errorf("versions %d and %d, %d and %d bytes, %d registers", a.Version, b.Version, len(a.Payload), len(b.Payload), a.Payload[19*8])
	}

	to, err := NewFromSpec(newRig(printer).Host, with.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := to.LoadState(bytes.NewReader(saved(t, with))); err != nil {
		t.Fatal(err)
	}
	if v, ok := to.cpus[0].readMSR(x86.MSRSpecCtrl); !ok || v != x86.SpecSSBD {
		t.Errorf("moved, SPEC_CTRL is %#x, %v", v, ok)
	}
	if !bytes.Equal(saved(t, to), saved(t, with)) {
		t.Error("saved again it differs")
	}
	to.Abandon()

	// A processor's section of version 1, loaded where the model has the register: it is 0.
	c := cpuState{with.cpus[0]}
	if err := a.Load(c); err != nil {
		t.Fatal(err)
	}
	if v := c.v.Get(vcpu.SpecCtrl); v != 0 {
		t.Errorf("from version 1, SPEC_CTRL is %#x", v)
	}
	// Bits that the model lacks, and a register that it lacks, are refused.
	bad := b
	bad.Payload = bytes.Clone(b.Payload)
	bad.Payload[19*8+2+registers*8] = 1 << 5
	if err := bad.Load(c); err == nil || !strings.Contains(err.Error(), "SPEC_CTRL") {
		t.Errorf("error is %v", err)
	}
	if err := b.Load(cpuState{plain.cpus[0]}); err == nil {
		t.Error("a machine without SPEC_CTRL took a state with it")
	}
}

// A host that can not keep the promise says so before anything is sent.
func TestAHostWithoutTheControlsRefusesTheMachineByName(t *testing.T) {
	from := withControls(t, newRig(printer), "godwit-v1+spec")
	poor := newRig(printer)
	poor.b.Caps = vcpu.Capabilities{GuestPhysBits: 46, XCR0: 3, Page2M: true, Controls: x86.Controls{SpecCtrl: x86.SpecIBRS, IBPB: true}}
	poor.Host.CPU = cpuid.NewHost(fakecpu.CPUID, poor.b.Capabilities())
	if _, err := NewFromSpec(poor.Host, from.Spec()); err == nil || !strings.Contains(err.Error(), "this host lacks stibp, ssbd for CPU model godwit-v1+spec") {
		t.Errorf("error is %v", err)
	}
	poor.leaks(t)
}

// INIT leaves SPEC_CTRL alone, as it does most MSRs (SDM vol. 3, table 9-1).
func TestSpecCtrlAfterINIT(t *testing.T) {
	r := newRig(printer)
	cfg := config(2)
	cfg.Model = "+spec"
	vm, err := New(r.Host, cfg, kernel())
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Delete()
	c := vm.cpus[1]
	if !c.writeMSR(x86.MSRSpecCtrl, x86.SpecSTIBP) {
		t.Fatal("STIBP refused")
	}
	c.initSignal()
	if v, _ := c.readMSR(x86.MSRSpecCtrl); v != x86.SpecSTIBP {
		t.Errorf("after INIT SPEC_CTRL is %#x", v)
	}
}

// A native machine tells the next host whose processor it was made on, and goes on only on
// one that says the same of itself.
func TestANativeMachineTakesItsIdentityAlong(t *testing.T) {
	host := func(vendor string, caps uint64) *rig {
		r := newRig(printer)
		c := r.b.Capabilities()
		c.ArchCapabilities = caps
		r.b.Caps = c
		r.Host.CPU = cpuid.NewHost(func(l, sub uint32) (a, b, cx, d uint32) {
			a, b, cx, d = fakecpu.CPUID(l, sub)
			le := binary.LittleEndian
			if l == 0 {
				b, cx, d = le.Uint32([]byte(vendor)), le.Uint32([]byte(vendor[8:])), le.Uint32([]byte(vendor[4:]))
			}
			return a, b, cx, d
		}, c)
		return r
	}
	from := withControls(t, host("GenuineIntel", 1<<5|1<<7), "native")
	c := from.cpus[0]
	if v, ok := c.readMSR(x86.MSRArchCapabilities); !ok || v != 1<<5 || c.writeMSR(x86.MSRArchCapabilities, v) {
		t.Errorf("capabilities %#x, %v", v, ok)
	}
	to, err := NewFromSpec(host("GenuineIntel", 1<<5).Host, from.Spec())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Abandon()
	if err := to.LoadState(bytes.NewReader(saved(t, from))); err != nil {
		t.Fatal(err)
	}
	if v, _ := to.cpus[0].readMSR(x86.MSRArchCapabilities); v != 1<<5 {
		t.Errorf("moved, the capabilities are %#x", v)
	}
	for want, r := range map[string]*rig{"lacks mds_no": host("GenuineIntel", 0), "lacks a GenuineIntel processor": host("AuthenticAMD", 0)} {
		if _, err := NewFromSpec(r.Host, from.Spec()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v", err)
		}
		r.leaks(t)
	}
}
