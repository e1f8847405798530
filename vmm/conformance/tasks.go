package conformance

import (
	"encoding/binary"

	"godwit/vmm/emulate"
	"godwit/vmm/vcpu"
)

// Hardware task switches (SDM vol. 3, chapter 7). Processors leave them to the VMM;
// QEMU's TCG makes them itself, to the same end.

const (
	tss2At   = tssAt + 0x100
	taskAt   = codeAt + 0x800  // the second task's code
	taskSP   = stackAt - 0x400 // and stack
	taskCR3  = 0x1c
	taskEIP  = 0x20
	taskFlag = 0x24
	taskEAX  = 0x28
	taskESP  = 0x38
	taskES   = 0x48
	taskLDT  = 0x60
	taskTrap = 0x64
)

// runTasks is run, with task switches carried out.
func (m *machine) runTasks() vcpu.Reason {
	em := emulate.New(m.cpu, &bus{m: m})
	for {
		if r := m.run(); r != vcpu.ExitTaskSwitch {
			return r
		}
		switch o := em.TaskSwitch(&m.exit.Task, m.exit.Len); o {
		case emulate.Done, emulate.Again:
		case emulate.Fault:
			m.inject(em.Fault)
		case emulate.Shutdown:
			return vcpu.ExitShutdown
		default:
			m.fail("task switch %+v: %v", m.exit.Task, em.Err)
		}
	}
}

// inTask expects the HLT at the beginning of the second task, and goes behind it.
func (m *machine) inTask() {
	if r := m.runTasks(); r != vcpu.ExitHLT || m.cpu.Regs().RIP != taskAt {
		m.fail("exit %v at RIP %#x (AL %#x), want HLT in the second task at %#x", r, m.cpu.Regs().RIP, m.reg(vcpu.RAX)&0xff, taskAt)
	}
	m.skip(1)
}

// startTasks starts g with a second task ready behind selGate, which a task gate
// leads to from vector 40h. It tells false in modes without hardware tasks.
func (m *machine) startTasks(g guest, change func()) bool {
	if m.mode == real16 || m.mode == long64 {
		return false
	}
	m.startWith(g, func(s *vcpu.State) {
		copy(m.ram[taskAt:], gTaskReturn.bytes())
		clear(m.ram[tssAt : tssAt+0x200])
		m.put32(tss2At+taskCR3, uint32(s.Reg[vcpu.CR3]))
		m.put32(tssAt+taskCR3, uint32(s.Reg[vcpu.CR3]))
		m.put32(tss2At+taskEIP, taskAt)
		m.put32(tss2At+taskFlag, 2)
		for i := range uint64(8) {
			m.put32(tss2At+taskEAX+4*i, 0x1000+uint32(i))
		}
		m.put32(tss2At+taskESP, taskSP)
		for i, sel := range []uint16{selData, selCode32, selData, selData, 0, selData} { // FS is null
			m.put16(tss2At+taskES+4*uint64(i), sel)
		}
		m.taskGate(0x40)
		for i := range s.Regs.GPR[:8] {
			if i != vcpu.RSP {
				s.Regs.GPR[i] = 0x2000 + uint64(i)
			}
		}
		if change != nil {
			change()
		}
	})
	return true
}

func (m *machine) taskGate(vector uint64) { m.put64(idtAt+8*vector, selGate<<16|0x8500<<32) }

func (m *machine) busy(sel uint64) bool { return m.ram[gdtAt+sel+5]&2 != 0 }

var taskTests = []test{
	{"JMP to a task", everyMode, func(m *machine) {
		if !m.startTasks(gTaskJump, nil) {
			return
		}
		m.inTask()
		for i := range uint64(8) {
			want := 0x1000 + i
			if i == vcpu.RSP {
				want = taskSP
			}
			check(m, "register", m.reg(int(i)), want)
			if i != vcpu.RSP {
				check(m, "saved register", m.get32(tssAt+taskEAX+4*i), 0x2000+uint32(i))
			}
		}
		check(m, "EIP saved", m.get32(tssAt+taskEIP), codeAt+7)
		check(m, "EFLAGS saved", m.get32(tssAt+taskFlag)&^0x10000, 2) // TCG leaves RF set
		check(m, "ESP saved", m.get32(tssAt+taskESP), stackAt)
		check(m, "CS saved", m.get32(tssAt+taskES+4)&0xffff, selCode32)
		check(m, "link", m.get32(tss2At), 0)
		check(m, "NT", m.cpu.Regs().RFLAGS>>14&1, 0)
		check(m, "old task busy", m.busy(selTSS), false)
		check(m, "new task busy", m.busy(selGate), true)
		check(m, "TR", m.cpu.Segment(vcpu.TR), vcpu.Segment{Selector: selGate, Base: tss2At, Limit: 0x67, Attr: 0x8b})
		check(m, "CR0.TS", m.cpu.Get(vcpu.CR0)>>3&1, 1)
		check(m, "GS", m.cpu.Segment(vcpu.GS).Selector, selData)
		check(m, "FS unusable", m.cpu.Segment(vcpu.FS).Attr&vcpu.AttrUnusable, vcpu.AttrUnusable)
	}},
	{"CALL of a task, and back by IRET", everyMode, func(m *machine) {
		if !m.startTasks(gTaskCall, nil) {
			return
		}
		m.inTask()
		check(m, "NT", m.cpu.Regs().RFLAGS>>14&1, 1)
		check(m, "link", m.get32(tss2At)&0xffff, selTSS)
		check(m, "caller busy", m.busy(selTSS), true)
		check(m, "called busy", m.busy(selGate), true)
		if r := m.runTasks(); r != vcpu.ExitHLT {
			m.fail("exit %v behind IRET at RIP %#x, want HLT", r, m.cpu.Regs().RIP)
		}
		check(m, "RIP", m.ip(), 7)
		check(m, "RBX", m.reg(vcpu.RBX), 0x2003)
		check(m, "TR", m.cpu.Segment(vcpu.TR).Selector, selTSS)
		check(m, "caller busy", m.busy(selTSS), true)
		check(m, "called busy", m.busy(selGate), false)
		check(m, "EIP saved", m.get32(tss2At+taskEIP), taskAt+2)
		check(m, "NT saved", m.get32(tss2At+taskFlag)>>14&1, 0)
		check(m, "NT", m.cpu.Regs().RFLAGS>>14&1, 0)
	}},
	{"task gates", everyMode, func(m *machine) {
		if !m.startTasks(gTaskGate, nil) {
			return
		}
		m.inTask()
		check(m, "EIP saved behind "+show(m.exit.Task), m.get32(tssAt+taskEIP), codeAt+2)
		check(m, "link", m.get32(tss2At)&0xffff, selTSS)

		m.startTasks(gUD2, func() { m.taskGate(vcpu.VecUD) })
		m.inTask()
		check(m, "EIP saved at the fault", m.get32(tssAt+taskEIP), codeAt)
		check(m, "ESP, no error code", m.reg(vcpu.RSP), taskSP)

		m.startTasks(gINT3, func() { m.taskGate(vcpu.VecBP) })
		m.inTask()
		check(m, "EIP saved behind INT3", m.get32(tssAt+taskEIP), codeAt+1)

		m.startTasks(gTaskBadSegment, func() { m.taskGate(vcpu.VecGP) })
		m.cpu.Regs().GPR[vcpu.RAX] = 0x1230
		m.inTask()
		check(m, "EIP saved at the fault", m.get32(tssAt+taskEIP), codeAt)
		check(m, "ESP", m.reg(vcpu.RSP), taskSP-4)
		check(m, "error code", m.get32(taskSP-4), 0x1230)
	}},
	{"injected events through a task gate", everyMode, func(m *machine) {
		if !m.startTasks(gNops, func() { m.taskGate(0x41) }) {
			return
		}
		m.cpu.Regs().RFLAGS |= 1 << 9
		m.inject(vcpu.Event{Valid: true, Vector: 0x41})
		m.inTask()
		check(m, "EIP saved", m.get32(tssAt+taskEIP), codeAt)
		check(m, "IF saved", m.get32(tssAt+taskFlag)>>9&1, 1)
		check(m, "pending", m.cpu.Pending().Valid, false)

		m.startTasks(gNops, func() { m.taskGate(2) })
		m.inject(vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2})
		m.inTask()
		check(m, "CanNMI in the task", m.cpu.CanNMI(), false)
		if r := m.runTasks(); r != vcpu.ExitHLT {
			m.fail("exit %v behind IRET at RIP %#x, want HLT", r, m.cpu.Regs().RIP)
		}
		check(m, "RIP", m.ip(), 4)
		check(m, "CanNMI behind it", m.cpu.CanNMI(), true)

		m.startTasks(gNops, func() { m.taskGate(vcpu.VecPF) })
		m.inject(vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, Error: 6, CR2: 0x777})
		m.inTask()
		check(m, "error code", m.get32(taskSP-4), 6)
		check(m, "CR2", m.cpu.Get(vcpu.CR2), 0x777)
	}},
	{"a task that can not begin", everyMode, func(m *machine) {
		for _, c := range []struct {
			what   string
			vector uint8
			err    uint64
			change func()
		}{
			{"a null stack", vcpu.VecTS, 0, func() { m.put16(tss2At+taskES+8, 0) }},
			{"code of data", vcpu.VecTS, selData, func() { m.put16(tss2At+taskES+4, selData) }},
			{"an absent segment", vcpu.VecNP, selAbsent, func() {
				m.put64(gdtAt+selAbsent, 0x00cf13000000ffff)
				m.put16(tss2At+taskES+12, selAbsent)
			}},
			{"an absent stack", vcpu.VecSS, selAbsent, func() {
				m.put64(gdtAt+selAbsent, 0x00cf13000000ffff)
				m.put16(tss2At+taskES+8, selAbsent)
			}},
			{"a segment beyond the table", vcpu.VecTS, 0x1000, func() { m.put16(tss2At+taskES, 0x1000) }},
			{"an LDT that is none", vcpu.VecTS, selData, func() { m.put16(tss2At+taskLDT, selData) }},
		} {
			if !m.startTasks(gTaskJump, c.change) {
				return
			}
			r := m.runTasks()
			if c.vector == vcpu.VecSS && m.reg(vcpu.RAX)&0xff == vcpu.VecNP && !m.b.Capabilities().NextRIP {
				c.vector = vcpu.VecNP // as QEMU's TCG has it
			}
			if r != vcpu.ExitIO || m.exit.Port != trapPort || m.reg(vcpu.RAX)&0xff != uint64(c.vector) {
				m.fail("%s: exit %v at RIP %#x with AL %#x, want vector %d", c.what, r, m.cpu.Regs().RIP, m.reg(vcpu.RAX)&0xff, c.vector)
			}
			check(m, c.what+": error code", uint64(m.get32(m.reg(vcpu.RSP))), c.err)
			check(m, c.what+": TR", m.cpu.Segment(vcpu.TR).Selector, selGate)
		}
		// These never leave the old task.
		for _, c := range []struct {
			what   string
			vector uint8
			change func()
		}{
			{"a busy TSS", vcpu.VecGP, func() { m.ram[gdtAt+selGate+5] |= 2 }},
			{"an absent TSS", vcpu.VecNP, func() { m.ram[gdtAt+selGate+5] &^= 0x80 }},
			{"a short TSS", vcpu.VecTS, func() { m.ram[gdtAt+selGate] = 0x66 }},
		} {
			m.startTasks(gTaskJump, c.change)
			if r := m.runTasks(); r != vcpu.ExitIO || m.reg(vcpu.RAX)&0xff != uint64(c.vector) {
				m.fail("%s: exit %v at RIP %#x with AL %#x, want vector %d", c.what, r, m.cpu.Regs().RIP, m.reg(vcpu.RAX)&0xff, c.vector)
			}
			check(m, c.what+": error code", uint64(m.get32(m.reg(vcpu.RSP))), selGate)
			check(m, c.what+": TR", m.cpu.Segment(vcpu.TR).Selector, selTSS)
		}
	}},
	{"a task with a page directory of its own", paged32, func(m *machine) {
		const other = 0x200000 // 4 KiB of RAM for the second directory
		m.startTasks(gTaskCall, func() {
			copy(m.ram[other:], m.ram[pd32At:pd32At+0x1000])
			m.put32(other+4*0x200, 0x83) // 80000000h is 0 there
			m.put32(tss2At+taskCR3, other)
			copy(m.ram[taskAt+1:], gPAE.bytes()) // mov eax, [ebx]; hlt
			m.put32(tss2At+taskEAX+4*vcpu.RBX, 0x80000000+dataAt)
			m.put32(dataAt, 0x5a5a)
		})
		m.inTask()
		check(m, "CR3", m.cpu.Get(vcpu.CR3), other)
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 0x5a5a)
	}},
	{"a 16-bit task", flat32, func(m *machine) {
		m.startTasks(gTaskCall, func() {
			m.put64(gdtAt+selGate, 0x000081000000002b|tss2At<<16)
			for i := range uint64(0x16) {
				m.put16(tss2At+2*i, 0)
			}
			m.put16(tss2At+0x0e, 0x600) // IP
			m.put16(tss2At+0x10, 2)
			m.put16(tss2At+0x1a, taskSP)
			for i, sel := range []uint16{selData, selCode32, selData, selData} {
				m.put16(tss2At+0x22+2*uint64(i), sel)
			}
			copy(m.ram[0x600:], gTaskReturn.bytes())
		})
		if r := m.runTasks(); r != vcpu.ExitHLT || m.cpu.Regs().RIP != 0x600 {
			m.fail("exit %v at RIP %#x, want HLT at 600h", r, m.cpu.Regs().RIP)
		}
		check(m, "SP", m.reg(vcpu.RSP)&0xffff, taskSP)
		check(m, "TR type", m.cpu.Segment(vcpu.TR).Attr, 0x83)
		check(m, "link", uint64(binary.LittleEndian.Uint16(m.ram[tss2At:])), selTSS)
		m.skip(1)
		if r := m.runTasks(); r != vcpu.ExitHLT {
			m.fail("exit %v behind IRET at RIP %#x, want HLT", r, m.cpu.Regs().RIP)
		}
		check(m, "RIP", m.ip(), 7)
		check(m, "IP saved", m.get32(tss2At+0x0e)&0xffff, 0x602)
	}},
	{"the debug trap of a task", flat32, func(m *machine) {
		m.startTasks(gTaskJump, func() { m.put16(tss2At+taskTrap, 1) })
		r := m.runTasks()
		if r == vcpu.ExitHLT && !m.b.Capabilities().NextRIP {
			panic(skip{"QEMU's TCG switches tasks itself, without this trap"})
		}
		if r != vcpu.ExitIO || m.reg(vcpu.RAX)&0xff != vcpu.VecDB {
			m.fail("exit %v at RIP %#x, want the stub of #DB", r, m.cpu.Regs().RIP)
		}
		check(m, "EIP pushed", m.get32(m.reg(vcpu.RSP)), taskAt)
		check(m, "DR6.BT", m.cpu.Get(vcpu.DR6)>>15&1, 1)
	}},
}
