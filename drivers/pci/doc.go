// Package pci finds the machine's PCI and PCI Express functions and gives
// drivers what they need of them: register windows, bus mastering and
// interrupts.
//
// Section numbers are those of the PCI Local Bus Specification 3.0 ("PCI") and
// of the PCI Express Base Specification 3.0 ("PCIe"). Configuration space is
// behind an interface, so everything but host.go is tested on Linux.
package pci
