package kernel

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Machine-check registers (SDM vol. 3, 16.3).
const (
	msrMCGCap    = 0x179
	msrMCGStatus = 0x17a
	msrMCGCtl    = 0x17b
	msrMC0Ctl    = 0x400 // four registers a bank: control, status, address, miscellaneous

	mcgCtlPresent = 1 << 8

	mcValid       = 1 << 63
	mcUncorrected = 1 << 61
	mcAddrValid   = 1 << 58
	mcContextLost = 1 << 57
)

// maxBanks bounds the banks that are looked at.
const maxBanks = 64

func machineCheckBanks() uint32 {
	if _, _, _, d := CPUID(1, 0); d>>14&1 == 0 || d>>7&1 == 0 { // MCA, MCE
		return 0
	}
	return min(uint32(ReadMSR(msrMCGCap)&0xff), maxBanks)
}

// enableMachineChecks switches every error of every bank on, on this CPU. What the
// banks hold from before is left there: the first look at them tells it.
func enableMachineChecks() {
	n := machineCheckBanks()
	if n == 0 {
		return
	}
	if ReadMSR(msrMCGCap)&mcgCtlPresent != 0 {
		WriteMSRSafe(msrMCGCtl, 1<<64-1)
	}
	for i := range n {
		WriteMSRSafe(msrMC0Ctl+4*i, 1<<64-1)
	}
	WriteMSRSafe(msrMCGStatus, 0) // a machine check that this says is in progress would make the next one a shutdown
}

// A bankError is what a bank holds.
type bankError struct {
	bank         uint32
	status, addr uint64
}

// readBank reads one bank of this CPU. It reports false if the bank holds nothing.
func readBank(bank uint32) (e bankError, ok bool) {
	e = bankError{bank: bank, status: ReadMSR(msrMC0Ctl + 4*bank + 1)}
	if e.status&mcValid == 0 {
		return e, false
	}
	if e.status&mcAddrValid != 0 {
		e.addr = ReadMSR(msrMC0Ctl + 4*bank + 2)
	}
	return e, true
}

// A machineCheck is what a CPU notes of one that hit it, for whoever reports.
type machineCheck struct {
	frame  uintptr // *trapFrame; 0: there was none
	global uint64  // IA32_MCG_STATUS
	n      int
	banks  [8]bankError
}

func (m *machineCheck) read(f *trapFrame) {
	m.n = 0
	for i := range machineCheckBanks() {
		if e, ok := readBank(i); ok && m.n < len(m.banks) {
			m.banks[m.n] = e
			m.n++
		}
	}
	m.global = ReadMSR(msrMCGStatus)
	m.frame = uintptr(unsafe.Pointer(f))
}

// uncorrected reports whether one of the errors is.
func (m *machineCheck) uncorrected() bool {
	for i := range m.n {
		if m.banks[i].status&mcUncorrected != 0 {
			return true
		}
	}
	return false
}

// handleMachineCheck reports what the banks hold. There is no going on: the state
// that was lost may be anybody's. Many processors tell all CPUs of an error that one
// has met, so each notes what it knows before the first of them reports it all.
func handleMachineCheck(c *cpu, f *trapFrame) {
	c.check.read(f)
	if tscHz != 0 {
		delay(1000)
		// More only while one has not noted anything: told by itself, or slow. A second is Linux's bound, too; it is
		// counted in steps, of which one passes while an emulator stands still.
		for range 1000 {
			if allChecked() {
				break
			}
			delay(1000)
		}
	}
	beginReport()
	hit := c
	for i := range ncpu {
		if o := cpuAt(i); !hit.check.uncorrected() && o.check.frame != 0 && o.check.uncorrected() {
			hit = o
		}
	}
	print1("godwit: fatal: machine check on CPU ")
	printUint(hit.index)
	print1(", status ")
	printHex(hit.check.global, 16)
	print1("\n")
	for i := range ncpu {
		printBanks(cpuAt(i))
	}
	reportFrame((*trapFrame)(ptr(hit.check.frame)), 0)
	endReport()
}

// allChecked tells whether all CPUs have noted a machine check.
func allChecked() bool {
	for i := range ncpu {
		if atomic.LoadUintptr(&cpuAt(i).check.frame) == 0 {
			return false
		}
	}
	return true
}

func printBanks(c *cpu) {
	for i := range c.check.n {
		e := &c.check.banks[i]
		print1("  CPU ")
		printUint(c.index)
		print1(", bank ")
		printUint(uint64(e.bank))
		print1(": status ")
		printHex(e.status, 16)
		if e.status&mcAddrValid != 0 {
			print1(", address ")
			printHex(e.addr, 16)
		}
		print1("\n")
	}
}

// unseenMachineCheck reports an error that has cost a processor its state and that no
// exception told of. It runs in the kernel.
func unseenMachineCheck(unsafe.Pointer) {
	c := this()
	c.check.read(nil)
	beginReport()
	print1("godwit: fatal: machine check on CPU ")
	printUint(c.index)
	print1(" that raised no exception\n")
	printBanks(c)
	endReport()
}

// told keeps CPUs that share a bank from telling of its error twice.
var told sync.Mutex

// tellErrors tells of the errors that raise no machine check, and clears them (SDM
// vol. 3, 16.4). old says that they are from before this boot. The goroutine is bound
// to its CPU.
func tellErrors(cpu int, old bool) {
	told.Lock()
	defer told.Unlock()
	for i := range machineCheckBanks() {
		e, ok := readBank(i)
		if !ok {
			continue
		}
		if e.status&mcContextLost != 0 && !old {
			critical(unseenMachineCheck, nil)
		}
		WriteMSRSafe(msrMC0Ctl+4*i+1, 0)
		fmt.Println(e.describe(cpu, old))
	}
}

func (e bankError) describe(cpu int, old bool) string {
	kind := "corrected"
	if e.status&mcUncorrected != 0 {
		kind = "uncorrected"
	}
	s := fmt.Sprintf("kernel: %s machine check on CPU %d, bank %d: status %016x", kind, cpu, e.bank, e.status)
	if e.status&mcAddrValid != 0 {
		s += fmt.Sprintf(", address %016x", e.addr)
	}
	if old {
		s += ", from before this boot"
	}
	return s
}
