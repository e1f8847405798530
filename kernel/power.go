package kernel

import (
	"sync/atomic"
	"unsafe"

	"github.com/usbarmory/tamago/soc/intel/uart"

	"godwit/kernel/internal/acpi"
)

// Resetting and switching off, by ACPI where it offers that.

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
	if f := acpi.Table(tableMemory{}, rsdp, "FACP", 0); f != nil {
		if port, v, ok := acpi.ResetPort(f); ok {
			Out8(port, v)
			spinAWhile()
		}
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
	if f := acpi.Table(tableMemory{}, rsdp, "FACP", 0); f != nil {
		a, b := acpi.PowerPorts(f)
		if dsdt := acpi.At(tableMemory{}, acpi.DSDT(f)); dsdt != nil {
			if typA, typB, ok := acpi.S5(dsdt); ok && a != 0 {
				Out16(a, uint16(typA)<<10|slpEn)
				if b != 0 {
					Out16(b, uint16(typB)<<10|slpEn)
				}
				spinAWhile()
			}
		}
	}
	for i := range len(bochsShutdown) {
		Out8(0x8900, bochsShutdown[i])
	}
	spinAWhile()
}

const bochsShutdown = "Shutdown"

// The three below stop the other CPUs first, so that nobody disturbs the end.
func lastRites() {
	if atomic.SwapUint32(&stopping, 1) != 0 {
		haltForever()
	}
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
