package acpi

import (
	"fmt"

	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/pci"
	"godwit/vmm/device/pvpanic"
	"godwit/vmm/device/rtc"
	"godwit/vmm/device/uart"
)

// dsdt is the machine in AML. The power button is fixed hardware, which the FADT
// describes: it needs no device here (section 4.8.2.2.1.1).
func (c Config) dsdt() []byte {
	s5 := integer(acpipm.S5)
	return cat(
		define(`\_S5`, pkg(s5, s5, integer(0), integer(0))),
		scope(`\_SB`,
			c.processors(),
			c.pciHost(),
			dev("COM1",
				define("_HID", eisaID("PNP0501")),
				define("_UID", integer(1)),
				define("_STA", integer(0xf)),
				define("_CRS", template(ioPorts(uart.COM1, uart.Ports), irq(4))),
			),
			dev("RTC0",
				define("_HID", eisaID("PNP0B00")),
				define("_CRS", template(ioPorts(rtc.Base, rtc.Ports), irq(8))),
			),
			dev("PEVT",
				define("_HID", text("QEMU0001")),
				define("_STA", integer(0xf)),
				define("_CRS", template(ioPorts(pvpanic.Base, pvpanic.Ports))),
			),
			c.motherboard(),
		),
	)
}

// processors are ACPI0007 devices whose _UID the MADT repeats (section 8.4).
func (c Config) processors() (out AML) {
	for i := range c.CPUs {
		out = append(out, dev(fmt.Sprintf("C%03X", i),
			define("_HID", text("ACPI0007")),
			define("_UID", integer(uint64(i))),
		)...)
	}
	return out
}

// pciHost has the windows that devices can be in, and where pins lead.
func (c Config) pciHost() AML {
	hid := define("_HID", eisaID("PNP0A03"))
	if c.ECAM != 0 {
		hid = cat(define("_HID", eisaID("PNP0A08")), define("_CID", eisaID("PNP0A03")))
	}
	crs := []AML{
		wordSpace(spaceBus, 0, 0, 0),
		ioPorts(pci.Base, pci.Ports),
	}
	if w := c.IO; w.Size != 0 {
		crs = append(crs, wordSpace(spaceIO, ioEntire, uint16(w.Base), uint16(w.Base+w.Size-1)))
	}
	if w := c.Memory32; w.Size != 0 {
		crs = append(crs, memory32(uint32(w.Base), uint32(w.Base+w.Size-1)))
	}
	if w := c.Memory64; w.Size != 0 {
		crs = append(crs, memory64(w.Base, w.Base+w.Size-1))
	}
	return dev("PCI0",
		hid,
		define("_UID", integer(0)),
		define("_BBN", integer(0)),
		define("_CRS", template(crs...)),
		define("_PRT", c.routing()),
	)
}

// routing leads each slot's pins to fixed interrupts, as pci.Line does (section
// 6.2.13).
func (c Config) routing() AML {
	var entries []AML
	for slot := 1; slot < 32 && len(c.PCIGSIs) > 0; slot++ {
		for pin := range uint8(4) {
			gsi := c.PCIGSIs[pci.Line(slot, pin+1, len(c.PCIGSIs))]
			entries = append(entries, pkg(
				integer(uint64(slot)<<16|0xffff),
				integer(uint64(pin)),
				integer(0), // no link device:
				integer(uint64(gsi)),
			))
		}
	}
	return pkg(entries...)
}

// motherboard reserves what belongs to no other device; Linux uses ECAM only if
// it is reserved here.
func (c Config) motherboard() AML {
	rs := []AML{
		ioPorts(acpipm.Base, acpipm.Ports),
		ioPorts(0x4d0, 2),
		ioPorts(0x61, 1),
		ioPorts(0x92, 1),
	}
	if c.ECAM != 0 {
		rs = append(rs, fixedMemory(uint32(c.ECAM), pci.ECAMSize))
	}
	return dev("MBRD",
		define("_HID", eisaID("PNP0C02")),
		define("_UID", integer(0)),
		define("_CRS", template(rs...)),
	)
}
