package apic

import (
	"math/bits"
	"sync/atomic"
)

// MaxCPUs is how many local APICs one machine can have: their IDs must fit in the
// eight bits of an MSI's or an IOAPIC's destination, of which 255 means all.
const MaxCPUs = 255

// A Bus carries interrupt messages between IOAPIC, MSI sources and local APICs.
// It has no lock: what a message needs to know of a local APIC is one atomic
// word, and a message is posted with atomic operations on the target.
type Bus struct {
	lapics []*LAPIC
	eoi    []EOIHandler
	intr   INTA
	turn   atomic.Uint32 // where lowest-priority arbitration looks first
}

// An EOIHandler hears every EOI of a level-triggered vector. It is called with
// no local APIC locked.
type EOIHandler interface {
	EOI(vector uint8)
}

// INTA is the interrupt controller behind LINT0: the 8259 pair.
type INTA interface {
	// Pending tells whether the INTR output is asserted.
	Pending() bool
	// Acknowledge is an interrupt acknowledge cycle: it returns the vector.
	Acknowledge() uint8
}

// NewBus makes an empty bus. All Add... calls come before the machine runs.
func NewBus() *Bus { return &Bus{} }

// AddEOIHandler makes h hear EOIs.
func (b *Bus) AddEOIHandler(h EOIHandler) { b.eoi = append(b.eoi, h) }

// SetINTA names the controller that answers ExtINT interrupts.
func (b *Bus) SetINTA(c INTA) { b.intr = c }

// LAPICs are the local APICs, indexed by their IDs.
func (b *Bus) LAPICs() []*LAPIC { return b.lapics }

// SetINTR drives LINT0 of every processor with the 8259s' INTR output, as a PC's
// wiring does. Only processors whose LVT LINT0 entry is open care.
func (b *Bus) SetINTR(level bool) {
	for _, l := range b.lapics {
		l.SetLINT(0, level)
	}
}

// NMI drives an NMI pulse onto LINT1 of every processor, as a PC's NMI line is
// wired: it reaches those whose LVT LINT1 entry lets it through.
func (b *Bus) NMI() {
	for _, l := range b.lapics {
		l.SetLINT(1, true)
		l.SetLINT(1, false)
	}
}

// Send delivers m and tells whether any local APIC took it.
func (b *Bus) Send(m Message) bool {
	if m.Mode == LowestPriority {
		if l := b.lowest(m); l != nil {
			return l.deliver(m)
		}
		return false
	}
	if !m.Logical && m.Dest != Broadcast {
		return m.Dest < uint32(len(b.lapics)) && b.lapics[m.Dest].deliver(m)
	}
	taken := false
	for _, l := range b.lapics {
		if l.matches(m) && l.deliver(m) {
			taken = true
		}
	}
	return taken
}

// lowest arbitrates among the enabled targets of m: the lowest processor
// priority wins, equals take turns (SDM vol. 3, section 10.6.2.4).
func (b *Bus) lowest(m Message) *LAPIC {
	if !m.Logical && m.Dest != Broadcast {
		if m.Dest < uint32(len(b.lapics)) {
			return b.lapics[m.Dest]
		}
		return nil
	}
	var best *LAPIC
	n := uint32(len(b.lapics))
	if n == 0 {
		return nil
	}
	first := b.turn.Add(1) % n
	for i := range n {
		l := b.lapics[(first+i)%n]
		if l.route.Load()&routeEnabled == 0 || !l.matches(m) {
			continue
		}
		if best == nil || l.arbitration() < best.arbitration() {
			best = l
		}
	}
	return best
}

// except delivers m to all but one: the "all excluding self" shorthand.
func (b *Bus) except(self *LAPIC, m Message) {
	for _, l := range b.lapics {
		if l != self {
			l.deliver(m)
		}
	}
}

func (b *Bus) broadcastEOI(vector uint8) {
	for _, h := range b.eoi {
		h.EOI(vector)
	}
}

// The route word of a local APIC: what others must know to address it.
const (
	routeLDRMask = 0xff    // logical APIC ID, xAPIC mode
	routeCluster = 1 << 8  // DFR: cluster model
	routeEnabled = 1 << 9  // software-enabled: takes fixed interrupts
	routeOn      = 1 << 10 // enabled in IA32_APIC_BASE: on the bus at all
	routeX2      = 1 << 11 // x2APIC mode: the logical ID follows from the ID
)

// matches tells whether m's destination includes l.
func (l *LAPIC) matches(m Message) bool {
	r := l.route.Load()
	if r&routeOn == 0 {
		return false
	}
	if m.Dest == Broadcast {
		return true
	}
	if !m.Logical {
		return m.Dest == l.id
	}
	if r&routeX2 != 0 {
		ldr := x2LDR(l.id)
		return m.Dest>>16 == ldr>>16 && m.Dest&ldr&0xffff != 0
	}
	ldr := r & routeLDRMask
	if r&routeCluster == 0 { // flat model: SDM vol. 3, section 10.6.2.2
		return m.Dest <= 0xff && m.Dest&ldr != 0
	}
	return m.Dest <= 0xff && (m.Dest>>4 == ldr>>4 || m.Dest>>4 == 15) && m.Dest&ldr&0xf != 0
}

// x2LDR is the logical ID that x2APIC mode gives to an ID (SDM vol. 3, section
// 10.12.10.2): the cluster in the upper half, one bit in the lower.
func x2LDR(id uint32) uint32 { return id>>4<<16 | 1<<(id&15) }

// A vectorSet is one bit for each of 256 vectors, as IRR, ISR and TMR are.
type vectorSet [8]atomic.Uint32

func (s *vectorSet) set(v uint8) (was bool) {
	bit := uint32(1) << (v & 31)
	return s[v>>5].Or(bit)&bit != 0
}

func (s *vectorSet) clear(v uint8) (was bool) {
	bit := uint32(1) << (v & 31)
	return s[v>>5].And(^bit)&bit != 0
}

func (s *vectorSet) has(v uint8) bool { return s[v>>5].Load()>>(v&31)&1 != 0 }

// highest is 0 if the set is empty: no vector below 16 is ever in one.
func (s *vectorSet) highest() uint8 {
	for i := len(s) - 1; i >= 0; i-- {
		if w := s[i].Load(); w != 0 {
			return uint8(i*32 + bits.Len32(w) - 1)
		}
	}
	return 0
}

func (s *vectorSet) reset() {
	for i := range s {
		s[i].Store(0)
	}
}
