package kernel

import (
	"errors"
	"io"
	"time"
	"unsafe"
)

var errNotRunning = errors.New("kernel: not on bare hardware")

// Running reports whether the program runs in ring 0 under this kernel, rather
// than as a Linux process.
func Running() bool { return false }

// CommandLine is the host's command line without the image's own name or URL.
func CommandLine() string { return "" }

// A Module is a file the boot loader put into memory beside the image.
type Module struct {
	Name string // last element of its path
	Data []byte // read-only
}

// Modules lists the boot modules in the boot loader's order.
func Modules() []Module { return nil }

// RSDP is the physical address of ACPI's root pointer, 0 if there is none.
func RSDP() uint64 { return 0 }

// ACPITable returns the first ACPI table with this signature, its checksum
// verified, or nil.
func ACPITable(sig string) []byte { return nil }

// NumCPU is how many CPUs are online. They are numbered from 0, the boot CPU.
func NumCPU() int { return 1 }

// ThisCPU is the number of the CPU the caller runs on. Outside Privileged and
// OnEachCPU the answer may be out of date when it arrives.
func ThisCPU() int { return 0 }

// OnEachCPU runs f once on every CPU, in a goroutine whose thread is pinned
// there, and waits for all of them. The calls may run in parallel.
func OnEachCPU(f func(cpu int)) {}

// Privileged runs fn(arg) on the calling thread's kernel stack with interrupts
// off, as a blocking system call, so the Go runtime may give the P to others.
//
// fn must not allocate, grow maps, write pointers into the heap, take Go locks,
// block or panic. It is short apart from guest execution, which a host interrupt
// always ends; physical interrupts that ended guest execution are taken when
// Privileged returns. FPU and vector registers need not be preserved by fn, but
// MXCSR and the x87 control word must be, and so must XCR0.
func Privileged(fn func(arg unsafe.Pointer), arg unsafe.Pointer) {}

// SetTimer makes a timer interrupt hit this CPU at or before host TSC value tsc.
// 0 says that it is not needed any more. It may be called only inside Privileged.
func SetTimer(tsc uint64) {}

// KickCPU sends an interrupt that makes a CPU leave its guest and does nothing
// else. It may be called anywhere, also inside Privileged.
func KickCPU(cpu int) {}

// A HostContext is what a VMCS's host-state area must hold on one CPU (SDM
// vol. 3, 26.2.3, 26.2.4) for a VM exit to land in the environment that
// Privileged gives fn. CR3 is the same on every CPU and never changes.
type HostContext struct {
	CR0, CR3, CR4          uint64
	EFER, PAT              uint64
	FSBase, GSBase         uint64
	TRBase                 uint64
	GDTBase, IDTBase       uint64
	CS, SS, DS, ES, FS, GS uint16
	TR                     uint16
}

// HostState returns the host context of a CPU.
func HostState(cpu int) HostContext { return HostContext{} }

// AllocPhys returns zeroed, physically contiguous memory. size and align are
// powers of two from 4 KiB to 1 GiB; size may also be any multiple of 4 KiB below.
// data is the direct map's view of it (write-back).
func AllocPhys(size, align uint64) (phys uint64, data []byte, err error) {
	return 0, nil, errNotRunning
}

// FreePhys gives back what AllocPhys returned, wholly or in part.
func FreePhys(phys, size uint64) {}

// PhysBytes is the direct map's view of RAM. It panics if the range is not RAM.
func PhysBytes(phys, size uint64) []byte { return nil }

// PhysOf translates an address inside the direct map or the kernel image.
// It panics for any other address, such as one in the Go heap.
func PhysOf(p unsafe.Pointer) uint64 { return 0 }

// MapMMIO maps a window of device registers, uncached. The same window always
// gives the same mapping.
func MapMMIO(phys, size uint64) ([]byte, error) { return nil, errNotRunning }

// MemInfo says where the machine's memory is. All values are bytes.
type MemInfo struct {
	Total  uint64 // RAM the boot loader reported usable
	Free   uint64
	Kernel uint64 // image, page tables, stacks, per-CPU areas, allocator's own
	GoHeap uint64 // pages behind the Go runtime's mappings
	Phys   uint64 // held by callers of AllocPhys
}

// Memory reports the current use of memory.
func Memory() MemInfo { return MemInfo{} }

// ReadMSRSafe reads a model-specific register that may not exist.
func ReadMSRSafe(msr uint32) (v uint64, ok bool) { return 0, false }

// WriteMSRSafe writes a model-specific register that may not exist or may refuse v.
func WriteMSRSafe(msr uint32, v uint64) (ok bool) { return false }

// TSCFrequency is the TSC's rate in Hz.
func TSCFrequency() uint64 { return 0 }

// Nanotime is monotonic time in nanoseconds since boot. It may be called inside
// Privileged.
func Nanotime() int64 { return 0 }

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

// SerialConsole is COM1: input driven by interrupts, output buffered and flushed
// on panic.
func SerialConsole() io.ReadWriter { return nil }

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

// Reboot resets the machine. It does not return.
func Reboot() { panic("kernel: Reboot outside the host image") }

// PowerOff switches the machine off. It does not return; where nothing answers,
// it halts.
func PowerOff() { panic("kernel: PowerOff outside the host image") }

// Halt stops all CPUs. It does not return.
func Halt() { panic("kernel: Halt outside the host image") }
