package emulate

import "godwit/vmm/vcpu"

// An Op is what an instruction does, as far as this package tells apart.
type Op uint8

const (
	OpNone Op = iota
	// Instructions whose exits carry everything but, on some hosts, a length.
	OpCPUID
	OpRDMSR
	OpWRMSR
	OpRDTSC
	OpRDTSCP
	OpRDPMC
	OpHLT
	OpPAUSE
	OpXSETBV
	OpVMCALL
	OpVMMCALL
	OpWBINVD
	OpINVD
	OpMONITOR
	OpMWAIT
	OpIN
	OpOUT
	OpINS
	OpOUTS
	// Instructions with an operand in memory.
	opMov   // either direction
	opMovZX // to a register, zero- or
	opMovSX // sign-extended
	opMovs
	opStos
	opLods
	opALU // insn.alu of destination and source
	opTest
	opXchg
	opBT // BT, BTS, BTR, BTC by insn.alu
	opIncDec
	opNot
	opNeg
	opCmpxchg
	opXadd
	opOther // known to x86asm only
)

// The eight operations of opcodes 00-3F and of group 1, in encoding order.
const (
	aluAdd = iota
	aluOr
	aluAdc
	aluSbb
	aluAnd
	aluSub
	aluXor
	aluCmp
)

// An insn is a decoded instruction.
type insn struct {
	bytes  [maxLen]byte
	nbytes uint8
	len    uint8

	op      Op
	alu     uint8
	opSize  uint8 // of the operation
	memSize uint8 // of the memory operand, if it differs (MOVZX, MOVSX)
	adSize  uint8
	seg     vcpu.SegReg
	rep     bool // F3
	repne   bool // F2
	lock    bool
	rexSeen bool
	rex     uint8

	hasMem  bool // ModRM names memory
	hasReg  bool // the other operand is register reg
	hasImm  bool
	moffs   bool  // the address is disp alone (A0-A3)
	toReg   bool  // memory is the source
	reg     uint8 // with REX.R
	rm      uint8 // with REX.B: a register if !hasMem, else the base
	index   uint8
	scale   uint8
	hasBase bool
	hasIdx  bool
	ripRel  bool
	disp    uint64
	imm     uint64
}

func (in *insn) reset(code []byte) {
	*in = insn{}
	in.nbytes = uint8(copy(in.bytes[:], code))
}

// decodeError says why our decoder gave up; nil is success.
type decodeError string

var (
	errCut   = new(decodeError) // the bytes end before the instruction does
	errOther = new(decodeError) // not one of ours
)

// decoder reads bytes; running off the end sticks.
type decoder struct {
	in  *insn
	pos uint8
	cut bool
}

func (d *decoder) u8() uint8 {
	if d.pos >= d.in.nbytes {
		d.cut = true
		return 0
	}
	b := d.in.bytes[d.pos]
	d.pos++
	return b
}

// sint reads a little-endian signed number of n bytes.
func (d *decoder) sint(n uint8) uint64 {
	var v uint64
	for i := range n {
		v |= uint64(d.u8()) << (8 * i)
	}
	return signExtend(v, n)
}

func signExtend(v uint64, size uint8) uint64 {
	s := 64 - 8*uint(size)
	return uint64(int64(v<<s) >> s)
}

// decode fills in from its bytes, for the forms guests use on devices.
func (m *Emulator) decode(in *insn) *decodeError { return in.decode(m.mode.bits) }

func (in *insn) decode(bits uint8) *decodeError {
	d := decoder{in: in}
	in.seg = vcpu.DS
	segSeen := false
	opSize16, adOther := bits == 16, false
	in.adSize = bits / 8
	var op uint8
prefixes:
	for {
		op = d.u8()
		if d.cut {
			return errCut
		}
		switch op {
		case 0x66:
			opSize16 = bits != 16
		case 0x67:
			adOther = true
		case 0xf0:
			in.lock = true
		case 0xf2:
			in.repne, in.rep = true, false
		case 0xf3:
			in.rep, in.repne = true, false
		case 0x26, 0x2e, 0x36, 0x3e:
			if bits != 64 {
				in.seg, segSeen = vcpu.ES+vcpu.SegReg(op>>3&3), true
			}
		case 0x64, 0x65:
			in.seg, segSeen = vcpu.FS+vcpu.SegReg(op&1), true
		default:
			if bits != 64 || op&0xf0 != 0x40 {
				break prefixes
			}
			in.rex, in.rexSeen = op, true
			continue
		}
		in.rex, in.rexSeen = 0, false // REX counts only right before the opcode
	}
	if adOther {
		in.adSize = 4
		if bits == 32 {
			in.adSize = 2
		}
	}
	size := uint8(4)
	switch {
	case in.rex&8 != 0:
		size = 8
	case opSize16:
		size = 2
	}
	var e *decodeError
	if op == 0x0f {
		e = d.twoByte(d.u8(), size, bits)
	} else {
		e = d.oneByte(op, size, bits)
	}
	if e != nil && !d.cut {
		return e
	}
	if d.cut {
		return errCut
	}
	if in.hasMem && !segSeen && (in.hasBase && (in.rm == vcpu.RSP || in.rm == vcpu.RBP) && in.rex&1 == 0) {
		in.seg = vcpu.SS
	}
	in.len = d.pos
	return nil
}

func (d *decoder) oneByte(op, size, bits uint8) *decodeError {
	in := d.in
	byteOr := func() { // opcodes whose bit 0 chooses byte or full size
		in.opSize = size
		if op&1 == 0 {
			in.opSize = 1
		}
	}
	switch {
	case op < 0x40 && op&7 < 4: // ALU r/m,r and r,r/m
		byteOr()
		in.op, in.alu, in.toReg, in.hasReg = opALU, op>>3, op&2 != 0, true
		return d.modrm(bits)
	case op == 0x63 && bits == 64: // MOVSXD
		in.op, in.opSize, in.memSize, in.toReg, in.hasReg = opMovSX, size, 4, true, true
		return d.modrm(bits)
	case op >= 0x6c && op <= 0x6f:
		byteOr()
		in.opSize = min(in.opSize, 4)
		in.op = OpINS
		if op >= 0x6e {
			in.op = OpOUTS
		}
	case op == 0x80 || op == 0x81 || op == 0x83: // group 1
		byteOr()
		in.op, in.hasImm = opALU, true
		if e := d.modrm(bits); e != nil {
			return e
		}
		in.alu = in.reg & 7
		n := min(in.opSize, 4)
		if op == 0x83 {
			n = 1
		}
		in.imm = d.sint(n)
	case op == 0x84 || op == 0x85:
		byteOr()
		in.op, in.hasReg = opTest, true
		return d.modrm(bits)
	case op == 0x86 || op == 0x87:
		byteOr()
		in.op, in.hasReg = opXchg, true
		return d.modrm(bits)
	case op >= 0x88 && op <= 0x8b:
		byteOr()
		in.op, in.hasReg, in.toReg = opMov, true, op&2 != 0
		return d.modrm(bits)
	case op == 0x90 && in.rep && in.rex&1 == 0:
		in.op = OpPAUSE
	case op >= 0xa0 && op <= 0xa3: // MOV with an absolute address
		byteOr()
		in.op, in.hasReg, in.toReg, in.reg = opMov, true, op < 0xa2, vcpu.RAX
		in.hasMem, in.moffs = true, true
		in.disp = d.sint(in.adSize)
		if in.adSize < 8 {
			in.disp &= mask(in.adSize)
		}
	case op == 0xa4 || op == 0xa5:
		byteOr()
		in.op = opMovs
	case op == 0xaa || op == 0xab:
		byteOr()
		in.op = opStos
	case op == 0xac || op == 0xad:
		byteOr()
		in.op = opLods
	case op == 0xc6 || op == 0xc7:
		byteOr()
		in.op, in.hasImm = opMov, true
		if e := d.modrm(bits); e != nil {
			return e
		}
		if in.reg&7 != 0 {
			return errOther
		}
		in.imm = d.sint(min(in.opSize, 4))
	case op >= 0xe4 && op <= 0xe7 || op >= 0xec && op <= 0xef:
		byteOr()
		in.opSize = min(in.opSize, 4)
		in.op = OpIN
		if op&2 != 0 {
			in.op = OpOUT
		}
		if op < 0xe8 {
			in.imm, in.hasImm = uint64(d.u8()), true
		}
	case op == 0xf4:
		in.op = OpHLT
	case op == 0xf6 || op == 0xf7: // group 3
		byteOr()
		if e := d.modrm(bits); e != nil {
			return e
		}
		switch in.reg & 7 {
		case 0, 1:
			in.op, in.hasImm, in.imm = opTest, true, d.sint(min(in.opSize, 4))
		case 2:
			in.op = opNot
		case 3:
			in.op = opNeg
		default:
			return errOther
		}
	case op == 0xfe || op == 0xff:
		byteOr()
		if e := d.modrm(bits); e != nil {
			return e
		}
		if in.reg&7 > 1 {
			return errOther
		}
		in.op, in.alu = opIncDec, in.reg&7
	default:
		return errOther
	}
	return nil
}

func (d *decoder) twoByte(op, size, bits uint8) *decodeError {
	in := d.in
	in.opSize = size
	if op&1 == 0 {
		in.opSize = 1
	}
	switch op {
	case 0x01:
		switch d.u8() {
		case 0xc1:
			in.op = OpVMCALL
		case 0xc8:
			in.op = OpMONITOR
		case 0xc9:
			in.op = OpMWAIT
		case 0xd1:
			in.op = OpXSETBV
		case 0xd9:
			in.op = OpVMMCALL
		case 0xf9:
			in.op = OpRDTSCP
		default:
			return errOther
		}
	case 0x08:
		in.op = OpINVD
	case 0x09:
		in.op = OpWBINVD
	case 0x30:
		in.op = OpWRMSR
	case 0x31:
		in.op = OpRDTSC
	case 0x32:
		in.op = OpRDMSR
	case 0x33:
		in.op = OpRDPMC
	case 0xa2:
		in.op = OpCPUID
	case 0xa3, 0xab, 0xb3, 0xbb: // BT, BTS, BTR, BTC with a register
		in.op, in.alu, in.opSize, in.hasReg = opBT, op>>3&3, size, true
		return d.modrm(bits)
	case 0xba: // the same with an immediate
		in.op, in.opSize, in.hasImm = opBT, size, true
		if e := d.modrm(bits); e != nil {
			return e
		}
		if in.reg&7 < 4 {
			return errOther
		}
		in.alu, in.imm = in.reg&3, uint64(d.u8())
	case 0xb0, 0xb1:
		in.op, in.hasReg = opCmpxchg, true
		return d.modrm(bits)
	case 0xc0, 0xc1:
		in.op, in.hasReg = opXadd, true
		return d.modrm(bits)
	case 0xb6, 0xb7, 0xbe, 0xbf:
		in.op = opMovZX
		if op >= 0xbe {
			in.op = opMovSX
		}
		in.opSize, in.memSize, in.toReg, in.hasReg = size, 1+op&1, true, true
		return d.modrm(bits)
	case 0xc3: // MOVNTI
		if size == 2 {
			return errOther
		}
		in.op, in.opSize, in.hasReg = opMov, size, true
		return d.modrm(bits)
	default:
		return errOther
	}
	return nil
}

// modrm reads ModRM, SIB and displacement (SDM vol. 2, section 2.1.5).
func (d *decoder) modrm(bits uint8) *decodeError {
	in := d.in
	b := d.u8()
	mod, rm := b>>6, b&7
	in.reg = b>>3&7 | in.rex<<1&8
	if mod == 3 {
		in.rm = rm | in.rex<<3&8
		return nil
	}
	in.hasMem = true
	if in.adSize == 2 {
		return d.modrm16(mod, rm)
	}
	in.rm, in.hasBase = rm|in.rex<<3&8, true
	if rm == 4 {
		s := d.u8()
		in.scale = s >> 6
		in.index = s>>3&7 | in.rex<<2&8
		in.hasIdx = in.index != vcpu.RSP
		rm = s & 7
		in.rm = rm | in.rex<<3&8
		if rm == 5 && mod == 0 {
			in.hasBase = false
			in.disp = d.sint(4)
		}
	} else if rm == 5 && mod == 0 {
		in.hasBase = false
		in.ripRel = bits == 64
		in.disp = d.sint(4)
	}
	switch mod {
	case 1:
		in.disp = d.sint(1)
	case 2:
		in.disp = d.sint(4)
	}
	return nil
}

// modrm16 is the 16-bit form (SDM vol. 2, table 2-1).
func (d *decoder) modrm16(mod, rm uint8) *decodeError {
	in := d.in
	base := [8]uint8{vcpu.RBX, vcpu.RBX, vcpu.RBP, vcpu.RBP, vcpu.RSI, vcpu.RDI, vcpu.RBP, vcpu.RBX}
	in.rm, in.hasBase = base[rm], true
	if rm < 4 {
		in.hasIdx, in.index = true, vcpu.RSI+rm&1
	}
	switch {
	case mod == 0 && rm == 6:
		in.hasBase = false
		in.disp = d.sint(2)
	case mod == 1:
		in.disp = d.sint(1)
	case mod == 2:
		in.disp = d.sint(2)
	}
	return nil
}

// address is the memory operand's offset in its segment; next is RIP after
// the instruction.
func (in *insn) address(r *vcpu.Regs, next uint64) uint64 {
	a := in.disp
	if in.ripRel {
		a += next
	}
	if in.hasBase {
		a += r.GPR[in.rm]
	}
	if in.hasIdx {
		a += r.GPR[in.index] << in.scale
	}
	return a & mask(in.adSize)
}

// high tells whether register n of a byte operand is AH, CH, DH or BH, and its
// number then.
func (in *insn) high(n, size uint8) (uint8, bool) {
	if size == 1 && !in.rexSeen && n >= 4 && n < 8 {
		return n - 4, true
	}
	return n, false
}
