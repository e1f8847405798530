package device_test

import (
	"godwit/vmm/device"
	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/apic"
	"godwit/vmm/device/consolering"
	"godwit/vmm/device/i8042"
	"godwit/vmm/device/ioapic"
	"godwit/vmm/device/pci"
	"godwit/vmm/device/pic"
	"godwit/vmm/device/pit"
	"godwit/vmm/device/rtc"
	"godwit/vmm/device/sysport"
	"godwit/vmm/device/uart"
	"godwit/vmm/device/wire"
)

// board is every device there is, wired as in a PC.
type board struct {
	clock   device.Clock
	bus     *apic.Bus
	ioapic  *ioapic.IOAPIC
	pic     *pic.PIC
	pm      *acpipm.PM
	uart    *uart.UART
	nic     *pci.Function
	devices []device.Device
	lines   []device.Line
	ports   []ports
	windows []window
	resets  int
}

type ports struct {
	base, n uint16
	dev     device.PortDevice
}

type window struct {
	size uint64
	dev  device.MMIODevice
}

// ram is what a function's BAR leads to.
type ram [256]byte

func (r *ram) ReadMMIO(off uint64, b []byte)  { copy(b, r[off:]) }
func (r *ram) WriteMMIO(off uint64, b []byte) { copy(r[off:], b) }

func newBoard(clock device.Clock, cpus int) *board {
	b := &board{clock: clock, bus: apic.NewBus()}
	for i := range cpus {
		l := b.bus.Add(apic.Config{
			BSP: i == 0, Clock: clock, Wake: func() {},
			TSCTime: func(tsc uint64) int64 { return int64(tsc) },
		})
		b.devices = append(b.devices, l)
		b.windows = append(b.windows, window{apic.Size, l})
	}
	b.ioapic = ioapic.New(b.bus, 4)
	b.pic = pic.New(wire.Fan{device.LineFunc(b.bus.SetINTR), b.ioapic.Line(0)})
	b.bus.SetINTA(b.pic)
	isa := func(irq int) device.Line {
		pin := irq
		if irq == 0 {
			pin = 2
		}
		return wire.Fan{b.pic.Line(irq), b.ioapic.Line(pin)}
	}
	for irq := range 16 {
		if irq != 2 {
			b.lines = append(b.lines, isa(irq))
		}
	}
	sci := wire.NewOr("irq9", isa(9))
	reset := func() { b.resets++ }
	b.pm = acpipm.New(clock, sci.Input(), acpipm.Events{PowerOff: reset, Reset: reset})
	timer := pit.New(clock, isa(0))
	cmos := rtc.New(clock, func() int64 { return 1.76e18 + clock.Now() }, isa(8))
	ring := consolering.New()
	b.uart = uart.New("uart0", uart.COM1, isa(4), ring)
	keyboard := i8042.New(isa(1), isa(12), reset)
	small := sysport.New(reset)
	mem32, mem64 := pci.Window{Base: 0xc0000000, Size: 0x3ec00000}, pci.Window{Base: 1 << 38, Size: 1 << 34}
	host := pci.NewHost(pci.Config{
		IO: pci.Window{Base: 0xc000, Size: 0x4000}, Memory32: mem32, Memory64: mem64, MSI: b.bus, Reset: reset,
		Lines: []device.Line{b.ioapic.Line(16), b.ioapic.Line(17), b.ioapic.Line(18), b.ioapic.Line(19)},
	})
	b.nic = pci.NewFunction("pci/03.0", pci.Identity{Vendor: 0x1af4, Device: 0x1041, Class: 0x020000})
	b.nic.AddBAR(0, pci.BAR{Kind: pci.Memory64, Size: 256, MMIO: &ram{}})
	b.nic.AddBAR(3, pci.BAR{Kind: pci.IO, Size: 16, Ports: small})
	b.nic.AddMSIX(2, 70)
	b.nic.AddMSI(5)
	b.nic.AddPin(1)
	host.Add(3, 0, b.nic)
	host.Reset()
	b.devices = append(b.devices, b.ioapic, b.pic, sci, b.pm, timer, cmos, ring, b.uart, keyboard, small, host)
	for _, f := range host.Functions() {
		b.devices = append(b.devices, f)
	}
	b.ports = []ports{
		{pic.Master, 2, b.pic}, {pic.Slave, 2, b.pic}, {pic.ELCR, 2, b.pic},
		{pit.Base, pit.Ports, timer}, {pit.Port61, 1, timer},
		{rtc.Base, rtc.Ports, cmos},
		{acpipm.Base, acpipm.Ports, b.pm},
		{uart.COM1, uart.Ports, b.uart},
		{i8042.Data, 1, keyboard}, {i8042.Command, 1, keyboard},
		{sysport.Port80, 1, small}, {sysport.Port92, 1, small},
		{pci.Base, pci.Ports, host},
		{0xc000, 0x4000, host.IO()},
	}
	b.windows = append(b.windows,
		window{ioapic.Size, b.ioapic},
		window{pci.ECAMSize, host.ECAM()},
		window{mem32.Size, host.Memory(mem32)},
		window{mem64.Size, host.Memory(mem64)},
	)
	return b
}
