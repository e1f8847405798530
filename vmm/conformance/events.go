package conformance

import (
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// Exceptions, interrupts and NMIs: those of the guest itself, injected ones, and
// those whose delivery a second-level fault interrupts.
var eventTests = []test{
	{"the guest's own exceptions do not exit", everyMode, func(m *machine) {
		m.start(gUD2)
		check(m, "#UD at", m.trap(vcpu.VecUD, false).ip, 0)
		m.start(gINT3)
		check(m, "#BP behind", m.trap(vcpu.VecBP, false).ip, 1)
		m.start(gINT80)
		check(m, "INT 80h behind", m.trap(0x80, false).ip, 2)
		m.start(gDivide)
		m.cpu.Regs().GPR[vcpu.RCX] = 0
		check(m, "#DE at", m.trap(vcpu.VecDE, false).ip, 0)
	}},
	{"page faults are the guest's", long64, func(m *machine) {
		const at = 0x7f_0000_0000
		m.start(gLoad)
		m.cpu.Regs().GPR[vcpu.RBX] = at
		f := m.trap(vcpu.VecPF, true)
		check(m, "error code", f.err, 0)
		check(m, "CR2", m.cpu.Get(vcpu.CR2), at)

		m.start(gStore)
		m.cpu.Regs().GPR[vcpu.RBX] = at
		check(m, "error code", m.trap(vcpu.VecPF, true).err, 2)

		// A reserved bit in the guest's own tables.
		m.startWith(gLoad, func(*vcpu.State) { m.put64(pml4At+8*0x20, dataAt|3|1<<51) })
		m.cpu.Regs().GPR[vcpu.RBX] = 0x20 << 39
		check(m, "error code", m.trap(vcpu.VecPF, true).err|1, 9) // QEMU's TCG leaves out P
		m.put64(pml4At+8*0x20, 0)
	}},
	{"single steps", long64, func(m *machine) {
		m.start(gNops)
		m.cpu.Regs().RFLAGS |= 1 << 8
		f := m.trap(vcpu.VecDB, false)
		check(m, "RIP pushed", f.ip, 1)
		check(m, "DR6.BS", m.cpu.Get(vcpu.DR6)>>14&1, 1)
	}},
	{"injected interrupts", everyMode, func(m *machine) {
		m.start(gNops)
		m.cpu.Regs().RFLAGS |= 1 << 9
		m.inject(vcpu.Event{Valid: true, Vector: 0x41})
		if m.cpu.Inject(vcpu.Event{Valid: true, Vector: 0x42}) {
			m.fail("a second event was queued")
		}
		f := m.trap(0x41, false)
		check(m, "RIP pushed", f.ip, 0)
		check(m, "IF pushed", f.flags>>9&1, 1)
		check(m, "IF", m.cpu.Regs().RFLAGS>>9&1, 0)
		check(m, "pending", m.cpu.Pending().Valid, false)
	}},
	{"injected exceptions", everyMode, func(m *machine) {
		m.start(gNops)
		e := vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: m.mode != real16, Error: 6, CR2: 0x1234_5000}
		m.inject(e)
		f := m.trap(vcpu.VecPF, true)
		check(m, "RIP pushed", f.ip, 0)
		if m.mode != real16 {
			check(m, "error code", f.err, 6)
		}
		check(m, "CR2", m.cpu.Get(vcpu.CR2), 0x1234_5000)
	}},
	{"injected NMI with interrupts off", everyMode, func(m *machine) {
		m.start(gNops)
		m.inject(vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2})
		check(m, "RIP pushed", m.trap(2, false).ip, 0)
		check(m, "CanNMI in the handler", m.cpu.CanNMI(), false)
	}},
	{"injected INT n returns behind it", everyMode, func(m *machine) {
		m.start(gINT80)
		m.inject(vcpu.Event{Valid: true, Type: vcpu.EventSoft, Vector: 0x80, Len: 2})
		check(m, "RIP pushed", m.trap(0x80, false).ip, 2)
	}},
	{"an interrupt whose stack is missing is delivered once", long64, func(m *machine) {
		interrupted(m, vcpu.Event{Valid: true, Vector: 0x41}, stackAt-slat.PageSize)
	}},
	{"an interrupt whose gate is missing is delivered once", long64, func(m *machine) {
		interrupted(m, vcpu.Event{Valid: true, Vector: 0x41}, idtAt)
	}},
	{"an NMI whose stack is missing is delivered once", long64, func(m *machine) {
		interrupted(m, vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2}, stackAt-slat.PageSize)
	}},
	{"a page fault whose stack is missing is delivered once", long64, func(m *machine) {
		interrupted(m, vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, Error: 4, CR2: 0x777}, stackAt-slat.PageSize)
	}},
	{"INT n whose stack is missing is executed once", long64, func(m *machine) {
		m.start(gINT80)
		m.handler(0x80, gIRET64)
		m.cpu.Regs().GPR[vcpu.RBP] = 0
		m.must(m.tables.Unmap(stackAt-slat.PageSize, slat.PageSize))
		m.want(vcpu.ExitMemory)
		m.must(m.tables.Map(stackAt-slat.PageSize, m.host+stackAt-slat.PageSize, slat.PageSize, slat.PermRWX, slat.WriteBack))
		m.hlt()
		check(m, "RIP", m.ip(), 3)
		check(m, "handler runs", m.reg(vcpu.RBP), 1)
	}},
	{"a triple fault shuts down", everyMode, func(m *machine) {
		m.startWith(gUD2, func(s *vcpu.State) { s.Reg[vcpu.IDTLimit] = 0 })
		m.want(vcpu.ExitShutdown)
	}},
	{"#DB and #AC can not be used to hold the processor", long64, func(m *machine) {
		// The stub of #DB runs on; DR7 is clear, so one trap is all there is.
		m.start(gPushF)
		m.cpu.Regs().RFLAGS |= 1 << 8
		m.trap(vcpu.VecDB, false)
		// An alignment check at CPL 3 arrives with error code 0.
		m.userMode(gLoads)
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt + 1
		m.cpu.Regs().RFLAGS |= 1 << 18
		m.want(vcpu.ExitIO)
		if m.reg(vcpu.RAX)&0xff == vcpu.VecGP { // of the HLT behind
			panic(skip{"this processor makes no alignment checks"})
		}
		m.start(gHLT)
		m.userMode(gLoads)
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt + 1
		m.cpu.Regs().RFLAGS |= 1 << 18
		f := m.trap(vcpu.VecAC, true)
		check(m, "error code", f.err, 0)
		check(m, "CS pushed", f.cs&3, 3)
	}},
}

// interrupted injects an event while a page that its delivery needs is missing.
func interrupted(m *machine, ev vcpu.Event, page uint64) {
	m.startWith(gNops, func(*vcpu.State) { m.handler(ev.Vector, gIRET64) })
	if ev.HasError {
		m.startWith(gNops, func(*vcpu.State) { m.handler(ev.Vector, gDropIRET64) })
	}
	m.cpu.Regs().RFLAGS |= 1 << 9
	m.cpu.Regs().GPR[vcpu.RBP] = 0
	m.must(m.tables.Unmap(page, slat.PageSize))
	m.space.Sync()
	m.inject(ev)
	e := m.want(vcpu.ExitMemory)
	check(m, "page", e.GPA&^0xfff, page)
	check(m, "in an event's delivery", e.Deliver, true)
	p := m.cpu.Pending()
	if !p.Valid || p.Vector != ev.Vector || p.Type != ev.Type || p.HasError != ev.HasError || p.Error != ev.Error {
		m.fail("pending %+v, want %+v", p, ev)
	}
	check(m, "CanInterrupt", m.cpu.CanInterrupt(), false)
	m.must(m.tables.Map(page, m.host+page, slat.PageSize, slat.PermRWX, slat.WriteBack))
	m.hlt()
	check(m, "handler runs", m.reg(vcpu.RBP), 1)
	check(m, "RIP", m.ip(), 5)
	check(m, "pending", m.cpu.Pending().Valid, false)
}

// userMode starts g at CPL 3.
func (m *machine) userMode(g guest) {
	m.startWith(g, func(s *vcpu.State) {
		const user = 4
		for _, at := range []uint64{pml4At, pdptAt, pdAt, pdAt + 8} {
			m.put64(at, m.get64(at)|user)
		}
		m.put64(gdtAt+8*8, 0x00affb000000ffff)
		m.put64(gdtAt+8*9, 0x00cff3000000ffff)
		s.Reg[vcpu.GDTLimit] = 8*10 - 1
		m.put64(tssAt+4, stackAt)
		s.Seg[vcpu.CS] = vcpu.Segment{Selector: 8*8 | 3, Attr: 0xa0fb, Limit: 0xffffffff}
		for _, r := range []vcpu.SegReg{vcpu.SS, vcpu.DS, vcpu.ES} {
			s.Seg[r] = vcpu.Segment{Selector: 8*9 | 3, Attr: 0xc0f3, Limit: 0xffffffff}
		}
		s.Reg[vcpu.CR0] |= 1 << 18 // AM
		s.Regs.GPR[vcpu.RSP] = stackAt - 0x100
	})
}
