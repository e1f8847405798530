// Package acpi builds the ACPI tables that describe a machine to its guest: RSDP,
// RSDT, XSDT, FADT, FACS, MADT, DSDT, and MCFG where there is ECAM.
// Reference: ACPI Specification 6.4, chapter 5; MCFG: PCI Firmware Specification
// 3.0, section 4.1.2.
package acpi

import (
	"encoding/binary"
	"errors"
	"fmt"

	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/apic"
	"godwit/vmm/device/ioapic"
	"godwit/vmm/device/pci"
	"godwit/vmm/device/rtc"
)

// DefaultBase is where a PC's BIOS area is searched for the RSDP; there are 128 KiB.
const (
	DefaultBase = 0xe0000
	DefaultSize = 0x20000
)

// SCI is the system control interrupt: ISA interrupt 9, level-triggered and active
// high, so that the 8259s can take it too.
const SCI = 9

// Config of the machine to describe.
type Config struct {
	Base     uint64 // where the tables will be; below 4 GiB, a multiple of 64
	CPUs     int
	IOAPICID uint8
	IO       pci.Window
	Memory32 pci.Window
	Memory64 pci.Window
	PCIGSIs  []int  // as pci.Config.Lines, by their interrupt numbers
	ECAM     uint64 // 0: none
}

// Build makes the tables as they lie from c.Base on. The RSDP comes first.
func Build(c Config) ([]byte, error) {
	switch {
	case c.CPUs < 1 || c.CPUs > apic.MaxCPUs:
		return nil, fmt.Errorf("acpi: %d processors, not 1 to %d", c.CPUs, apic.MaxCPUs)
	case c.Base&63 != 0 || c.Base >= 1<<32-1<<20:
		return nil, fmt.Errorf("acpi: the tables can not be at %#x", c.Base)
	case c.IO.Base+c.IO.Size > 1<<16 || c.Memory32.Base+c.Memory32.Size > 1<<32 || c.ECAM > 1<<32-pci.ECAMSize:
		return nil, errors.New("acpi: a window lies beyond what its kind can reach")
	}
	b := builder{base: c.Base}
	b.reserve(rsdpSize)
	facs := b.add(c.facs())
	dsdt := b.add(table("DSDT", 2, c.dsdt()))
	listed := []uint64{
		b.add(c.fadt(facs, dsdt)),
		b.add(c.madt()),
	}
	if c.ECAM != 0 {
		listed = append(listed, b.add(c.mcfg()))
	}
	rsdt := b.add(table("RSDT", 1, pointers(listed, 4)))
	xsdt := b.add(table("XSDT", 1, pointers(listed, 8)))
	copy(b.image, rsdp(rsdt, xsdt))
	return b.image, nil
}

// builder places tables one after the other, on 64 bytes as the FACS must be.
type builder struct {
	base  uint64
	image []byte
}

func (b *builder) reserve(n int) { b.image = append(b.image, make([]byte, (n+63)&^63)...) }

func (b *builder) add(t []byte) uint64 {
	at := len(b.image)
	b.reserve(len(t))
	copy(b.image[at:], t)
	return b.base + uint64(at)
}

func checksum(b []byte) (sum byte) {
	for _, v := range b {
		sum += v
	}
	return -sum
}

const headerSize = 36

// table puts the common header before a body (section 5.2.6).
func table(signature string, revision byte, body []byte) []byte {
	t := make([]byte, headerSize, headerSize+len(body))
	copy(t, signature)
	le := binary.LittleEndian
	le.PutUint32(t[4:], uint32(headerSize+len(body)))
	t[8] = revision
	copy(t[10:], "GODWIT")
	copy(t[16:], "GODWITVM")
	le.PutUint32(t[24:], 1)
	copy(t[28:], "GDWT")
	le.PutUint32(t[32:], 1)
	t = append(t, body...)
	t[9] = checksum(t)
	return t
}

const rsdpSize = 36

// rsdp is section 5.2.5.3.
func rsdp(rsdt, xsdt uint64) []byte {
	b := make([]byte, rsdpSize)
	copy(b, "RSD PTR ")
	copy(b[9:], "GODWIT")
	b[15] = 2
	binary.LittleEndian.PutUint32(b[16:], uint32(rsdt))
	binary.LittleEndian.PutUint32(b[20:], rsdpSize)
	binary.LittleEndian.PutUint64(b[24:], xsdt)
	b[8] = checksum(b[:20])
	b[32] = checksum(b)
	return b
}

func pointers(at []uint64, size int) (b []byte) {
	for _, a := range at {
		b = append(b, binary.LittleEndian.AppendUint64(nil, a)[:size]...)
	}
	return b
}

// facs is section 5.2.10. There is no sleep state to wake from.
func (c Config) facs() []byte {
	b := make([]byte, 64)
	copy(b, "FACS")
	binary.LittleEndian.PutUint32(b[4:], 64)
	b[32] = 2
	return b
}

// FADT flags (section 5.2.9, "fixed feature flags").
const (
	fadtWBINVD   = 1 << 0
	fadtProcC1   = 1 << 2
	fadtSleepBtn = 1 << 5 // no fixed sleep button
	fadtNoRTC    = 1 << 6 // the RTC wakes nothing
	fadtResetReg = 1 << 10
)

// IA-PC boot architecture flags (section 5.2.9.3).
const (
	bootLegacy = 1 << 0 // ISA devices
	bootNoVGA  = 1 << 2
)

const fadtSize = 276

// fadt is section 5.2.9. Neither an 8042 is announced, since nothing is plugged
// in, nor an SMI command port, since the machine is always in ACPI mode.
func (c Config) fadt(facs, dsdt uint64) []byte {
	le := binary.LittleEndian
	b := make([]byte, fadtSize)
	put32 := func(off int, v uint64) { le.PutUint32(b[off:], uint32(v)) }
	put32(36, facs)
	put32(40, dsdt)
	le.PutUint16(b[46:], SCI)
	put32(56, acpipm.Base+acpipm.PM1Status)  // PM1a_EVT_BLK
	put32(64, acpipm.Base+acpipm.PM1Control) // PM1a_CNT_BLK
	put32(76, acpipm.Base+acpipm.PMTimer)
	b[88] = 4                    // PM1_EVT_LEN
	b[89] = 2                    // PM1_CNT_LEN
	b[91] = 4                    // PM_TMR_LEN
	le.PutUint16(b[96:], 0xffff) // P_LVL2_LAT: no C2
	le.PutUint16(b[98:], 0xffff) // P_LVL3_LAT: no C3
	b[108] = rtc.Century
	le.PutUint16(b[109:], bootLegacy|bootNoVGA)
	put32(112, fadtWBINVD|fadtProcC1|fadtSleepBtn|fadtNoRTC|fadtResetReg)
	gas(b[116:], 8, acpipm.Base+acpipm.Reset)
	b[128] = acpipm.ResetValue
	b[131] = 4 // FADT minor version
	// X_FIRMWARE_CTRL stays zero: one of the two is to be used.
	le.PutUint64(b[140:], dsdt)
	gas(b[148:], 32, acpipm.Base+acpipm.PM1Status)
	gas(b[172:], 16, acpipm.Base+acpipm.PM1Control)
	gas(b[208:], 32, acpipm.Base+acpipm.PMTimer)
	copy(b[268:], "GODWIT\x00\x00") // hypervisor vendor identity
	return table("FACP", 6, b[headerSize:])
}

// gas is a Generic Address Structure in I/O space (section 5.2.3.2).
func gas(b []byte, width byte, port uint64) {
	b[0], b[1], b[3] = 1, width, map[byte]byte{8: 1, 16: 2, 32: 3}[width]
	binary.LittleEndian.PutUint64(b[4:], port)
}

// madt is section 5.2.12.
func (c Config) madt() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, apic.DefaultBase)
	b = le.AppendUint32(b, 1) // PCAT_COMPAT: there are 8259s
	for i := range c.CPUs {
		b = append(b, 0, 8, byte(i), byte(i)) // processor local APIC: UID, ID
		b = le.AppendUint32(b, 1)             // enabled
	}
	b = append(b, 1, 12, c.IOAPICID, 0)
	b = le.AppendUint32(b, ioapic.Base)
	b = le.AppendUint32(b, 0) // its first interrupt
	b = override(b, 0, 2, 0)  // the PIT is on pin 2, polarity and trigger as on ISA
	b = override(b, SCI, SCI, activeHigh|levelTriggered)
	b = append(b, 4, 6, 0xff, 0, 0, 1) // NMI on LINT1 of all processors
	return table("APIC", 5, b)
}

// MPS INTI flags (section 5.2.12.5).
const (
	activeHigh     = 1
	levelTriggered = 3 << 2
)

func override(b []byte, irq byte, gsi uint32, flags uint16) []byte {
	b = append(b, 2, 10, 0, irq)
	b = binary.LittleEndian.AppendUint32(b, gsi)
	return binary.LittleEndian.AppendUint16(b, flags)
}

// mcfg describes ECAM for the one bus.
func (c Config) mcfg() []byte {
	b := make([]byte, 8)
	b = binary.LittleEndian.AppendUint64(b, c.ECAM)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // segment 0, buses 0 to 0
	return table("MCFG", 1, b)
}
