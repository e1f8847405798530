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
		off += uint64(bit>>3) &^ uint64(in.opSize-1)
	}
	if lin := m.linear(in.seg, off); lin&0xfff != gpa&0xfff || lin&0xfff+uint64(size) > 0x1000 {
		if lin&0xfff+uint64(size) > 0x1000 {
			return m.unhandled(in, "access of a device's registers across a page's end")
		}
		return Again // the code changed between the exit and our look
	}
	if o := m.execute(in, gpa, size); o != Done {
		return o
	}
	m.cpu.Skip(in.len)
	return Done
}

// execute does the operation with the memory operand at gpa.
func (m *Emulator) execute(in *insn, gpa uint64, size uint8) Outcome {
	r := m.cpu.Regs()
	reg, high := in.high(in.reg, in.opSize)
	src := in.imm
	if in.hasReg {
		src = m.get(reg, in.opSize, high)
	}
	switch in.op {
	case opMov:
		if in.toReg {
			m.set(reg, in.opSize, high, m.read(gpa, size))
		} else {
			m.write(gpa, size, src)
		}
	case opMovZX:
		m.set(in.reg, in.opSize, false, m.read(gpa, size))
	case opMovSX:
		m.set(in.reg, in.opSize, false, signExtend(m.read(gpa, size), size))
	case opTest:
		_, f := alu(aluAnd, m.read(gpa, size), src, size, r.RFLAGS)
		r.RFLAGS = f
	case opALU:
		old := m.read(gpa, size)
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
			m.write(gpa, size, v)
		}
	case opXchg:
		old := m.read(gpa, size)
		m.write(gpa, size, src)
		m.set(reg, in.opSize, high, old)
	case opBT:
		v := m.read(gpa, size)
		bit := uint64(1) << (src & uint64(size*8-1))
		r.RFLAGS &^= flagCF
		if v&bit != 0 {
			r.RFLAGS |= flagCF
		}
		switch in.alu {
		case 1:
			m.write(gpa, size, v|bit)
		case 2:
			m.write(gpa, size, v&^bit)
		case 3:
			m.write(gpa, size, v^bit)
		}
	case opIncDec:
		op := uint8(aluAdd)
		if in.alu == 1 {
			op = aluSub
		}
		v, f := alu(op, m.read(gpa, size), 1, size, r.RFLAGS)
		r.RFLAGS = f&^flagCF | r.RFLAGS&flagCF
		m.write(gpa, size, v)
	case opNot:
		m.write(gpa, size, ^m.read(gpa, size))
	case opNeg:
		v, f := alu(aluSub, 0, m.read(gpa, size), size, r.RFLAGS)
		r.RFLAGS = f
		m.write(gpa, size, v)
	case opCmpxchg:
		old := m.read(gpa, size)
		acc := m.get(vcpu.RAX, size, false)
		_, f := alu(aluCmp, acc, old, size, r.RFLAGS)
		r.RFLAGS = f
		if f&flagZF != 0 {
			m.write(gpa, size, src)
		} else {
			m.write(gpa, size, old) // the processor always writes
			m.set(vcpu.RAX, size, false, old)
		}
	case opXadd:
		old := m.read(gpa, size)
		v, f := alu(aluAdd, old, src, size, r.RFLAGS)
		r.RFLAGS = f
		m.set(reg, in.opSize, high, old)
		m.write(gpa, size, v)
	default:
		return m.unhandled(in, "no emulation for this access of a device's registers")
	}
	return Done
}

func (m *Emulator) read(gpa uint64, size uint8) uint64 {
	b := m.buf[:size]
	m.bus.ReadMMIO(gpa, b)
	switch size {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(le.Uint16(b))
	case 4:
		return uint64(le.Uint32(b))
	}
	return le.Uint64(b)
}

func (m *Emulator) write(gpa uint64, size uint8, v uint64) {
	le.PutUint64(m.buf[:8], v)
	m.bus.WriteMMIO(gpa, m.buf[:size])
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
