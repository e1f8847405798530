package pci

import (
	"fmt"
	"sync"

	"godwit/kernel"
)

// kernelPorts is this machine's I/O ports.
type kernelPorts struct{}

func (kernelPorts) In8(port uint16) uint8       { return kernel.In8(port) }
func (kernelPorts) In16(port uint16) uint16     { return kernel.In16(port) }
func (kernelPorts) In32(port uint16) uint32     { return kernel.In32(port) }
func (kernelPorts) Out8(port uint16, v uint8)   { kernel.Out8(port, v) }
func (kernelPorts) Out16(port uint16, v uint16) { kernel.Out16(port, v) }
func (kernelPorts) Out32(port uint16, v uint32) { kernel.Out32(port, v) }

// Host returns this machine's devices, found on first use.
var Host = sync.OnceValues(func() (*Bus, error) {
	if !kernel.Running() {
		return nil, fmt.Errorf("pci: devices can be reached only in the host image")
	}
	ports, err := Mechanism1(kernelPorts{})
	cfg := ports
	if table := kernel.ACPITable("MCFG"); table != nil {
		e, ecamErr := ECAM(table, kernel.MapMMIO)
		// Some firmware describes a window it did not set up: the two ways to
		// the first host bridge must agree, where there are two.
		root := Address{}
		if ecamErr == nil && e.Size(root) != 0 &&
			(err != nil || e.Read(root, regVendor, 4) == ports.Read(root, regVendor, 4)) {
			cfg, err = e, nil
		}
	}
	if err != nil {
		return nil, err
	}
	b := Scan(cfg, 0)
	if ports != nil && !virtual() {
		b.scanPeers(ports)
	}
	return b, nil
})

// virtual tells whether a hypervisor runs this machine (SDM vol. 2, CPUID leaf 1).
// Such a machine hardly ever has a second host bridge, and each of the 8,000 looks for
// one, a microsecond on a bare machine, would be two visits to the hypervisor.
func virtual() bool {
	_, _, c, _ := kernel.CPUID(1, 0)
	return c>>31 != 0
}

var hostLines lines

// ConnectInterrupt gives the function an interrupt on a CPU: message-signalled if
// it can, which no other device shares, else the line of its pin.
func (f *Function) ConnectInterrupt(cpu int) (Interrupt, error) {
	if _, ok := f.capability(CapMSI); ok {
		i, address, data, err := kernel.MSIInterrupt(cpu)
		if err == nil {
			if err = f.EnableMSI(address, data); err == nil {
				return &message{i, f}, nil
			}
			i.Close()
		}
	}
	irq, ok := f.Line()
	if !ok {
		return nil, fmt.Errorf("pci: %v has no message-signalled interrupt, and firmware routed its pin nowhere", f)
	}
	// The MADT tells polarity and trigger of PCI's lines on every PC that has an
	// I/O APIC (ACPI 5.2.12.5); kernel applies it.
	i, err := hostLines.connect(irq, func(irq int) (Interrupt, error) { return kernel.ISAInterrupt(irq) })
	if err != nil {
		return nil, fmt.Errorf("pci: %v: interrupt line %d: %w", f, irq, err)
	}
	f.EnableLine()
	return i, nil
}

// message is a message-signalled interrupt. The function stops sending it before
// its vector is given back.
type message struct {
	*kernel.Interrupt
	f *Function
}

func (m *message) Close() {
	m.f.DisableMSI()
	m.Interrupt.Close()
}
