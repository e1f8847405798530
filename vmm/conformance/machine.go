package conformance

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"godwit/vmm/mem"
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// A mode is how the guest's processor stands when its code begins.
type mode uint8

const (
	real16    mode = iota
	flat32         // protected mode without paging
	paged32        // 32-bit page tables with 4 MiB pages
	pae32          // PAE page tables with 2 MiB pages
	long64         // 4-level page tables with 2 MiB pages
	everyMode      // the test runs once in each
)

func (m mode) String() string {
	return [...]string{"real", "protected", "paged", "pae", "long", "every"}[m]
}

// Where things are in guest memory. Paging maps every address to itself.
const (
	ramSize = 4 << 20
	limit   = 16 << 30 // of guest-physical addresses

	ivtAt   = 0x0000
	gdtAt   = 0x1000
	tssAt   = 0x1400
	idtAt   = 0x2000
	pml4At  = 0x3000
	pdptAt  = 0x4000
	pdAt    = 0x5000
	pd32At  = 0x6000
	pdptPAE = 0x7000
	stackAt = 0x9000 // grows down from here
	codeAt  = 0x10000
	stubsAt = 0x18000 // 16 bytes for each vector
	dataAt  = 0x100000

	selCode64 = 0x08
	selData   = 0x10
	selCode32 = 0x18
	selTSS    = 0x28
	selAbsent = 0x30 // free for a test
	selGate   = 0x38 // a second TSS, for the task switch

	trapPort = 0xee
)

// A machine is a VM with one VCPU that a test plays VMM for.
type machine struct {
	b      vcpu.Backend
	alloc  mem.Allocator
	blocks []mem.Block // what else it holds
	ram    []byte
	host   uint64 // physical address of ram
	tables *slat.Tables
	space  vcpu.Space
	cpu    vcpu.VCPU
	exit   vcpu.Exit
	mode   mode
	bits   int
}

// policy allows what both vendors have.
func policy(c vcpu.Capabilities) vcpu.Policy {
	return vcpu.Policy{
		CR4:      1<<0 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<9 | 1<<10 | 1<<18, // VME TSD DE PSE PAE MCE PGE OSFXSR OSXMMEXCPT OSXSAVE
		XCR0:     c.XCR0 & 7,
		EFER:     1 | 1<<8 | 1<<10 | 1<<11, // SCE LME LMA NXE
		PhysBits: min(c.GuestPhysBits, 39),
		Controls: c.Controls,
	}
}

func newMachine(b vcpu.Backend, a mem.Allocator) (*machine, error) {
	m := &machine{b: b, alloc: a}
	fail := func(err error) (*machine, error) { return nil, errors.Join(err, m.close()) }
	ram, err := m.hostMemory(ramSize, 2<<20)
	if err != nil {
		return fail(err)
	}
	m.ram, m.host = ram.Data, ram.Phys
	if m.tables, err = slat.For(b, a, limit); err != nil {
		return fail(err)
	}
	if err := m.tables.Map(0, m.host, ramSize, slat.PermRWX, slat.WriteBack); err != nil {
		return fail(err)
	}
	m.space, err = b.NewSpace(vcpu.SpaceConfig{Name: "conformance", Tables: m.tables, CPUID: policy(b.Capabilities())})
	if err != nil {
		return fail(err)
	}
	if m.cpu, err = m.newCPU(0); err != nil {
		return fail(err)
	}
	return m, nil
}

// newCPU makes a processor. Where large pages hold no code, the faults that break them
// are served by its Run: the tests see exits as on other hosts.
func (m *machine) newCPU(index int) (vcpu.VCPU, error) {
	c, err := m.space.NewVCPU(index)
	if err != nil || !m.b.Capabilities().SmallCode {
		return c, err
	}
	return smallCode{c, m.tables}, nil
}

type smallCode struct {
	vcpu.VCPU
	tables *slat.Tables
}

func (c smallCode) Run(e *vcpu.Exit) error {
	for {
		err := c.VCPU.Run(e)
		if err != nil || e.Reason != vcpu.ExitMemory || !e.Mapped || e.Access&vcpu.Exec == 0 {
			return err
		}
		if again, err := c.tables.ExecFault(e.GPA); err != nil || !again {
			return err
		}
	}
}

// hostMemory is freed with the machine.
func (m *machine) hostMemory(size, align uint64) (mem.Block, error) {
	b, err := m.alloc.Alloc(size, align)
	if err != nil {
		return b, fmt.Errorf("no memory for the guest: %w", err)
	}
	m.blocks = append(m.blocks, b)
	return b, nil
}

func (m *machine) close() (err error) {
	if m.cpu != nil {
		err = errors.Join(err, m.cpu.Close())
	}
	if m.space != nil {
		err = errors.Join(err, m.space.Close())
	}
	if m.tables != nil {
		err = errors.Join(err, m.tables.Close())
	}
	for _, b := range m.blocks {
		m.alloc.Free(b)
	}
	return err
}

// A guest is code for a mode of so many bits: lines of the instruction's bytes, and
// what they mean.
type guest struct {
	bits    int
	listing string
}

func (g guest) bytes() (code []byte) {
	for line := range strings.Lines(g.listing) {
		if f := strings.Fields(line); len(f) > 0 {
			b, err := hex.DecodeString(f[0])
			if err != nil {
				panic("conformance: " + line)
			}
			code = append(code, b...)
		}
	}
	return code
}

func (m *machine) put16(at uint64, x uint16) { binary.LittleEndian.PutUint16(m.ram[at:], x) }
func (m *machine) put32(at uint64, x uint32) { binary.LittleEndian.PutUint32(m.ram[at:], x) }
func (m *machine) put64(at uint64, x uint64) { binary.LittleEndian.PutUint64(m.ram[at:], x) }
func (m *machine) get32(at uint64) uint32    { return binary.LittleEndian.Uint32(m.ram[at:]) }
func (m *machine) get64(at uint64) uint64    { return binary.LittleEndian.Uint64(m.ram[at:]) }

// start puts g at codeAt and the processor into the machine's mode before it.
func (m *machine) start(g guest) { m.startWith(g, func(*vcpu.State) {}) }

func (m *machine) startWith(g guest, change func(*vcpu.State)) {
	s := m.prepare(g)
	change(s)
	m.must(m.cpu.Load(s))
}

// prepare fills guest memory and gives the processor's state.
func (m *machine) prepare(g guest) *vcpu.State {
	m.bits = [...]int{16, 32, 32, 32, 64}[m.mode]
	copy(m.ram[codeAt:], g.bytes())
	for v := range uint64(256) {
		// mov al, v; out trapPort, al; hlt, in every mode
		copy(m.ram[stubsAt+16*v:], []byte{0xb0, byte(v), 0xe6, trapPort, 0xf4})
		m.gate(uint8(v), stubsAt+16*v)
	}
	for i, d := range []uint64{
		0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00009b000000ffff,
		0x00008b0000000067 | tssAt&0xffffff<<16, 0, 0x0000890000000067 | (tssAt+0x100)&0xffffff<<16,
	} {
		m.put64(gdtAt+8*uint64(i), d)
	}
	const pw = 3 // present, writable
	m.put64(pml4At, pdptAt|pw)
	m.put64(pdptAt, pdAt|pw)
	m.put64(pdptPAE, pdAt|1)
	for i := range uint64(512) {
		m.put64(pdAt+8*i, i<<21|0x80|pw)
	}
	for i := range uint64(1024) {
		m.put32(pd32At+4*i, uint32(i<<22)|0x80|pw)
	}

	s := &vcpu.State{}
	s.Reset(true)
	s.Regs = vcpu.Regs{RIP: codeAt, RFLAGS: 2}
	s.Regs.GPR[vcpu.RSP] = stackAt
	s.Reg[vcpu.CR0] = 0x10
	s.Reg[vcpu.IDTBase], s.Reg[vcpu.IDTLimit] = idtAt, 0xfff
	s.Reg[vcpu.GDTBase], s.Reg[vcpu.GDTLimit] = gdtAt, 0x3f
	flat := func(sel uint16, attr uint32) vcpu.Segment {
		return vcpu.Segment{Selector: sel, Attr: attr, Limit: 0xffffffff}
	}
	if m.mode == real16 {
		s.Seg[vcpu.CS] = vcpu.Segment{Selector: codeAt >> 4, Base: codeAt, Limit: 0xffff, Attr: 0x9b}
		s.Regs.RIP = 0
		s.Reg[vcpu.IDTBase], s.Reg[vcpu.IDTLimit] = ivtAt, 0x3ff
		return s
	}
	for _, r := range []vcpu.SegReg{vcpu.ES, vcpu.SS, vcpu.DS, vcpu.FS, vcpu.GS} {
		s.Seg[r] = flat(selData, 0xc093)
	}
	s.Seg[vcpu.CS] = flat(selCode32, 0xc09b)
	s.Seg[vcpu.TR] = vcpu.Segment{Selector: selTSS, Base: tssAt, Limit: 0x67, Attr: 0x8b}
	s.Reg[vcpu.CR0] = 0x11
	s.Reg[vcpu.CR4] = 1<<9 | 1<<10
	switch m.mode {
	case paged32:
		s.Reg[vcpu.CR0] |= 1 << 31
		s.Reg[vcpu.CR3], s.Reg[vcpu.CR4] = pd32At, s.Reg[vcpu.CR4]|1<<4
	case pae32:
		s.Reg[vcpu.CR0] |= 1 << 31
		s.Reg[vcpu.CR3], s.Reg[vcpu.CR4] = pdptPAE, s.Reg[vcpu.CR4]|1<<5
		for i := range s.PDPTE {
			s.PDPTE[i] = m.get64(pdptPAE + 8*uint64(i))
		}
	case long64:
		s.Reg[vcpu.CR0] |= 1 << 31
		s.Reg[vcpu.CR3], s.Reg[vcpu.CR4] = pml4At, s.Reg[vcpu.CR4]|1<<5
		s.Reg[vcpu.EFER] = 1<<8 | 1<<10
		s.Seg[vcpu.CS] = flat(selCode64, 0xa09b)
	}
	return s
}

// gate makes an interrupt gate for a vector.
func (m *machine) gate(vector uint8, to uint64) {
	v := uint64(vector)
	m.put16(ivtAt+4*v, uint16(to&0xf))
	m.put16(ivtAt+4*v+2, uint16(to>>4))
	switch m.mode {
	case real16:
	case long64:
		if v < 256 {
			m.put64(idtAt+16*v, to&0xffff|selCode64<<16|0x8e00<<32|to>>16&0xffff<<48)
			m.put64(idtAt+16*v+8, to>>32)
		}
	default:
		m.put64(idtAt+8*v, to&0xffff|selCode32<<16|0x8e00<<32|to>>16&0xffff<<48)
	}
}

// handler puts g where an event's gate leads.
func (m *machine) handler(vector uint8, g guest) {
	at := uint64(stubsAt) + 0x2000 + 0x40*uint64(vector)
	copy(m.ram[at:], g.bytes())
	m.gate(vector, at)
}

// iret is a handler that counts in RBP and returns.
func (m *machine) iret() guest {
	switch m.bits {
	case 16:
		return gIRET16
	case 32:
		return gIRET32
	}
	return gIRET64
}

// run runs until an exit that a VMM would see.
func (m *machine) run() vcpu.Reason {
	m.cpu.SetDeadline(soon(patience))
	for {
		if err := m.cpu.Run(&m.exit); err != nil {
			m.fail("Run: %w", err)
		}
		if m.exit.Reason != vcpu.ExitHost {
			return m.exit.Reason
		}
	}
}

// want runs until an exit, which must be this one.
func (m *machine) want(r vcpu.Reason) *vcpu.Exit {
	if got := m.run(); got != r {
		e := &m.exit
		m.fail("exit %v at RIP %#x, want %v (port %#x, GPA %#x, access %d, vector %d, value %#x, RAX %#x)",
			got, m.cpu.Regs().RIP, r, e.Port, e.GPA, e.Access, e.Vector, e.Value, m.cpu.Regs().GPR[vcpu.RAX])
	}
	return &m.exit
}

// skip ends the instruction that exited, whose length must be known to be n. A
// backend without the length says 0.
func (m *machine) skip(n uint8) {
	if m.exit.Len != n && m.exit.Len != 0 {
		m.fail("%v: length %d, want %d", m.exit.Reason, m.exit.Len, n)
	}
	m.cpu.Skip(n)
}

// hlt expects the end of the guest, or of a part of it.
func (m *machine) hlt() {
	m.want(vcpu.ExitHLT)
	m.skip(1)
}

func (m *machine) reg(r int) uint64 { return m.cpu.Regs().GPR[r] }

// ip is the instruction's place in the guest's code.
func (m *machine) ip() uint64 {
	if m.mode == real16 {
		return m.cpu.Regs().RIP
	}
	return m.cpu.Regs().RIP - codeAt
}

// A frame is what an event's delivery left on the stack.
type frame struct {
	err, ip, cs, flags, sp, ss uint64
}

// trap expects the stub of a vector, and reads the frame.
func (m *machine) trap(vector uint8, hasErr bool) (f frame) {
	e := m.want(vcpu.ExitIO)
	if e.Port != trapPort || m.reg(vcpu.RAX)&0xff != uint64(vector) {
		m.fail("port %#x with AL %#x at RIP %#x, want vector %d", e.Port, m.reg(vcpu.RAX)&0xff, m.cpu.Regs().RIP, vector)
	}
	sp := m.reg(vcpu.RSP)
	pop := func() (x uint64) {
		switch m.bits {
		case 16:
			x = uint64(binary.LittleEndian.Uint16(m.ram[sp&0xffff:]))
		case 32:
			x = uint64(m.get32(sp))
		default:
			x = m.get64(sp)
		}
		sp += uint64(m.bits / 8)
		return x
	}
	if hasErr && m.mode != real16 {
		f.err = pop()
	}
	f.ip, f.cs, f.flags = pop(), pop(), pop()
	if m.mode == long64 {
		f.sp, f.ss = pop(), pop()
	}
	if m.mode != real16 {
		f.ip -= codeAt
	}
	return f
}
