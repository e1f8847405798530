// Package emulate carries out guest instructions that the processor handed to
// the hypervisor: loads and stores that reach a device's registers, string I/O,
// and, on hosts that do not tell the length of the instruction that caused an
// exit, finding it. It reads instructions through the guest's page tables.
//
// There are two ways. Instructions that guests really use on device memory are
// decoded here, and a decoded instruction is kept in a small cache, so that a
// repeated exit costs a few loads and compares. Everything else goes through
// golang.org/x/arch/x86/x86asm, to tell its length or to name it: an
// instruction that can not be emulated stops the guest with a message.
//
// An Emulator belongs to one VCPU and is used between its Runs.
package emulate

import (
	"fmt"

	"godwit/vmm/vcpu"
)

// A Bus is the machine around the processor. None of its methods may keep b.
type Bus interface {
	// Page is the host's view of the RAM page at gpa, a multiple of 4096;
	// nil if that is not RAM.
	Page(gpa uint64) *[4096]byte
	// Wrote tells that n bytes of RAM have been written at gpa.
	Wrote(gpa, n uint64)
	ReadMMIO(gpa uint64, b []byte)
	WriteMMIO(gpa uint64, b []byte)
	In(port uint16, size int) uint32
	Out(port uint16, size int, v uint32)
}

// An Outcome is what became of an instruction.
type Outcome uint8

const (
	Done      Outcome = iota // RIP is past it, or at it for another round of a REP
	Fault                    // Emulator.Fault is to be injected; no state changed
	Again                    // what is in memory does not fit the exit (another VCPU changed it): enter the guest again
	Unhandled                // Emulator.Err names the instruction
	Shutdown                 // a triple fault: an exception while a double fault was delivered
)

// An Emulator emulates for one VCPU.
type Emulator struct {
	Fault vcpu.Event // with Outcome Fault
	Err   error      // with Outcome Unhandled

	cpu   vcpu.VCPU
	bus   Bus
	mode  mode
	cache [cacheSize]entry
	odd   entry // for instructions that the cache does not take
	buf   [128]byte
	state vcpu.State // TaskSwitch's
	count Counters
}

// Counters of an Emulator.
type Counters struct {
	Hits   uint64 // instructions found in the cache
	Misses uint64
	Slow   uint64 // decoded by x86asm
}

// New makes an Emulator for cpu.
func New(cpu vcpu.VCPU, bus Bus) *Emulator { return &Emulator{cpu: cpu, bus: bus} }

// Counters tell how the cache does.
func (m *Emulator) Counters() Counters { return m.count }

// mode is what of the processor's state decides how memory is addressed.
type mode struct {
	cr0, cr3, cr4, efer uint64
	cs                  vcpu.Segment
	bits                uint8 // of code: 16, 32, 64
	cpl                 uint8
	implicit            bool // a supervisor access that the processor makes by itself (SDM vol. 3, section 4.6.1)
}

// Control bits used here (SDM vol. 3, section 2.5).
const (
	cr0PE = 1 << 0
	cr0WP = 1 << 16
	cr0PG = 1 << 31

	cr4PSE  = 1 << 4
	cr4PAE  = 1 << 5
	cr4LA57 = 1 << 12
	cr4SMEP = 1 << 20
	cr4SMAP = 1 << 21

	eferLMA = 1 << 10
	eferNXE = 1 << 11

	flagCF = 1 << 0
	flagPF = 1 << 2
	flagAF = 1 << 4
	flagZF = 1 << 6
	flagSF = 1 << 7
	flagTF = 1 << 8
	flagDF = 1 << 10
	flagOF = 1 << 11
	flagVM = 1 << 17
	flagAC = 1 << 18
)

// look reads the mode; called once an instruction.
func (m *Emulator) look() {
	d := &m.mode
	d.cr0, d.cr3, d.cr4 = m.cpu.Get(vcpu.CR0), m.cpu.Get(vcpu.CR3), m.cpu.Get(vcpu.CR4)
	d.efer = m.cpu.Get(vcpu.EFER)
	d.cs, d.implicit = m.cpu.Segment(vcpu.CS), false
	flags := m.cpu.Regs().RFLAGS
	switch {
	case d.cr0&cr0PE == 0:
		d.bits, d.cpl = 16, 0
	case flags&flagVM != 0:
		d.bits, d.cpl = 16, 3
	default:
		d.cpl = uint8(m.cpu.Segment(vcpu.SS).Attr >> 5 & 3) // SS.DPL is the CPL on both vendors
		switch {
		case d.efer&eferLMA != 0 && d.cs.Attr&vcpu.AttrL != 0:
			d.bits = 64
		case d.cs.Attr&vcpu.AttrDB != 0:
			d.bits = 32
		default:
			d.bits = 16
		}
	}
}

// unhandled makes the error that stops the guest.
func (m *Emulator) unhandled(in *insn, why string) Outcome {
	r := m.cpu.Regs()
	m.Err = fmt.Errorf("emulate: %s: %s at RIP %#x (%d-bit code, bytes % x)", why, m.name(in), r.RIP, m.mode.bits, in.bytes[:in.nbytes])
	return Unhandled
}

// Length finds the length of the instruction at RIP, which the exit says is
// want. Zero with Outcome Again means that something else stands there now.
func (m *Emulator) Length(want Op) (uint8, Outcome) {
	m.look()
	e, o := m.fetch()
	if o != Done {
		return 0, o
	}
	if e.in.op != want {
		return 0, Again
	}
	return e.in.len, Done
}

// operand size helpers

func mask(size uint8) uint64 {
	if size == 8 {
		return ^uint64(0)
	}
	return 1<<(size*8) - 1
}

// get reads a general register of the given size; high says AH, CH, DH, BH.
func (m *Emulator) get(n uint8, size uint8, high bool) uint64 {
	v := m.cpu.Regs().GPR[n&15]
	if high {
		return v >> 8 & 0xff
	}
	return v & mask(size)
}

// set writes one: 32-bit results clear the upper half, smaller ones keep it.
func (m *Emulator) set(n uint8, size uint8, high bool, v uint64) {
	p := &m.cpu.Regs().GPR[n&15]
	switch {
	case high:
		*p = *p&^0xff00 | v&0xff<<8
	case size >= 4:
		*p = v & mask(size)
	default:
		*p = *p&^mask(size) | v&mask(size)
	}
}
