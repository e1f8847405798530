package vcpu

// SegReg names a segment register, in encoding order, then the system ones.
type SegReg uint8

const (
	ES SegReg = iota
	CS
	SS
	DS
	FS
	GS
	LDTR
	TR
	NumSegs
)

// A Segment is a segment register with its hidden part. Attr has the layout of
// the VMCS access-rights field (SDM vol. 3, section 24.4.1): type 3:0, S 4,
// DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
type Segment struct {
	Selector uint16
	Attr     uint32
	Limit    uint32 // in bytes, granularity applied
	Base     uint64
}

const (
	AttrS        = 1 << 4
	AttrP        = 1 << 7
	AttrL        = 1 << 13
	AttrDB       = 1 << 14
	AttrG        = 1 << 15
	AttrUnusable = 1 << 16
)

// A Table is GDTR or IDTR.
type Table struct {
	Base  uint64
	Limit uint16
}

// Reg names what VCPU.Get and Set reach.
type Reg uint8

const (
	CR0 Reg = iota
	CR2
	CR3
	CR4
	XCR0
	XSS
	DR0
	DR1
	DR2
	DR3
	DR6
	DR7
	EFER
	PAT
	STAR
	LSTAR
	CSTAR
	SFMASK
	KernelGSBase
	SysenterCS
	SysenterESP
	SysenterEIP
	DebugCtl
	TSCAux
	GDTBase
	GDTLimit
	IDTBase
	IDTLimit
	SpecCtrl
	NumRegs
)

// Activity is what a processor is doing when it does not execute.
type Activity uint8

const (
	Running  Activity = iota
	Halted            // in HLT
	WaitSIPI          // after INIT
	Shutdown          // after a triple fault
)

// XSAVEMax bounds State.XSAVE: every component either vendor has today fits.
const XSAVEMax = 16 << 10

// State is everything a guest can observe of one processor, apart from its
// local APIC, which is a device. It is also what migrates.
type State struct {
	Regs     Regs
	Reg      [NumRegs]uint64
	Seg      [NumSegs]Segment
	TSC      uint64 // the guest's, at the moment of Save
	Activity Activity
	STI      bool // interrupts are held off for one instruction after STI
	MovSS    bool // likewise after a load of SS
	NMIBlock bool // an NMI handler has not executed IRET yet
	Pending  Event
	PDPTE    [4]uint64 // for PAE paging
	// XSAVE is the standard (not compacted) format of SDM vol. 1, section 13.4.
	XSAVE []byte
}

// Reset puts s into the state of a processor after power-on (SDM vol. 3, table
// 9-1); an application processor waits for SIPI.
func (s *State) Reset(bsp bool) {
	x := s.XSAVE
	*s = State{}
	if cap(x) < 576 {
		x = make([]byte, 576)
	}
	x = x[:max(576, len(x))]
	clear(x)
	x[0], x[1] = 0x40, 0x00   // FCW after RESET is 0040h
	x[24], x[25] = 0x80, 0x1f // MXCSR
	x[512] = 3                // XSTATE_BV: x87 and SSE hold values
	s.XSAVE = x
	s.Regs.RIP = 0xfff0
	s.Regs.RFLAGS = 2
	s.Regs.GPR[RDX] = 0x600
	for i := range s.Seg {
		s.Seg[i] = Segment{Attr: 0x93, Limit: 0xffff}
	}
	s.Seg[CS] = Segment{Selector: 0xf000, Attr: 0x9b, Limit: 0xffff, Base: 0xffff0000}
	s.Seg[LDTR] = Segment{Attr: 0x82, Limit: 0xffff}
	s.Seg[TR] = Segment{Attr: 0x8b, Limit: 0xffff}
	s.Reg[CR0] = 0x60000010
	s.Reg[XCR0] = 1
	s.Reg[DR6] = 0xffff0ff0
	s.Reg[DR7] = 0x400
	s.Reg[PAT] = 0x0007040600070406
	s.Reg[GDTLimit] = 0xffff
	s.Reg[IDTLimit] = 0xffff
	if !bsp {
		s.Activity = WaitSIPI
	}
}

// SIPI starts a waiting processor at vector<<12 (SDM vol. 3, section 8.4).
func (s *State) SIPI(vector uint8) {
	s.Seg[CS].Selector = uint16(vector) << 8
	s.Seg[CS].Base = uint64(vector) << 12
	s.Regs.RIP = 0
	s.Activity = Running
}
