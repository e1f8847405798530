// Package asmtrace follows assembly instruction by instruction, for tests of what stands
// there against speculation: no emulator needs it, and hardware does not show it. It knows
// what branches, compares, writes MSRs or holds speculation back; all else it passes over.
package asmtrace

import (
	"fmt"
	"reflect"
	"unsafe"

	"golang.org/x/arch/x86/x86asm"
)

// A Trace is what happened, in order: "wrmsr 49=1", "rdmsr 48", "call", "ret", "lfence", "verw",
// "div", and what ends it, "vmrun", "vmlaunch", "vmresume", "iret", or "left" for a jump out
// of the code.
type Trace struct {
	Events []string
	Taken  []int // for each event, the branches taken since the one before
}

// A Machine is what the code runs on.
type Machine struct {
	Memory  map[int64]uint64   // what stands at a displacement from a register; elsewhere are zeroes. Stores change it
	Globals map[uintptr]uint64 // and at an address
	Stack   map[int64]uint64   // and above RSP
	MSR     map[uint32]uint64
	Lfence  int // at so many LFENCEs it ends, if not 0

	reg   map[x86asm.Reg]uint64
	zf    bool
	cf    bool
	stack []uintptr
	next  uintptr
	taken int
	trace Trace
}

// Entry is where an assembly function begins: a Go value of it leads to a wrapper, which
// calls it.
func Entry(fn any) uintptr {
	pc := reflect.ValueOf(fn).Pointer()
	for {
		in, err := decode(pc)
		if err != nil {
			panic(err)
		}
		pc += uintptr(in.Len)
		if in.Op == x86asm.CALL {
			if rel, ok := in.Args[0].(x86asm.Rel); ok {
				return pc + uintptr(int64(rel))
			}
		}
		if in.Op == x86asm.RET {
			panic("asmtrace: no call in the wrapper")
		}
	}
}

// After is the address behind the first such bytes at or after pc.
func After(pc uintptr, code ...byte) uintptr {
	for ; ; pc++ {
		if string(at(pc, len(code))) == string(code) {
			return pc + uintptr(len(code))
		}
	}
}

func at(pc uintptr, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&pc))), n)
}

// system are instructions of three bytes that begin with 0F 01 and end a trace, or not.
var system = map[byte]string{0xd8: "vmrun", 0xc2: "vmlaunch", 0xc3: "vmresume"}

func decode(pc uintptr) (x86asm.Inst, error) {
	b := at(pc, 15)
	// What the decoder does not know: system instructions, VMREAD and VMWRITE of registers.
	if b[0] == 0x0f && (b[1] == 0x01 || b[1] == 0x78 || b[1] == 0x79) && b[2] >= 0xc0 {
		return x86asm.Inst{Len: 3}, nil
	}
	return x86asm.Decode(b, 64)
}

// Run follows the code from pc on.
func (m *Machine) Run(pc uintptr) (Trace, error) {
	m.reg = map[x86asm.Reg]uint64{}
	fences := 0
	for range 10_000 {
		b := at(pc, 4)
		if b[0] == 0x0f && b[1] == 0x01 && system[b[2]] != "" {
			m.event(system[b[2]])
			return m.trace, nil
		}
		in, err := decode(pc)
		if err != nil {
			return m.trace, fmt.Errorf("after %d events: % x: %w", len(m.trace.Events), at(pc, 15), err)
		}
		if in.Op == x86asm.IRETQ {
			m.event("iret")
			return m.trace, nil
		}
		next := pc + uintptr(in.Len)
		m.next = next
		to, jumps := m.step(&in, next)
		if b[0] == 0x0f && b[1] == 0xae && b[2] == 0xe8 {
			m.event("lfence")
			if fences++; fences == m.Lfence {
				return m.trace, nil
			}
		}
		if jumps {
			m.taken++
			if to == 0 {
				m.event("left")
				return m.trace, nil
			}
			next = to
		}
		pc = next
	}
	return m.trace, fmt.Errorf("it does not end")
}

func (m *Machine) event(s string) {
	m.trace.Events = append(m.trace.Events, s)
	m.trace.Taken = append(m.trace.Taken, m.taken)
	m.taken = 0
}

// step does one instruction and tells where a taken branch leads, 0 for out of the code.
func (m *Machine) step(in *x86asm.Inst, next uintptr) (to uintptr, jumps bool) {
	target := func() uintptr {
		rel, ok := in.Args[0].(x86asm.Rel)
		if !ok {
			return 0
		}
		return next + uintptr(int64(rel))
	}
	switch in.Op {
	case x86asm.CALL:
		m.event("call")
		m.stack = append(m.stack, next)
		return target(), true
	case x86asm.RET:
		m.event("ret")
		if len(m.stack) == 0 {
			return 0, true
		}
		to, m.stack = m.stack[len(m.stack)-1], m.stack[:len(m.stack)-1]
		return to, true
	case x86asm.JMP:
		return target(), true
	case x86asm.JE:
		return target(), m.zf
	case x86asm.JNE:
		return target(), !m.zf
	case x86asm.JB:
		return target(), m.cf
	case x86asm.JAE:
		return target(), !m.cf
	case x86asm.JA:
		return target(), !m.cf && !m.zf
	case x86asm.JBE:
		return target(), m.cf || m.zf
	case x86asm.MOV:
		switch to := in.Args[0].(type) {
		case x86asm.Reg:
			m.reg[whole(to)] = m.value(in.Args[1])
		case x86asm.Mem:
			if m.Memory != nil && to.Base != x86asm.RSP && to.Base != x86asm.RIP {
				m.Memory[to.Disp] = m.value(in.Args[1])
			}
		}
	case x86asm.XOR:
		if in.Args[0] == in.Args[1] {
			m.set(in.Args[0], 0)
		}
	case x86asm.SUB, x86asm.CMP:
		a, b := m.value(in.Args[0]), m.value(in.Args[1])
		m.zf, m.cf = a == b, a < b
		if in.Op == x86asm.SUB {
			m.set(in.Args[0], a-b)
		}
	case x86asm.TEST:
		m.zf, m.cf = m.value(in.Args[0])&m.value(in.Args[1]) == 0, false
	case x86asm.ADD:
		if in.Args[0] == x86asm.RSP { // calls that nobody returns from
			n := int(m.value(in.Args[1]) / 8)
			m.stack = m.stack[:max(0, len(m.stack)-n)]
		}
	case x86asm.WRMSR:
		m.event(fmt.Sprintf("wrmsr %x=%x", uint32(m.reg[x86asm.RCX]), m.reg[x86asm.RDX]<<32|m.reg[x86asm.RAX]))
	case x86asm.RDMSR:
		m.event(fmt.Sprintf("rdmsr %x", uint32(m.reg[x86asm.RCX])))
		v := m.MSR[uint32(m.reg[x86asm.RCX])]
		m.reg[x86asm.RAX], m.reg[x86asm.RDX] = v&0xffffffff, v>>32
	case x86asm.VERW:
		m.event("verw")
	case x86asm.DIV:
		m.event("div")
	}
	return 0, false
}

func (m *Machine) set(a x86asm.Arg, v uint64) {
	if r, ok := a.(x86asm.Reg); ok {
		m.reg[whole(r)] = v
	}
}

func (m *Machine) value(a x86asm.Arg) uint64 {
	switch a := a.(type) {
	case x86asm.Imm:
		return uint64(int64(a))
	case x86asm.Reg:
		return m.reg[whole(a)]
	case x86asm.Mem:
		switch a.Base {
		case x86asm.RSP:
			return m.Stack[a.Disp]
		case x86asm.RIP:
			return m.Globals[m.next+uintptr(a.Disp)]
		}
		return m.Memory[a.Disp]
	}
	return 0
}

// whole is the 64-bit register that r is a part of.
func whole(r x86asm.Reg) x86asm.Reg {
	if r >= x86asm.EAX && r <= x86asm.R15L {
		return r - x86asm.EAX + x86asm.RAX
	}
	return r
}
