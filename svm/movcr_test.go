package svm

import (
	"testing"

	"godwit/vmm/vcpu"
)

func TestMachineChecksStayOnWhateverTheGuestWants(t *testing.T) {
	v, ram, _ := newTestVCPU(t, testSilicon)
	v.space.cfg.CPUID.CR4 |= cr4MCE
	var s vcpu.State
	s.Reset(true)
	longMode(&s)
	if err := v.Load(&s); err != nil {
		t.Fatal(err)
	}
	view := s.Reg[vcpu.CR4]
	check := func(what string, want uint64, exits bool) {
		t.Helper()
		var now vcpu.State
		v.Save(&now)
		if v.Get(vcpu.CR4) != want || now.Reg[vcpu.CR4] != want || v.vm.save.cr4 != want|cr4MCE || (v.vm.readCR>>4&1 != 0) != exits {
			t.Errorf("%s: CR4 %#x, saved %#x, in the VMCB %#x, reads exit: %v", what, v.Get(vcpu.CR4), now.Reg[vcpu.CR4], v.vm.save.cr4, v.vm.readCR>>4&1)
		}
	}
	check("loaded without", view, true)
	if err := v.Set(vcpu.CR4, view|cr4MCE); err != nil {
		t.Fatal(err)
	}
	check("set", view|cr4MCE, false)
	if err := v.Set(vcpu.CR4, view); err != nil {
		t.Fatal(err)
	}
	check("cleared", view, true)

	// mov r9, cr4
	copy(ram[0x1000:], []byte{0x41, 0x0f, 0x20, 0xe1, 0xf4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	r := v.Regs()
	r.RIP, v.vm.rip = 0x1000, 0x1000
	v.vm.exitCode = exitReadCR + 4
	var e vcpu.Exit
	v.vm.cr0 &^= cr0PG // the code is where its address says
	if v.handle(&e) || r.GPR[vcpu.R9] != view || r.RIP != 0x1004 {
		t.Errorf("R9 %#x, want %#x; RIP %#x; exit %v %#x", r.GPR[vcpu.R9], view, r.RIP, e.Reason, e.Value)
	}
}
