package apic

// A DeliveryMode is numbered as in the ICR, LVT, IOAPIC entries and MSI data
// (SDM vol. 3, figure 10-12).
type DeliveryMode uint8

const (
	Fixed          DeliveryMode = 0
	LowestPriority DeliveryMode = 1
	SMI            DeliveryMode = 2
	NMI            DeliveryMode = 4
	INIT           DeliveryMode = 5
	SIPI           DeliveryMode = 6
	ExtINT         DeliveryMode = 7
)

// Broadcast as a Message's Dest means every local APIC.
const Broadcast = 0xffffffff

// A Message on the interrupt bus.
type Message struct {
	Dest    uint32 // an APIC ID, or a set of processors if Logical
	Vector  uint8
	Mode    DeliveryMode
	Logical bool
	Level   bool // level-triggered: its EOI is broadcast
}

// dest8 widens the eight-bit destination of an xAPIC, IOAPIC or MSI message.
func dest8(d uint8) uint32 {
	if d == 0xff {
		return Broadcast
	}
	return uint32(d)
}

// Redirection makes a Message of an IOAPIC redirection entry (82093AA
// datasheet, section 3.2.4).
func Redirection(e uint64) Message {
	return Message{
		Dest:    dest8(uint8(e >> 56)),
		Vector:  uint8(e),
		Mode:    DeliveryMode(e >> 8 & 7),
		Logical: e>>11&1 != 0,
		Level:   e>>15&1 != 0,
	}
}

// IsMSI tells whether a write to this physical address is an interrupt message
// (SDM vol. 3, section 10.11.1).
func IsMSI(address uint64) bool { return address>>20 == 0xfee }

// Message implements device.MSI: a write of data to address (SDM vol. 3,
// sections 10.11.1 and 10.11.2). Writes elsewhere are not interrupts and are
// dropped.
func (b *Bus) Message(address uint64, data uint32) {
	if !IsMSI(address) {
		return
	}
	m := Message{
		Dest:   dest8(uint8(address >> 12)),
		Vector: uint8(data),
		Mode:   DeliveryMode(data >> 8 & 7),
		Level:  data>>15&1 != 0,
	}
	if address>>3&1 != 0 { // redirection hint: one processor, chosen by the destination mode
		m.Logical = address>>2&1 != 0
		if m.Mode == Fixed {
			m.Mode = LowestPriority
		}
	} else {
		// Without the hint the mode bit is to be ignored as per 10.11.1, but every
		// chipset, and Linux with it, takes a logical destination as such.
		m.Logical = address>>2&1 != 0
	}
	b.Send(m)
}
