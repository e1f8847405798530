package svm

import (
	"testing"

	"godwit/vmm/vcpu"
)

// An INT that is in memory is executed, one that is not is translated anew: on TCG, and
// nowhere else do they exit.
func TestStaleInterruptInstructionsAreNotExecuted(t *testing.T) {
	other := testSilicon
	other.features |= featNextRIP
	if v, _, _ := newTestVCPU(t, other); v.vm.intercepted(exitSoftInt) {
		t.Error("INT n exits where nothing is wrong with it")
	}
	for _, c := range []struct {
		insn string
		pass bool
	}{
		{"\xcc", true}, {"\xcd\x80", true}, {"\xce", true}, {"\x66\xcd\x80", true}, {"\x90", false}, {"\x0f\x1f\x44\x00\x00", false}, {"\x66\x90", false},
		{"", true}, // there is no code any more: it is fetched again, and faults
	} {
		v, ram, _ := newTestVCPU(t, testSilicon)
		var s vcpu.State
		s.Reset(true)
		s.Seg[vcpu.CS] = vcpu.Segment{Attr: 0x9b, Limit: 0xffff}
		s.Regs.RIP = 0xfe
		if c.insn == "" {
			s.Regs.RIP = testRAM - 0x10
			s.Seg[vcpu.CS].Base = 0x100
		}
		if err := v.Load(&s); err != nil {
			t.Fatal(err)
		}
		copy(ram[0xfe:], c.insn)
		before := string(ram)
		var e vcpu.Exit
		v.vm.exitCode = exitSoftInt
		if v.handle(&e) || v.pending.Valid || v.regs.RIP != s.Regs.RIP || string(ram) != before {
			t.Errorf("% x: exit %v, pending %+v, RIP %#x", c.insn, e.Reason, v.pending, v.regs.RIP)
		}
		if v.passing != c.pass || v.vm.intercepted(exitSoftInt) == c.pass {
			t.Errorf("% x: passed %v, want %v", c.insn, v.passing, c.pass)
		}
	}
}
