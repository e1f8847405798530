package svm

import (
	"testing"

	"godwit/vmm/vcpu"
)

func TestPredictionBarrierWhereACPUTurnsToAnotherVCPU(t *testing.T) {
	si := testSilicon
	si.barriers.Prediction = true
	v, _, _ := newTestVCPU(t, si)
	w, err := v.space.NewVCPU(1)
	if err != nil {
		t.Fatal(err)
	}
	c := &v.space.b.cpus[0]
	for i, step := range []struct {
		v    *VCPU
		want bool
	}{{v, true}, {v, false}, {w.(*VCPU), true}, {w.(*VCPU), false}, {v, true}} {
		if got := step.v.replaces(c); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	v.space.b.barriers.Prediction = false
	if w.(*VCPU).replaces(c) {
		t.Error("a barrier that this processor lacks")
	}
}

// What VMRUN may keep of the VMCB and of the TLB (APM 15.15, 15.16), on silicon with
// clean bits and flush by ASID and without.
func TestWhatThePlaceOfAVCPUAllows(t *testing.T) {
	for _, feat := range []uint32{0, featFlushASID, featClean | featFlushASID} {
		si := testSilicon
		si.features |= feat
		si.asids = 8
		v, _, _ := newTestVCPU(t, si)
		b := v.space.b
		gen := v.space.cfg.Tables.Generation()
		at := func(cpu int, gen uint64) (asid, tlb uint32) {
			v.vm.tlb = tlbKeep
			v.place(&b.cpus[cpu], cpu, gen)
			return v.vm.asid, v.vm.tlb
		}
		v.clean = cleanAll
		first, tlb := at(0, gen)
		if v.clean != 0 || tlb != tlbFlushAll || first == 0 {
			t.Errorf("%#x: first entry: clean %#x, TLB %d, ASID %d", feat, v.clean, tlb, first)
		}
		v.clean = cleanAll
		second, tlb := at(0, gen+1) // the tables changed
		if feat&featFlushASID != 0 {
			if second != first || tlb != tlbFlushASID || v.clean != cleanAll {
				t.Errorf("%#x: flush: ASID %d then %d, TLB %d, clean %#x", feat, first, second, tlb, v.clean)
			}
		} else if second == first || tlb != tlbKeep || v.clean&cleanASID != 0 {
			t.Errorf("%#x: flush: ASID %d then %d, TLB %d, clean %#x", feat, first, second, tlb, v.clean)
		}
		v.clean = cleanAll
		if at(1, gen+1); v.clean != 0 {
			t.Errorf("%#x: on another CPU: clean %#x", feat, v.clean)
		}
		if v.cleanable != (feat&featClean != 0) {
			t.Errorf("%#x: clean bits used: %v", feat, v.cleanable)
		}
	}
}

// Every change of the VMCB takes its group's clean bit away (APM 15.15.3).
func TestChangesOfTheVMCBAreNotClean(t *testing.T) {
	si := testSilicon
	si.features |= featClean
	v, _, _ := newTestVCPU(t, si)
	var s vcpu.State
	s.Reset(true)
	longMode(&s)
	if err := v.Load(&s); err != nil {
		t.Fatal(err)
	}
	if v.clean != 0 {
		t.Errorf("after Load: %#x", v.clean)
	}
	for _, c := range []struct {
		what  string
		do    func()
		dirty uint32
	}{
		{"TSC offset", func() { v.SetTSCOffset(5) }, cleanIntercepts},
		{"CR2 of an injected #PF", func() {
			v.Inject(vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, CR2: 7})
		}, cleanCR2},
		{"CR3", func() { v.Set(vcpu.CR3, 0x1000) }, cleanCR},
		{"EFER", func() { v.Set(vcpu.EFER, v.Get(vcpu.EFER)) }, cleanCR},
		{"PAT", func() { v.Set(vcpu.PAT, 0x0007040600070406) }, cleanNP},
		{"DR7", func() { v.Set(vcpu.DR7, 0x400) }, cleanDR},
		{"GDTR", func() { v.Set(vcpu.GDTLimit, 0x3f) }, cleanDT},
		{"SS", func() { v.SetSegment(vcpu.SS, v.Segment(vcpu.SS)) }, cleanSeg},
		{"use of debug registers", func() { v.shareDR(true) }, cleanIntercepts},
		{"an intercept", func() { v.want(exitVINTR, !v.vm.intercepted(exitVINTR)) }, cleanIntercepts},
		{"CR8", func() { v.regs.CR8 = 7; v.watching = true; v.armWindows() }, cleanTPR},
	} {
		v.clean = cleanAll
		c.do()
		if v.clean&c.dirty != 0 {
			t.Errorf("%s: still clean: %#x", c.what, v.clean)
		}
	}
}

// With decode assists and next-RIP saving nothing is read from guest memory (APM
// 15.8.1, 15.7.1).
func TestDecodeAssistsAreTaken(t *testing.T) {
	si := testSilicon
	si.features |= featDecode | featNextRIP
	v, ram, _ := newTestVCPU(t, si)
	for i := range ram {
		ram[i] = 0xff // no instruction
	}
	m := v.vm
	m.rip = 0x1000
	v.regs.RIP = 0x1000
	m.nextRIP = 0x1004
	m.exitInfo1 = 1<<63 | 9
	if gpr, n, ok := v.movTo(movToCR, 4); gpr != 9 || n != 4 || !ok {
		t.Errorf("MOV to CR4: register %d, %d bytes, %v", gpr, n, ok)
	}
	if n := v.length(exitCPUID); n != 4 {
		t.Errorf("length %d", n)
	}
	m.nextRIP = 0x1010
	if n := v.length(exitCPUID); n != 0 {
		t.Errorf("a length of 16 bytes: %d", n)
	}
	m.exitCode, m.exitInfo1, m.exitInfo2 = exitNPF, npfWrite, 0xfee00000
	m.nInsn = 200 // more than there are
	m.insn[0] = 0x89
	var e vcpu.Exit
	v.handle(&e)
	if e.Reason != vcpu.ExitMemory || e.NInsn != 15 || e.Insn[0] != 0x89 {
		t.Errorf("%+v", e)
	}
	m.exitCode, m.exitInfo1, m.exitInfo2 = exitIOIO, 0x60<<16|4<<10|1<<8|1<<4|1<<2, 0x1002
	v.handle(&e)
	if e.Seg != vcpu.FS || e.AddrLen != 4 || e.Len != 2 || !e.String {
		t.Errorf("%+v", e)
	}
}

func TestTaskSwitchExits(t *testing.T) {
	ud := vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecUD}
	for _, c := range []struct {
		name    string
		info2   uint64
		intInfo uint64
		queued  vcpu.Event
		want    vcpu.TaskSwitch
		rf      bool
	}{
		{"CALL", 0, 0, vcpu.Event{}, vcpu.TaskSwitch{Cause: vcpu.TaskCall, Insn: true}, false},
		{"IRET", 1 << 36, 0, vcpu.Event{}, vcpu.TaskSwitch{Cause: vcpu.TaskIRET, Insn: true}, false},
		{"JMP", 1 << 38, 0, vcpu.Event{}, vcpu.TaskSwitch{Cause: vcpu.TaskJump, Insn: true}, false},
		{"INT n", 0, eventValid | 4<<8 | 0x80, vcpu.Event{},
			vcpu.TaskSwitch{Cause: vcpu.TaskGate, Insn: true, Event: vcpu.Event{Valid: true, Type: vcpu.EventSoft, Vector: 0x80}}, false},
		{"INT3", 0, eventValid | 3<<8 | 3, vcpu.Event{},
			vcpu.TaskSwitch{Cause: vcpu.TaskGate, Insn: true, Event: vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 3}}, false},
		{"#GP", 1<<44 | 1<<48 | 8, eventValid | eventError | 3<<8 | 13 | 8<<32, vcpu.Event{},
			vcpu.TaskSwitch{Cause: vcpu.TaskGate, Event: vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 13, HasError: true, Error: 8}}, true},
		{"injected", 0, eventValid | 3<<8 | 6, ud, vcpu.TaskSwitch{Cause: vcpu.TaskGate, Event: ud}, false},
	} {
		v, _, _ := newTestVCPU(t, testSilicon)
		m := v.vm
		m.exitCode, m.exitInfo1, m.exitInfo2, m.exitIntInfo = exitTaskSwitch, 0x38, c.info2, c.intInfo
		v.pending = c.queued
		c.want.Selector = 0x38
		var e vcpu.Exit
		if !v.handle(&e) || e.Reason != vcpu.ExitTaskSwitch || e.Task != c.want || v.pending.Valid {
			t.Errorf("%s: %+v, want %+v", c.name, e.Task, c.want)
		}
		if rf := v.regs.RFLAGS&flagRF != 0; rf != c.rf {
			t.Errorf("%s: RF %v", c.name, rf)
		}
	}
}
