package emulate

import "godwit/vmm/vcpu"

// MMIO carries out the instruction whose access of gpa, which no RAM is mapped
// at, made the exit.
func (m *Emulator) MMIO(gpa uint64) Outcome {
	m.look()
	e, o := m.fetch()
	if o != Done {
		return o
	}
	in := &e.in
	switch in.op {
	case opMovs, opStos, opLods:
		return m.stringMemory(in)
	}
	if !in.hasMem || in.op < opMov || in.op >= opOther {
		return m.unhandled(in, "no emulation for this access of a device's registers")
	}
	r := m.cpu.Regs()
	size := in.opSize
	if in.memSize != 0 {
		size = in.memSize
	}
	off := in.address(r, r.RIP+uint64(in.len))
	if in.op == opBT && in.hasReg {
		// A register's bit offset reaches beyond the operand (SDM vol. 2, BT).
		bit := int64(signExtend(m.get(in.reg, in.opSize, false), in.opSize))
		off = (off + uint64(bit>>3)&^uint64(in.opSize-1)) & mask(in.adSize)
	}
	a := in.access()
	lin, o := m.reach(in.seg, off, size, a)
	if o != Done {
		return o
	}
	p := place{gpa: [2]uint64{gpa}, size: [2]uint8{size}, device: true}
	switch {
	case lin&0xfff+uint64(size) > 0x1000: // gpa is of either page, and the other may be RAM
		if p, o = m.locate(lin, size, a); o != Done {
			return o
		}
	case lin&0xfff != gpa&0xfff:
		return Again // the code changed between the exit and our look
	}
	if o := m.execute(in, &p, size); o != Done {
		return o
	}
	m.cpu.Skip(in.len)
	return Done
}

// access is what the instruction does to its memory operand; one that also reads
// it is a store (SDM vol. 3, section 4.7: "W").
func (in *insn) access() access {
	switch in.op {
	case opMovZX, opMovSX, opTest:
		return load
	case opMov:
		if in.toReg {
			return load
		}
	case opALU:
		if in.toReg || in.alu == aluCmp {
			return load
		}
	case opBT:
		if in.alu == 0 {
			return load
		}
	}
	return store
}

// execute does the operation with the memory operand at p. LOCK holds within one
// device or page; what crosses into another is not one access there.
func (m *Emulator) execute(in *insn, p *place, size uint8) Outcome {
	r := m.cpu.Regs()
	reg, high := in.high(in.reg, in.opSize)
	src := in.imm
	if in.hasReg {
		src = m.get(reg, in.opSize, high)
	}
	switch in.op {
	case opMov:
		if in.toReg {
			m.set(reg, in.opSize, high, m.load(p))
		} else {
			m.store(p, src)
		}
	case opMovZX:
		m.set(in.reg, in.opSize, false, m.load(p))
	case opMovSX:
		m.set(in.reg, in.opSize, false, signExtend(m.load(p), size))
	case opTest:
		_, f := alu(aluAnd, m.load(p), src, size, r.RFLAGS)
		r.RFLAGS = f
	case opALU:
		old := m.load(p)
		if in.toReg {
			v, f := alu(in.alu, src, old, size, r.RFLAGS)
			r.RFLAGS = f
			if in.alu != aluCmp {
				m.set(reg, in.opSize, high, v)
			}
			break
		}
		v, f := alu(in.alu, old, src, size, r.RFLAGS)
		r.RFLAGS = f
		if in.alu != aluCmp {
			m.store(p, v)
		}
	case opXchg:
		old := m.load(p)
		m.store(p, src)
		m.set(reg, in.opSize, high, old)
	case opBT:
		v := m.load(p)
		bit := uint64(1) << (src & uint64(size*8-1))
		r.RFLAGS &^= flagCF
		if v&bit != 0 {
			r.RFLAGS |= flagCF
		}
		switch in.alu {
		case 1:
			m.store(p, v|bit)
		case 2:
			m.store(p, v&^bit)
		case 3:
			m.store(p, v^bit)
		}
	case opIncDec:
		op := uint8(aluAdd)
		if in.alu == 1 {
			op = aluSub
		}
		v, f := alu(op, m.load(p), 1, size, r.RFLAGS)
		r.RFLAGS = f&^flagCF | r.RFLAGS&flagCF
		m.store(p, v)
	case opNot:
		m.store(p, ^m.load(p))
	case opNeg:
		v, f := alu(aluSub, 0, m.load(p), size, r.RFLAGS)
		r.RFLAGS = f
		m.store(p, v)
	case opCmpxchg:
		old := m.load(p)
		acc := m.get(vcpu.RAX, size, false)
		_, f := alu(aluCmp, acc, old, size, r.RFLAGS)
		r.RFLAGS = f
		if f&flagZF != 0 {
			m.store(p, src)
		} else {
			m.store(p, old) // the processor always writes
			m.set(vcpu.RAX, size, false, old)
		}
	case opXadd:
		old := m.load(p)
		v, f := alu(aluAdd, old, src, size, r.RFLAGS)
		r.RFLAGS = f
		m.set(reg, in.opSize, high, old)
		m.store(p, v)
	default:
		return m.unhandled(in, "no emulation for this access of a device's registers")
	}
	return Done
}

const arithmetic = flagCF | flagPF | flagAF | flagZF | flagSF | flagOF

// alu computes a op b and the flags (SDM vol. 1, section 3.4.3.1).
func alu(op uint8, a, b uint64, size uint8, flags uint64) (v, f uint64) {
	w := mask(size)
	sign := uint64(1) << (size*8 - 1)
	a, b = a&w, b&w
	f = flags &^ arithmetic
	carry := uint64(0)
	switch op {
	case aluAdc, aluSbb:
		carry = flags & flagCF
	}
	switch op {
	case aluOr:
		v = a | b
	case aluAnd:
		v = a & b
	case aluXor:
		v = a ^ b
	case aluAdd, aluAdc:
		v = (a + b + carry) & w
		if v < a || carry != 0 && v == a {
			f |= flagCF
		}
		if (a^v)&(b^v)&sign != 0 {
			f |= flagOF
		}
		f |= (a ^ b ^ v) & flagAF
	default: // SUB, SBB, CMP
		v = (a - b - carry) & w
		if a < b || carry != 0 && a == b {
			f |= flagCF
		}
		if (a^b)&(a^v)&sign != 0 {
			f |= flagOF
		}
		f |= (a ^ b ^ v) & flagAF
	}
	if v == 0 {
		f |= flagZF
	}
	if v&sign != 0 {
		f |= flagSF
	}
	if p := v ^ v>>4; 0x9669>>(p&15)&1 != 0 {
		f |= flagPF
	}
	return v, f
}
