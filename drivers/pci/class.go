package pci

import "fmt"

// A Class is base class, sub-class and programming interface, a byte each.
type Class uint32

// String names the classes a host is likely to have; PCI appendix D.
func (c Class) String() string {
	if s, ok := classNames[uint16(c>>8)]; ok {
		return s
	}
	if s, ok := baseNames[uint8(c>>16)]; ok {
		return s
	}
	return fmt.Sprintf("class %06x", uint32(c))
}

var classNames = map[uint16]string{
	0x0101: "IDE controller",
	0x0106: "SATA controller",
	0x0108: "NVMe controller",
	0x0200: "Ethernet controller",
	0x0300: "VGA controller",
	0x0403: "audio device",
	0x0600: "host bridge",
	0x0601: "ISA bridge",
	0x0604: "PCI bridge",
	0x0c03: "USB controller",
	0x0c05: "SMBus",
}

var baseNames = map[uint8]string{
	0x01: "storage controller",
	0x02: "network controller",
	0x03: "display controller",
	0x04: "multimedia device",
	0x05: "memory controller",
	0x06: "bridge",
	0x07: "communication controller",
	0x08: "system peripheral",
	0x0c: "serial bus controller",
}
