package emulate

import (
	"strings"

	"golang.org/x/arch/x86/x86asm"
)

// slow lets x86asm look at an instruction that decode does not know. What it
// finds can be skipped by its length, or named; it is not executed.
func (m *Emulator) slow(e *entry) (*entry, Outcome) {
	m.count.Slow++
	in := &e.in
	x, err := x86asm.Decode(in.bytes[:in.nbytes], int(m.mode.bits))
	if err != nil || x.Len > maxLen {
		return nil, m.unhandled(in, "the instruction can not be decoded")
	}
	b, n := in.bytes, in.nbytes
	*in = insn{bytes: b, nbytes: n, len: uint8(x.Len), op: opOther}
	return e, Done
}

// name is the instruction in Intel's syntax, for messages.
func (m *Emulator) name(in *insn) string {
	if in.nbytes == 0 {
		return "(no bytes)"
	}
	x, err := x86asm.Decode(in.bytes[:in.nbytes], int(m.mode.bits))
	if err != nil {
		return "(unknown instruction)"
	}
	return strings.ToLower(x86asm.IntelSyntax(x, 0, nil))
}
