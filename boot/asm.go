package boot

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// reg is a 32-bit general register by its number in ModRM (SDM vol. 2, table 2-2).
type reg byte

const (
	eax reg = iota
	ecx
	edx
	ebx
	esp
	ebp
	esi
	edi
)

// assembler collects machine code that runs at origin. It knows the two dozen instructions the stub needs, each one
// method, named as in the SDM; the opcode stands in the method. Jumps name labels, resolved by finish.
type assembler struct {
	origin uint32
	code   []byte
	labels map[string]uint32
	fixups []fixup
}

// fixup is a label's address still to be written at code[at:].
type fixup struct {
	at    int
	label string
	short bool // an 8-bit displacement from the next instruction; else a 32-bit address
}

func (a *assembler) emit(b ...byte)  { a.code = append(a.code, b...) }
func (a *assembler) imm32(v uint32)  { a.code = le.AppendUint32(a.code, v) }
func (a *assembler) text(s string)   { a.code = append(a.code, s...) }
func (a *assembler) here() uint32    { return a.origin + uint32(len(a.code)) }
func modRM(mod, r byte, rm reg) byte { return mod<<6 | r<<3 | byte(rm) }
func (a *assembler) jump8(l string) {
	a.fixups = append(a.fixups, fixup{len(a.code), l, true})
	a.emit(0)
}
func (a *assembler) address(l string) {
	a.fixups = append(a.fixups, fixup{len(a.code), l, false})
	a.imm32(0)
}
func (a *assembler) label(name string) { a.labels[name] = a.here() }

func (a *assembler) cli()    { a.emit(0xfa) }
func (a *assembler) cld()    { a.emit(0xfc) }
func (a *assembler) hlt()    { a.emit(0xf4) }
func (a *assembler) cpuid()  { a.emit(0x0f, 0xa2) }
func (a *assembler) rdtsc()  { a.emit(0x0f, 0x31) }
func (a *assembler) rdmsr()  { a.emit(0x0f, 0x32) }
func (a *assembler) wrmsr()  { a.emit(0x0f, 0x30) }
func (a *assembler) lodsb()  { a.emit(0xac) }
func (a *assembler) inAL()   { a.emit(0xec) } // IN AL, DX
func (a *assembler) outAL()  { a.emit(0xee) } // OUT DX, AL
func (a *assembler) testAL() { a.emit(0x84, 0xc0) }

func (a *assembler) movImm(dst reg, v uint32)   { a.emit(0xb8 + byte(dst)); a.imm32(v) }
func (a *assembler) movLabel(dst reg, l string) { a.emit(0xb8 + byte(dst)); a.address(l) }
func (a *assembler) mov(dst, src reg)           { a.emit(0x89, modRM(3, byte(src), dst)) }
func (a *assembler) movToAH()                   { a.emit(0x88, 0xc4) } // MOV AH, AL
func (a *assembler) movFromAH()                 { a.emit(0x88, 0xe0) } // MOV AL, AH
func (a *assembler) testBitAL(mask byte)        { a.emit(0xa8, mask) } // TEST AL, imm8
func (a *assembler) testImm(r reg, mask uint32) { a.emit(0xf7, modRM(3, 0, r)); a.imm32(mask) }
func (a *assembler) cmpImm(r reg, v uint32)     { a.emit(0x81, modRM(3, 7, r)); a.imm32(v) }
func (a *assembler) orImm(r reg, v uint32)      { a.emit(0x81, modRM(3, 1, r)); a.imm32(v) }
func (a *assembler) xor(dst, src reg)           { a.emit(0x31, modRM(3, byte(src), dst)) }
func (a *assembler) movToCR(cr byte, src reg)   { a.emit(0x0f, 0x22, modRM(3, cr, src)) }
func (a *assembler) lgdt(addr uint32)           { a.emit(0x0f, 0x01, modRM(0, 2, ebp)); a.imm32(addr) }
func (a *assembler) movToSeg(seg byte, src reg) { a.emit(0x8e, modRM(3, seg, src)) }
func (a *assembler) jmpReg(r reg)               { a.emit(0xff, modRM(3, 4, r)) }
func (a *assembler) farJump(sel uint16, l string) {
	a.emit(0xea)
	a.address(l)
	a.emit(byte(sel), byte(sel>>8))
}

// store is MOV [addr], src.
func (a *assembler) store(addr uint32, src reg) {
	a.emit(0x89, modRM(0, byte(src), ebp)) // mod 0 with rm EBP: a bare 32-bit address
	a.imm32(addr)
}

func (a *assembler) jmp(l string)   { a.emit(0xeb); a.jump8(l) }
func (a *assembler) jb(l string)    { a.emit(0x72); a.jump8(l) }
func (a *assembler) jz(l string)    { a.emit(0x74); a.jump8(l) }
func (a *assembler) jnz(l string)   { a.emit(0x75); a.jump8(l) }
func (a *assembler) loopz(l string) { a.emit(0xe1); a.jump8(l) } // while ECX and ZF

// Segment registers by their number in ModRM.
const (
	segES = 0
	segSS = 2
	segDS = 3
	segFS = 4
	segGS = 5
)

// finish resolves the labels and returns the code.
func (a *assembler) finish() ([]byte, error) {
	for _, f := range a.fixups {
		target, ok := a.labels[f.label]
		if !ok {
			return nil, fmt.Errorf("stub: label %q is not defined", f.label)
		}
		if !f.short {
			le.PutUint32(a.code[f.at:], target)
			continue
		}
		distance := int64(target) - int64(a.origin) - int64(f.at+1)
		if distance != int64(int8(distance)) {
			return nil, fmt.Errorf("stub: label %q is %d bytes away, too far for a short jump", f.label, distance)
		}
		a.code[f.at] = byte(distance)
	}
	return a.code, nil
}
