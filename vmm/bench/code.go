package bench

import "encoding/binary"

// code is a little assembler for the benchmark's guests: 32-bit flat code.
type code []byte

func (c *code) b(p ...byte) { *c = append(*c, p...) }

// imm appends bytes and a 32-bit immediate.
func (c *code) imm(v uint32, p ...byte) {
	*c = binary.LittleEndian.AppendUint32(append(*c, p...), v)
}

func (c *code) movEAX(v uint32) { c.imm(v, 0xb8) }
func (c *code) movECX(v uint32) { c.imm(v, 0xb9) }
func (c *code) movEBX(v uint32) { c.imm(v, 0xbb) }
func (c *code) cpuid()          { c.b(0x0f, 0xa2) }
func (c *code) rdmsr()          { c.b(0x0f, 0x32) }

// wrmsr writes a value of 32 bits.
func (c *code) wrmsr(msr, v uint32) {
	c.movECX(msr)
	c.movEAX(v)
	c.b(0x31, 0xd2) // xor edx,edx
	c.b(0x0f, 0x30)
}

func (c *code) movDX(port uint16) { c.b(0x66, 0xba, byte(port), byte(port>>8)) }

// Where the program and its tables are.
const (
	loadAt   = 1 << 20
	headSize = 0x20
	entry    = loadAt + headSize
	idtAt    = 0x180000
	stackAt  = 0x1f0000
	vector   = 0x40
)

// image makes a Multiboot kernel: setup, then n rounds of op, timed; what they took
// goes to the serial port as four bytes, then the machine powers off.
func image(setup, op code, n uint32) []byte {
	var c code
	const kludge = 1 << 16
	for _, v := range []uint32{0x1badb002, kludge, 1<<32 - 0x1badb002 - kludge, loadAt, loadAt, 0, stackAt, entry} {
		c.imm(v)
	}
	c.imm(stackAt, 0xbc) // mov esp
	c.b(setup...)
	c.b(0x0f, 0x31, 0x89, 0xc6, 0x89, 0xd7) // rdtsc; mov esi,eax; mov edi,edx
	c.imm(n, 0xbd)                          // mov ebp,n
	round := len(c)
	c.b(op...)
	c.b(0x4d)                                   // dec ebp
	c.imm(uint32(round-(len(c)+6)), 0x0f, 0x85) // jnz round
	c.b(0x0f, 0x31, 0x29, 0xf0, 0x19, 0xfa)     // rdtsc; sub eax,esi; sbb edx,edi
	c.movDX(0x3f8)                              //
	for range 4 {
		c.b(0xee, 0xc1, 0xe8, 8) // out dx,al; shr eax,8
	}
	c.movDX(0x604)
	c.movEAX(5<<10 | 1<<13)
	c.b(0x66, 0xef) // out dx,ax: S5
	c.b(0xfa, 0xf4) // cli; hlt
	return c
}

// interrupts sets up an IDT whose entry for vector ends the interrupt and returns,
// the local APIC in x2APIC mode, and interrupts on.
func interrupts() (c code) {
	// The handler is put behind a jump.
	var h code
	h.b(0x50, 0x51, 0x52) // push eax, ecx, edx
	h.wrmsr(0x80b, 0)     // EOI
	h.b(0x5a, 0x59, 0x58, 0xcf)
	c.b(0xeb, byte(len(h))) // jmp over it
	c.b(h...)
	// lea ebx,[handler], found by call: the code may be anywhere.
	c.imm(0, 0xe8)                      // call next
	back := len(c)                      // pop ebx gives this address
	c.b(0x5b)                           //
	c.imm(uint32(back-2), 0x81, 0xeb)   // sub ebx,back-2: the handler's address
	c.b(0x89, 0xd8)                     // mov eax,ebx
	c.imm(0xffff, 0x25)                 // and eax,ffffh
	c.imm(0x10<<16, 0x0d)               // or eax: selector 10h
	c.imm(idtAt+vector*8, 0xa3)         // mov [idt],eax
	c.imm(0xffff0000, 0x81, 0xe3)       // and ebx
	c.imm(0x8e00, 0x81, 0xcb)           // or ebx: interrupt gate
	c.imm(idtAt+vector*8+4, 0x89, 0x1d) // mov [idt+4],ebx
	c.imm(0x07ff, 0xb8)                 // IDTR: limit and base, on the stack
	c.imm(idtAt, 0xbb)                  //
	c.b(0x83, 0xec, 0x08)               // sub esp,8
	c.b(0x66, 0x89, 0x04, 0x24)         // mov [esp],ax
	c.b(0x89, 0x5c, 0x24, 0x02)         // mov [esp+2],ebx
	c.b(0x0f, 0x01, 0x1c, 0x24)         // lidt [esp]
	c.wrmsr(0x1b, 0xfee00d00)           // x2APIC
	c.wrmsr(0x80f, 0x1ff)               // software enable
	c.wrmsr(0x832, vector)              // timer: one-shot
	c.wrmsr(0x83e, 0xb)                 // divide by 1: nanoseconds
	c.b(0xfb)                           // sti
	return c
}
