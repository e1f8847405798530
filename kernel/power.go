package kernel

import (
	"unsafe"

	"github.com/usbarmory/tamago/soc/intel/uart"

	"godwit/kernel/internal/acpi"
)

// Resetting and switching off, by ACPI where it offers that.

// acpiPower is what ACPI offers. It is looked up at start: mapping a table may need a
// lock that a CPU which was stopped in the end holds.
var acpiPower struct {
	resets     bool
	resetPort  uint16
	resetValue uint8

	switchesOff bool
	s5          sleepS5
}

func findACPIPower() {
	p := &acpiPower
	f := acpi.Table(tableMemory{}, rsdp, "FACP", 0)
	if f == nil {
		return
	}
	p.resetPort, p.resetValue, p.resets = acpi.ResetPort(f)
	p.s5.pm1a, p.s5.pm1b = acpi.PowerPorts(f)
	p.s5.smi, p.s5.enable = acpi.ACPIMode(f)
	if dsdt := acpi.At(tableMemory{}, acpi.DSDT(f)); dsdt != nil && p.s5.pm1a != 0 {
		p.s5.typA, p.s5.typB, p.switchesOff = acpi.S5(dsdt)
	}
}

// waitSerial lets the last bytes out.
func waitSerial() {
	for i := 0; i < 100000 && In8(com1.Base+uart.LSR)&lsrIdle == 0; i++ {
	}
}

// resetMachine tries ACPI's reset register (ACPI 6.5, 4.8.3.6), the chipset's port
// CF9h (82371SB, reset control register: a hard reset), then the keyboard
// controller's line, which on such a chipset resets the processor and no device: a
// host that starts on what the last one left in its devices may not come up.
func resetMachine() {
	waitSerial()
	if p := &acpiPower; p.resets {
		Out8(p.resetPort, p.resetValue)
		spinAWhile()
	}
	Out8(0xcf9, 0x02)
	Out8(0xcf9, 0x06)
	spinAWhile()
	Out8(0x64, 0xfe)
	spinAWhile()
}

func spinAWhile() {
	for range 200000 {
		pause()
	}
}

// A sleepS5 is what it takes to enter S5.
type sleepS5 struct {
	pm1a, pm1b uint16 // PM1 control registers, 0 for none
	typA, typB uint8  // what to write there
	smi        uint16 // firmware's SMI port, 0 for none
	enable     uint8  // and what takes the registers from firmware there
}

// PM1 control (ACPI 6.5, 4.8.3.2.1). The other bits are to be preserved.
const (
	pm1SCI   = 1 << 0 // firmware does not have the registers
	pm1Type  = 10
	pm1Types = 7 << pm1Type
	pm1Sleep = 1 << 13

	smiPatience = 3000 // ms; ACPI names no limit
)

// enter goes to S5 (ACPI 6.5, 4.8.3.2). Where firmware still has the registers it may
// catch SLP_EN as it would the power button, so they are taken from it first: it says by
// SCI_EN when that is done (table 5.9, ACPI_ENABLE). The type is there before SLP_EN, as
// some chipsets want it.
func (s *sleepS5) enter(in16 func(uint16) uint16, out16 func(uint16, uint16), out8 func(uint16, uint8), wait func(us uint64)) {
	if s.smi != 0 && s.enable != 0 && in16(s.pm1a)&pm1SCI == 0 {
		out8(s.smi, s.enable)
		for i := 0; i < smiPatience && in16(s.pm1a)&pm1SCI == 0; i++ {
			wait(1000)
		}
	}
	a := in16(s.pm1a)&^(pm1Types|pm1Sleep) | uint16(s.typA)<<pm1Type
	out16(s.pm1a, a)
	var b uint16
	if s.pm1b != 0 {
		b = in16(s.pm1b)&^(pm1Types|pm1Sleep) | uint16(s.typB)<<pm1Type
		out16(s.pm1b, b)
	}
	out16(s.pm1a, a|pm1Sleep)
	if s.pm1b != 0 {
		out16(s.pm1b, b|pm1Sleep)
	}
}

// powerOff enters S5.
// Bochs, whose DSDT has no S5, switches off by a word to port 8900h.
func powerOff() {
	waitSerial()
	if p := &acpiPower; p.switchesOff {
		p.s5.enter(In16, Out16, Out8, delay)
		spinAWhile()
	}
	for i := range len(bochsShutdown) {
		Out8(0x8900, bochsShutdown[i])
	}
	spinAWhile()
}

const bochsShutdown = "Shutdown"

// The three below stop the other CPUs first, so that nobody disturbs the end.
func lastRites() {
	beginStop()
	stopOthers()
	drainSerial(true)
	flushLog()
}

func rebootNow(unsafe.Pointer) {
	lastRites()
	resetMachine()
	haltForever()
}

func powerOffNow(unsafe.Pointer) {
	lastRites()
	powerOff()
	print1("godwit: this machine does not switch itself off; it is safe to do so now\n")
	haltForever()
}

func haltNow(unsafe.Pointer) {
	lastRites()
	print1("godwit: halted\n")
	haltForever()
}

// Reboot resets the machine. It does not return.
func Reboot() { final(rebootNow) }

// PowerOff switches the machine off. It does not return; where nothing answers,
// it halts.
func PowerOff() { final(powerOffNow) }

// Halt stops all CPUs. It does not return.
func Halt() { final(haltNow) }

func final(f func(unsafe.Pointer)) {
	if !running {
		panic("kernel: Reboot, PowerOff and Halt need the bare machine")
	}
	critical(f, nil)
}
