package conformance

import "godwit/vmm/vcpu"

// When an interrupt or NMI can be delivered, and how the VMM learns of it.
var windowTests = []test{
	{"the window opens behind STI's shadow", everyMode, func(m *machine) {
		m.start(gSTI)
		check(m, "CanInterrupt", m.cpu.CanInterrupt(), false)
		m.cpu.WantInterrupt(4)
		m.want(vcpu.ExitInterruptWindow)
		check(m, "RIP", m.ip(), 2) // STI, and one instruction more
		check(m, "CanInterrupt", m.cpu.CanInterrupt(), true)
		m.inject(vcpu.Event{Valid: true, Vector: 0x41})
		check(m, "RIP pushed", m.trap(0x41, false).ip, 2)
	}},
	{"an open window is told at once", long64, func(m *machine) {
		m.start(gNops)
		m.cpu.Regs().RFLAGS |= 1 << 9
		m.cpu.WantInterrupt(4)
		m.want(vcpu.ExitInterruptWindow)
		check(m, "RIP", m.ip(), 0)
		m.hlt() // the request ended with the exit
	}},
	{"a request taken back is not answered", long64, func(m *machine) {
		m.start(gSTI)
		m.cpu.WantInterrupt(4)
		m.cpu.WantInterrupt(0)
		m.cpu.WantNMI(true)
		m.cpu.WantNMI(false)
		m.hlt()
	}},
	{"the window waits for CR8", long64, func(m *machine) {
		for _, c := range []struct {
			from, to uint64
			class    uint8
			open     bool
		}{{8, 7, 8, true}, {8, 3, 8, true}, {15, 0, 1, true}, {8, 8, 8, false}, {9, 8, 8, false}, {15, 4, 3, false}} {
			m.start(gLowerCR8)
			r := m.cpu.Regs()
			r.CR8, r.GPR[vcpu.RAX] = c.from, c.to
			r.RFLAGS |= 1 << 9
			m.cpu.WantInterrupt(c.class)
			if !c.open {
				m.hlt()
				check(m, "CR8", m.cpu.Regs().CR8, c.to)
				continue
			}
			m.want(vcpu.ExitInterruptWindow)
			check(m, "RIP", m.ip(), 4)
			check(m, "CR8", m.cpu.Regs().CR8, c.to)
		}
	}},
	{"hlt in STI's shadow", everyMode, func(m *machine) {
		m.start(gSTIHLT)
		m.want(vcpu.ExitHLT)
		check(m, "CanInterrupt in the shadow", m.cpu.CanInterrupt(), false)
		m.skip(1)
		check(m, "CanInterrupt behind", m.cpu.CanInterrupt(), true)
		m.inject(vcpu.Event{Valid: true, Vector: 0x41})
		check(m, "RIP pushed", m.trap(0x41, false).ip, 2)
	}},
	{"MOV SS's shadow", long64, func(m *machine) {
		m.start(gMOVSS)
		m.cpu.Regs().GPR[vcpu.RCX] = 0
		m.hlt()
		// A state in the shadow, as Save would find it after an exit there.
		m.startWith(gNops, func(s *vcpu.State) {
			s.Regs.RFLAGS |= 1 << 9
			s.MovSS = true
		})
		check(m, "CanInterrupt", m.cpu.CanInterrupt(), false)
		m.cpu.WantInterrupt(4)
		m.want(vcpu.ExitInterruptWindow)
		check(m, "RIP", m.ip(), 1)
	}},
	{"an NMI waits for the end of a shadow", long64, func(m *machine) {
		for _, sti := range []bool{true, false} {
			m.startWith(gNops, func(s *vcpu.State) {
				m.handler(2, m.iret())
				s.Regs.RFLAGS |= 1 << 9
				s.STI, s.MovSS = sti, !sti
			})
			m.cpu.Regs().GPR[vcpu.RBP] = 0
			check(m, "CanNMI", m.cpu.CanNMI(), false)
			m.cpu.WantNMI(true)
			m.want(vcpu.ExitInterruptWindow)
			check(m, "RIP", m.ip(), 1)
			check(m, "TF", m.cpu.Regs().RFLAGS>>8&1, 0)
			check(m, "CanNMI", m.cpu.CanNMI(), true)
			m.inject(vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2})
			m.hlt()
			check(m, "handler runs", m.reg(vcpu.RBP)&0xff, 1)
		}
	}},
	{"an NMI waits for the handler of the last", everyMode, func(m *machine) {
		m.startWith(gNops, func(s *vcpu.State) { m.handler(2, m.iret()) })
		m.cpu.Regs().GPR[vcpu.RBP] = 0
		check(m, "CanNMI", m.cpu.CanNMI(), true)
		nmi := vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2}
		m.inject(nmi)
		m.cpu.WantNMI(true)
		m.want(vcpu.ExitInterruptWindow)
		check(m, "handler runs", m.reg(vcpu.RBP)&0xff, 1)
		check(m, "RIP", m.ip(), 0)
		check(m, "TF", m.cpu.Regs().RFLAGS>>8&1, 0)
		m.inject(nmi)
		m.hlt()
		check(m, "handler runs", m.reg(vcpu.RBP)&0xff, 2)
		check(m, "CanNMI", m.cpu.CanNMI(), true)
	}},
	{"an interrupt window during an NMI handler", long64, func(m *machine) {
		m.startWith(gNops, func(s *vcpu.State) { m.handler(2, m.iret()) })
		m.cpu.Regs().RFLAGS |= 1 << 9
		m.inject(vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2})
		m.cpu.WantInterrupt(4)
		m.want(vcpu.ExitInterruptWindow)
		check(m, "RIP", m.ip(), 0)
		m.inject(vcpu.Event{Valid: true, Vector: 0x41})
		check(m, "RIP pushed", m.trap(0x41, false).ip, 0)
	}},
}
