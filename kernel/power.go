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
	pm1a, pm1b  uint16 // PM1 control registers, 0 for none
	typA, typB  uint8  // what to write there for S5
}

func findACPIPower() {
	p := &acpiPower
	f := acpi.Table(tableMemory{}, rsdp, "FACP", 0)
	if f == nil {
		return
	}
	p.resetPort, p.resetValue, p.resets = acpi.ResetPort(f)
	p.pm1a, p.pm1b = acpi.PowerPorts(f)
	if dsdt := acpi.At(tableMemory{}, acpi.DSDT(f)); dsdt != nil && p.pm1a != 0 {
		p.typA, p.typB, p.switchesOff = acpi.S5(dsdt)
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

// powerOff enters ACPI's S5 (4.8.3.2): SLP_TYP as the DSDT says, with SLP_EN.
// Bochs, whose DSDT has no S5, switches off by a word to port 8900h.
func powerOff() {
	waitSerial()
	const slpEn = 1 << 13
	if p := &acpiPower; p.switchesOff {
		Out16(p.pm1a, uint16(p.typA)<<10|slpEn)
		if p.pm1b != 0 {
			Out16(p.pm1b, uint16(p.typB)<<10|slpEn)
		}
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
