package emulate

import "godwit/vmm/vcpu"

// maxRounds bounds the iterations of a REP done in one exit, so that interrupts
// and requests are looked at in between; the instruction then runs again with
// what is left in RCX, as after any interrupt.
const maxRounds = 4096

// registers of string instructions, wrapping at the address size.

func (m *Emulator) counter(in *insn) uint64 {
	if !in.rep && !in.repne {
		return 1
	}
	return m.cpu.Regs().GPR[vcpu.RCX] & mask(in.adSize)
}

// advance moves a string register by one element.
func (m *Emulator) advance(in *insn, reg uint8) {
	r := m.cpu.Regs()
	step := uint64(in.opSize)
	if r.RFLAGS&flagDF != 0 {
		step = -step
	}
	m.set(reg, in.adSize, false, r.GPR[reg]+step)
}

// finish counts a round of a REP and tells whether it was the last.
func (m *Emulator) finish(in *insn) (last bool) {
	if in.rep || in.repne {
		r := m.cpu.Regs()
		m.set(vcpu.RCX, in.adSize, false, r.GPR[vcpu.RCX]-1)
		if r.GPR[vcpu.RCX]&mask(in.adSize) != 0 {
			return false
		}
	}
	return true
}

// rounds runs one for each iteration; only once if the guest is single-stepped, for each iteration traps then.
func (m *Emulator) rounds(in *insn, one func(*Emulator, *insn) Outcome) Outcome {
	if m.counter(in) == 0 {
		m.cpu.Skip(in.len)
		return Done
	}
	most := maxRounds
	if m.cpu.Regs().RFLAGS&flagTF != 0 {
		most = 1
	}
	for range most {
		if o := one(m, in); o != Done {
			return o
		}
		if m.finish(in) {
			m.cpu.Skip(in.len)
			return Done
		}
	}
	return Done // RIP stays: the rest comes with the next entry
}

// stringMemory is MOVS, STOS and LODS with a device at either end.
func (m *Emulator) stringMemory(in *insn) Outcome {
	switch in.op {
	case opMovs:
		return m.rounds(in, (*Emulator).movs)
	case opStos:
		return m.rounds(in, (*Emulator).stos)
	}
	return m.rounds(in, (*Emulator).lods)
}

func (m *Emulator) movs(in *insn) Outcome {
	r := m.cpu.Regs()
	from, o := m.operand(in.seg, r.GPR[vcpu.RSI]&mask(in.adSize), in.opSize, load)
	if o != Done {
		return o
	}
	to, o := m.operand(vcpu.ES, r.GPR[vcpu.RDI]&mask(in.adSize), in.opSize, store)
	if o != Done {
		return o
	}
	m.store(&to, m.load(&from))
	m.advance(in, vcpu.RSI)
	m.advance(in, vcpu.RDI)
	return Done
}

func (m *Emulator) stos(in *insn) Outcome {
	r := m.cpu.Regs()
	to, o := m.operand(vcpu.ES, r.GPR[vcpu.RDI]&mask(in.adSize), in.opSize, store)
	if o != Done {
		return o
	}
	m.store(&to, m.get(vcpu.RAX, in.opSize, false))
	m.advance(in, vcpu.RDI)
	return Done
}

func (m *Emulator) lods(in *insn) Outcome {
	r := m.cpu.Regs()
	from, o := m.operand(in.seg, r.GPR[vcpu.RSI]&mask(in.adSize), in.opSize, load)
	if o != Done {
		return o
	}
	m.set(vcpu.RAX, in.opSize, false, m.load(&from))
	m.advance(in, vcpu.RSI)
	return Done
}

// StringIO carries out INS or OUTS, REP included. The exit has checked that the
// guest may use the port.
func (m *Emulator) StringIO(want Op) Outcome {
	m.look()
	e, o := m.fetch()
	if o != Done {
		return o
	}
	in := &e.in
	if in.op != want {
		return Again
	}
	if want == OpINS {
		return m.rounds(in, (*Emulator).ins)
	}
	return m.rounds(in, (*Emulator).outs)
}

func (m *Emulator) port() uint16 { return uint16(m.cpu.Regs().GPR[vcpu.RDX]) }

func (m *Emulator) ins(in *insn) Outcome {
	r := m.cpu.Regs()
	// The destination first: a fault must not lose what the port gives.
	to, o := m.operand(vcpu.ES, r.GPR[vcpu.RDI]&mask(in.adSize), in.opSize, store)
	if o != Done {
		return o
	}
	m.store(&to, uint64(m.bus.In(m.port(), int(in.opSize))))
	m.advance(in, vcpu.RDI)
	return Done
}

func (m *Emulator) outs(in *insn) Outcome {
	r := m.cpu.Regs()
	from, o := m.operand(in.seg, r.GPR[vcpu.RSI]&mask(in.adSize), in.opSize, load)
	if o != Done {
		return o
	}
	m.bus.Out(m.port(), int(in.opSize), uint32(m.load(&from)))
	m.advance(in, vcpu.RSI)
	return Done
}
