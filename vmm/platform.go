package vmm

import (
	"fmt"

	"godwit/vmm/acpi"
	"godwit/vmm/device"
	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/apic"
	"godwit/vmm/device/consolering"
	"godwit/vmm/device/i8042"
	"godwit/vmm/device/ioapic"
	"godwit/vmm/device/pci"
	"godwit/vmm/device/pic"
	"godwit/vmm/device/pit"
	"godwit/vmm/device/pvpanic"
	"godwit/vmm/device/rtc"
	"godwit/vmm/device/sysport"
	"godwit/vmm/device/uart"
	"godwit/vmm/device/vclock"
	"godwit/vmm/device/wire"
)

// Where things are in the guest-physical address space beside RAM.
var (
	pciIO       = pci.Window{Base: 0xc000, Size: 0x4000}
	pciMemory32 = pci.Window{Base: 0xc0000000, Size: 0x20000000}
	pciMemory64 = pci.Window{Base: 7 << 36, Size: 1 << 36} // the end of the models' 39 bits
)

const ioapicID = 0

// The PCI pins are spread over the IOAPIC's inputs from 16 on.
const (
	firstPCIGSI = 16
	numPCIGSI   = 8
)

// platform is the board: all devices but the processors' local APICs.
type platform struct {
	clock  *vclock.Clock
	apics  *apic.Bus
	ioapic *ioapic.IOAPIC
	pic    *pic.PIC
	pit    *pit.PIT
	rtc    *rtc.RTC
	pm     *acpipm.PM
	kbd    *i8042.Controller
	sys    *sysport.Ports
	uart   *uart.UART
	ring   *consolering.Ring
	pci    *pci.Host

	// devices in the order in which they are reset, saved and loaded: the
	// clock first, controllers before what drives them.
	devices []device.Device
}

// isa is the line of an ISA interrupt: it reaches the 8259s and the IOAPIC, on
// another pin there for the PIT (the MADT says so).
func (p *platform) isa(irq int) device.Line {
	pin := irq
	if irq == 0 {
		pin = 2
	}
	return wire.Fan{p.pic.Line(irq), p.ioapic.Line(pin)}
}

// newPlatform builds the board and puts it on the bus.
func (vm *VM) newPlatform() error {
	p := &vm.platform
	p.clock = vclock.New(vm.now)
	p.apics = apic.NewBus()
	p.ioapic = ioapic.New(p.apics, ioapicID)
	p.pic = pic.New(device.LineFunc(p.apics.SetINTR))
	p.apics.SetINTA(p.pic)
	p.pit = pit.New(p.clock, p.isa(0))
	p.rtc = rtc.New(p.clock, func() int64 { return vm.host.WallClock().UnixNano() }, p.isa(8))
	high := vm.cfg.Memory - min(vm.cfg.Memory, lowLimit)
	p.rtc.SetMemory(vm.cfg.Memory-high, high)
	p.pm = acpipm.New(p.clock, p.isa(acpi.SCI), acpipm.Events{PowerOff: vm.powerOff, Reset: vm.reset})
	p.kbd = i8042.New(p.isa(1), p.isa(12), vm.reset)
	p.sys = sysport.New(vm.reset)
	p.ring = consolering.New()
	p.uart = uart.New("uart0", uart.COM1, p.isa(4), &panicWatch{vm: vm})
	var lines []device.Line
	for i := range numPCIGSI {
		lines = append(lines, p.ioapic.Line(firstPCIGSI+i))
	}
	p.pci = pci.NewHost(pci.Config{IO: pciIO, Memory32: pciMemory32, Memory64: pciMemory64, MSI: p.apics, Lines: lines, Reset: vm.reset})

	for _, r := range []struct {
		first, n uint16
		dev      device.PortDevice
		wide     bool // it takes 16 and 32 bits at once
	}{
		{pic.Master, 2, p.pic, false}, {pic.Slave, 2, p.pic, false}, {pic.ELCR, 2, p.pic, false},
		{pit.Base, pit.Ports, p.pit, false}, {pit.Port61, 1, p.pit, false},
		{rtc.Base, rtc.Ports, p.rtc, false},
		{acpipm.Base, acpipm.Ports, p.pm, true},
		{i8042.Data, 1, p.kbd, false}, {i8042.Command, 1, p.kbd, false},
		{sysport.Port80, 1, p.sys, false}, {sysport.Port92, 1, p.sys, false},
		{uart.COM1, uart.Ports, p.uart, true},
		{pvpanic.Base, pvpanic.Ports, pvpanic.New(vm.panicked), false},
		{pci.Base, pci.Ports, p.pci, true}, {uint16(pciIO.Base), uint16(pciIO.Size), p.pci.IO(), true},
	} {
		if !r.wide {
			r.dev = &device.Bytes{First: r.first, N: r.n, Device: r.dev}
		}
		if err := vm.bus.AddPorts(r.first, r.n, r.dev); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		start, size uint64
		dev         device.MMIODevice
	}{
		{ioapic.Base, ioapic.Size, p.ioapic},
		{pciMemory32.Base, pciMemory32.Size, p.pci.Memory(pciMemory32)},
		{pciMemory64.Base, pciMemory64.Size, p.pci.Memory(pciMemory64)},
	} {
		if err := vm.bus.AddMMIO(r.start, r.size, r.dev); err != nil {
			return err
		}
	}
	p.devices = []device.Device{p.clock, p.ioapic, p.pic, p.pit, p.rtc, p.pm, p.kbd, p.sys, p.ring, p.uart, p.pci}
	for _, f := range p.pci.Functions() {
		p.devices = append(p.devices, f)
	}
	return nil
}

// firmware leaves the board as a PC's firmware leaves it to an operating system.
func (vm *VM) firmware() error {
	p := &vm.platform
	for _, d := range p.devices {
		d.Reset()
	}
	for _, c := range vm.cpus {
		c.lapic.Reset()
		c.lapic.Firmware()
	}
	p.pic.Firmware()
	gsis := make([]int, numPCIGSI)
	for i := range gsis {
		gsis[i] = firstPCIGSI + i
	}
	tables, err := acpi.Build(acpi.Config{
		Base: acpi.DefaultBase, CPUs: vm.cfg.CPUs, IOAPICID: ioapicID,
		IO: pciIO, Memory32: pciMemory32, Memory64: pciMemory64, PCIGSIs: gsis,
	})
	if err != nil {
		return err
	}
	if room := biosSegment<<4 + biosCode - acpi.DefaultBase; len(tables) > room {
		return fmt.Errorf("acpi: %d bytes of tables do not fit in %d", len(tables), room)
	}
	if err := vm.ram.Zero(acpi.DefaultBase, acpi.DefaultSize); err != nil {
		return err
	}
	if err := vm.biosData(); err != nil {
		return err
	}
	return vm.ram.WriteAt(tables, acpi.DefaultBase)
}
