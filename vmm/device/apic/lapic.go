// Package apic is the interrupt fabric of a machine: its local APICs, in xAPIC
// and x2APIC mode, and the bus between them, the IOAPIC and MSI sources, as the
// Intel SDM vol. 3 (325384-075), chapter 10, describes them.
//
// A local APIC belongs to its VCPU's goroutine: register accesses, Pending,
// Accept and the other methods not marked otherwise are called from there only.
// Posting an interrupt (Bus.Send, SetLINT, timer expiry) is safe from anywhere,
// takes no lock, does not allocate, and calls Wake if the VCPU should look.
//
// The VCPU's loop, before each entry, with cpu the hardware VCPU:
//
//	if l.Events() != 0 { take NMI, INIT, SIPI }
//	cpu.WantInterrupt(0)
//	if c := l.Class(); c != 0 {
//		if cpu.CanInterrupt() && l.Deliverable() { cpu.Inject(interrupt(l.Acknowledge())) }
//		cpu.WantInterrupt(l.Class()) // what is still waiting
//	}
//	regs.CR8 = l.CR8()
//	cpu.Run(&exit)
//	l.SetCR8(regs.CR8)
package apic

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"godwit/vmm/device"
)

// Config of one local APIC.
type Config struct {
	BSP   bool
	Clock device.Clock
	// Wake is called when something became deliverable (an interrupt, NMI,
	// INIT, SIPI), from any goroutine and with devices' locks held: it makes a
	// halted VCPU run and kicks a running one, and neither blocks nor calls
	// into a device.
	Wake func()
	// TSCTime is the Clock's time at which the processor's time-stamp counter
	// reaches tsc; nil takes the TSC-deadline mode away.
	TSCTime func(tsc uint64) int64
	// PhysBits is the width of a physical address; 0 means 36.
	PhysBits uint
	// PollTimer leaves the timer to the VCPU's loop, which calls PollTimer at
	// Deadline's time at the latest; else the APIC uses a timer of Clock.
	PollTimer bool
}

// A LAPIC is one local APIC.
type LAPIC struct {
	bus  *Bus
	id   uint32
	cfg  Config
	base uint64 // IA32_APIC_BASE

	// What others post to or read.
	irr    vectorSet
	tmr    vectorSet
	events atomic.Uint32
	lint   atomic.Uint32 // levels of LINT0 and LINT1
	errors atomic.Uint32 // error bits since ESR was last written
	route  atomic.Uint32
	prio   atomic.Uint32 // highest vector in service
	tpr    atomic.Uint32
	lvt    [numLVT]atomic.Uint32

	// The VCPU's own.
	isr  vectorSet
	ldr  uint32
	dfr  uint32
	svr  uint32
	esr  uint32
	icr  uint64
	self timer
}

// timer guards what the timer's goroutine and the VCPU share.
type timer struct {
	t  device.Timer // nil with Config.PollTimer
	at atomic.Int64 // when it fires, or never

	mu       sync.Mutex
	initial  uint32
	divide   uint32
	deadline uint64 // IA32_TSC_DEADLINE
}

const never = math.MaxInt64

// LVT entries in register order (SDM vol. 3, table 10-1).
const (
	lvtTimer = iota
	lvtThermal
	lvtPerf
	lvtLINT0
	lvtLINT1
	lvtError
	numLVT
)

const (
	lvtMasked = 1 << 16
	lvtLevel  = 1 << 15
)

// Errors in ESR (SDM vol. 3, figure 10-9).
const (
	errSendVector    = 1 << 5
	errReceiveVector = 1 << 6
	errRegister      = 1 << 7
)

// IA32_APIC_BASE (SDM vol. 3, section 10.4.4).
const (
	DefaultBase = 0xfee00000
	baseBSP     = 1 << 8
	baseX2      = 1 << 10
	baseEnable  = 1 << 11
)

// Add makes the next local APIC; its ID is the number of those before it.
func (b *Bus) Add(cfg Config) *LAPIC {
	if len(b.lapics) == MaxCPUs {
		panic(fmt.Sprintf("apic: a machine has at most %d processors", MaxCPUs))
	}
	if cfg.PhysBits == 0 {
		cfg.PhysBits = 36
	}
	l := &LAPIC{bus: b, id: uint32(len(b.lapics)), cfg: cfg}
	if !cfg.PollTimer {
		l.self.t = cfg.Clock.NewTimer(l.PollTimer)
	}
	b.lapics = append(b.lapics, l)
	l.Reset()
	return l
}

// ID is the APIC's ID.
func (l *LAPIC) ID() uint32 { return l.id }

// Reset is power-on.
func (l *LAPIC) Reset() {
	l.base = DefaultBase | baseEnable
	if l.cfg.BSP {
		l.base |= baseBSP
	}
	l.events.Store(0)
	l.lint.Store(0)
	l.clearRegisters()
}

// ResetINIT is what an INIT does: as Reset, but IA32_APIC_BASE stays, and pins
// keep their levels (SDM vol. 3, section 10.4.7.3). An NMI that waited is gone, too: the
// processor has no handler when it starts again.
func (l *LAPIC) ResetINIT() {
	l.events.And(^uint32(EventNMI | EventExtINT))
	l.clearRegisters()
}

func (l *LAPIC) clearRegisters() {
	l.irr.reset()
	l.tmr.reset()
	l.isr.reset()
	l.prio.Store(0)
	l.tpr.Store(0)
	l.errors.Store(0)
	l.esr, l.icr, l.ldr = 0, 0, 0
	l.dfr = 0xffffffff
	l.svr = 0xff
	for i := range l.lvt {
		l.lvt[i].Store(lvtMasked)
	}
	l.resetTimer()
	l.updateRoute()
}

// Firmware puts the APIC into the state a PC's firmware hands to an operating
// system: enabled, and on the boot processor in virtual wire mode (MultiProcessor
// Specification 1.4, section 3.6.2.2), so that the 8259s' interrupts arrive.
func (l *LAPIC) Firmware() {
	l.svr = 0x1ff
	if l.cfg.BSP {
		l.lvt[lvtLINT0].Store(uint32(ExtINT) << 8)
	}
	l.lvt[lvtLINT1].Store(uint32(NMI) << 8)
	l.updateRoute()
}

func (l *LAPIC) on() bool { return l.base&baseEnable != 0 }
func (l *LAPIC) x2() bool { return l.base&baseX2 != 0 }

func (l *LAPIC) updateRoute() {
	r := l.ldr >> 24
	if l.dfr>>28 != 15 {
		r |= routeCluster
	}
	if l.on() {
		r |= routeOn
		if l.svr&(1<<8) != 0 {
			r |= routeEnabled
		}
		if l.x2() {
			r |= routeX2
		}
	}
	l.route.Store(r)
}

// deliver takes a message addressed to l. Callable from anywhere.
func (l *LAPIC) deliver(m Message) bool {
	r := l.route.Load()
	if r&routeOn == 0 {
		return false
	}
	switch m.Mode {
	case Fixed, LowestPriority:
		if r&routeEnabled == 0 {
			return false
		}
		l.post(m.Vector, m.Level)
	case NMI:
		l.postEvent(EventNMI)
	case INIT:
		l.postINIT()
	case SIPI:
		l.postSIPI(m.Vector)
	case ExtINT:
		l.postEvent(EventExtINT)
	case SMI:
		// There is no system management mode: no guest may rely on it.
		return false
	default:
		return false
	}
	return true
}

// post requests a vector. Callable from anywhere.
func (l *LAPIC) post(v uint8, level bool) {
	if v < 16 {
		l.raise(errReceiveVector)
		return
	}
	if level != l.tmr.has(v) {
		if level {
			l.tmr.set(v)
		} else {
			l.tmr.clear(v)
		}
	}
	// What TPR holds off must wake the VCPU too: a guest may lower TPR through
	// CR8 without an exit unless the loop asked for an interrupt window. What
	// an interrupt in service holds off need not: its EOI is an exit.
	if !l.irr.set(v) && uint32(v>>4) > l.prio.Load()>>4 {
		l.cfg.Wake()
	}
}

// raise records an error. Callable from anywhere.
func (l *LAPIC) raise(bit uint32) {
	if l.errors.Or(bit)&bit == 0 {
		l.local(lvtError)
	}
}

// local delivers an LVT entry's interrupt. Callable from anywhere.
func (l *LAPIC) local(i int) {
	e := l.lvt[i].Load()
	if e&lvtMasked != 0 || l.route.Load()&routeOn == 0 {
		return
	}
	mode := DeliveryMode(e >> 8 & 7)
	if i == lvtTimer || i == lvtError {
		mode = Fixed
	}
	switch mode {
	case Fixed:
		if v := uint8(e); v >= 16 {
			l.post(v, (i == lvtLINT0 || i == lvtLINT1) && e&lvtLevel != 0)
		} else if i != lvtError { // an error that reports itself would never end
			l.raise(errReceiveVector)
		}
	case NMI:
		l.postEvent(EventNMI)
	case INIT:
		l.postINIT()
	case ExtINT:
		l.cfg.Wake() // Class looks at the pin itself
	}
}

// SetLINT drives pin LINT0 or LINT1. Callable from anywhere.
func (l *LAPIC) SetLINT(pin int, level bool) {
	bit := uint32(1) << pin
	if !level {
		l.lint.And(^bit)
		return
	}
	if l.lint.Or(bit)&bit != 0 {
		return
	}
	if l.route.Load()&routeOn != 0 {
		l.local(lvtLINT0 + pin)
	} else if pin == 0 { // APIC off: the pins are INTR and NMI
		l.cfg.Wake()
	} else {
		l.postEvent(EventNMI)
	}
}
