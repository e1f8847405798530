package kernel

import (
	"os"
	"time"
)

var stdout = os.Stdout

// MapMMIO maps a window of device registers, uncached. The same window always
// gives the same mapping.
func MapMMIO(phys, size uint64) ([]byte, error) { return nil, errNotRunning }

// An Interrupt is one interrupt line or message whose arrivals a goroutine can
// wait for.
type Interrupt struct{}

// ISAInterrupt claims a legacy interrupt, through the IOAPIC with ACPI's
// overrides, or through the PIC when there is no IOAPIC.
func ISAInterrupt(irq int) (*Interrupt, error) { return nil, errNotRunning }

// GSIInterrupt claims an IOAPIC input by its global system interrupt number.
func GSIInterrupt(gsi int, level, activeLow bool) (*Interrupt, error) {
	return nil, errNotRunning
}

// MSIInterrupt allocates a vector on a CPU for an MSI or one MSI-X entry, which
// the caller programs with address and data.
func MSIInterrupt(cpu int) (i *Interrupt, address uint64, data uint32, err error) {
	return nil, 0, 0, errNotRunning
}

// Wait blocks the goroutine until at least one more interrupt came since the last
// Wait, or timeout passed (negative: never), and reports which. Level-triggered
// interrupts are masked on delivery and unmasked by Ack.
func (i *Interrupt) Wait(timeout time.Duration) bool { return false }

// Ack unmasks a level-triggered interrupt; the device must have been served.
func (i *Interrupt) Ack() {}

// Close masks the interrupt, wakes its waiter and releases the vector.
func (i *Interrupt) Close() {}

// Count is how many times the interrupt came.
func (i *Interrupt) Count() uint64 { return 0 }

// A LogEntry is one line of the host's log.
type LogEntry struct {
	Time int64 // Nanotime
	Text string
}

// Log returns the log's lines from sequence number since on, and the number to
// ask for next time. Writes to os.Stdout and os.Stderr go there.
func Log(since uint64) (lines []LogEntry, next uint64) { return nil, 0 }

// SetLogSink hands the printing of log lines to the console, so that they never
// tear a line being typed. nil gives it back to the kernel.
func SetLogSink(func(line string)) {}

func deviceInterrupt(c *cpu, vector int) {}
