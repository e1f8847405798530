package acpi

// Limits of what is kept of a MADT.
const (
	MaxCPUs      = 256
	MaxIOAPICs   = 16
	MaxOverrides = 32
)

// MADT entry types (ACPI 6.5, table 5.21).
const (
	madtLAPIC         = 0
	madtIOAPIC        = 1
	madtOverride      = 2
	madtLAPICOverride = 5
	madtX2APIC        = 9
)

// broadcast is the APIC ID that means all CPUs (SDM vol. 3, 11.6.2.1). Firmware writes
// it for none; who sent it an INIT would start the machine anew.
const broadcast = 0xff

const ioapicSize = 0x14 // index and window (82093AA datasheet, 3.1)

// An IOAPIC serves the interrupts from GSIBase on. Its registers lie in one page.
type IOAPIC struct {
	ID      uint8
	Address uint32
	GSIBase uint32
}

// An Override says where an ISA interrupt arrives (5.2.12.5).
type Override struct {
	IRQ   uint8
	GSI   uint32
	Flags uint16 // MPS INTI flags: polarity 1:0, trigger mode 3:2
}

// ActiveLow is the override's polarity; the ISA bus's own is active high.
func (o Override) ActiveLow() bool { return o.Flags&3 == 3 }

// Level is the override's trigger mode; the ISA bus's own is edge.
func (o Override) Level() bool { return o.Flags>>2&3 == 3 }

// A MADT is the Multiple APIC Description Table (5.2.12).
type MADT struct {
	LAPIC                    uint64 // physical address
	PCAT                     bool   // the machine also has 8259s, which must be masked
	NCPU, NIOAPIC, NOverride int
	CPU                      [MaxCPUs]uint32 // APIC IDs of enabled CPUs
	IOAPIC                   [MaxIOAPICs]IOAPIC
	Override                 [MaxOverrides]Override
	Truncated                bool
}

// ParseMADT reads a MADT, and reports whether it is one.
func ParseMADT(t []byte, m *MADT) bool {
	if len(t) < headerSize+8 || string(t[:4]) != "APIC" {
		return false
	}
	m.LAPIC = uint64(le.Uint32(t[36:]))
	m.PCAT = le.Uint32(t[40:])&1 != 0
	for e := t[44:]; len(e) >= 2; {
		n := int(e[1])
		if n < 2 || n > len(e) {
			return true // a broken tail: what came before stands
		}
		switch {
		case e[0] == madtLAPIC && n >= 8 && e[3] != broadcast:
			m.addCPU(uint32(e[3]), le.Uint32(e[4:]))
		case e[0] == madtX2APIC && n >= 16:
			m.addCPU(le.Uint32(e[4:]), le.Uint32(e[8:]))
		case e[0] == madtIOAPIC && n >= 12:
			a := le.Uint32(e[4:])
			if !inPage(uint64(a), ioapicSize) {
				break
			}
			if m.NIOAPIC == MaxIOAPICs {
				m.Truncated = true
				break
			}
			m.IOAPIC[m.NIOAPIC] = IOAPIC{e[2], a, le.Uint32(e[8:])}
			m.NIOAPIC++
		case e[0] == madtOverride && n >= 10:
			if m.NOverride == MaxOverrides {
				m.Truncated = true
				break
			}
			m.Override[m.NOverride] = Override{e[3], le.Uint32(e[4:]), le.Uint16(e[8:])}
			m.NOverride++
		case e[0] == madtLAPICOverride && n >= 12:
			m.LAPIC = le.Uint64(e[4:])
		}
		e = e[n:]
	}
	return true
}

func (m *MADT) addCPU(id, flags uint32) {
	if flags&1 == 0 || id == 0xffffffff {
		return
	}
	for _, c := range m.CPU[:m.NCPU] {
		if c == id { // listed both as LAPIC and as x2APIC
			return
		}
	}
	if m.NCPU == MaxCPUs {
		m.Truncated = true
		return
	}
	m.CPU[m.NCPU] = id
	m.NCPU++
}

// Route returns the global system interrupt of an ISA interrupt and how it is
// signalled.
func (m *MADT) Route(irq uint8) (gsi uint32, level, activeLow bool) {
	for _, o := range m.Override[:m.NOverride] {
		if o.IRQ == irq {
			return o.GSI, o.Level(), o.ActiveLow()
		}
	}
	return uint32(irq), false, false
}
