package kernel

import (
	"sync/atomic"

	"github.com/usbarmory/tamago/amd64/lapic"
)

// Reports of what the machine cannot go on after. They use no lock, no memory and no
// interrupt, and end in what the option panic= says: reboot (the default) or halt.

// stopping is the number of the CPU that ends the machine, plus 1; 0 while none does.
// The other CPUs halt on the NMI they get.
var stopping uint32

// beginStop makes this CPU the one that ends the machine, or halts if another is. It
// reports false if this CPU is at that already.
func beginStop() bool {
	me := uint32(this().index) + 1
	if atomic.CompareAndSwapUint32(&stopping, 0, me) {
		return true
	}
	if atomic.LoadUint32(&stopping) != me {
		haltForAnother(this())
	}
	return false
}

var failedReports int

// beginReport makes this CPU the only one that runs. A report that fails itself, by a
// fault or a machine check, must still end as the operator chose, without a word more
// than is sure to work.
func beginReport() {
	if !beginStop() {
		if failedReports++; failedReports == 1 {
			print1("\ngodwit: fatal: another exception in the middle of this report\n")
			stop()
		}
		resetMachine()
		haltForever()
	}
	stopOthers()
	drainSerial(true)
	print1("\n")
	flushLog()
}

// stopOthers halts all other CPUs, and returns when they have. One that does not must not keep the report: it is given a
// second. That is counted in steps, of which one passes while an emulator stands still.
func stopOthers() {
	if ncpu == 1 {
		return
	}
	sendICR(0, icrAssert|lapic.ICR_DLV_NMI|lapic.ICR_DST_REST)
	for range 100000 {
		if othersHalted() {
			return
		}
		delay(10)
	}
}

func othersHalted() bool {
	for i := range ncpu {
		if c := cpuAt(i); c != this() && atomic.LoadUint32(&c.halted) == 0 {
			return false
		}
	}
	return true
}

// haltForAnother halts this CPU because another ends the machine.
func haltForAnother(c *cpu) {
	atomic.StoreUint32(&c.halted, 1)
	haltForever()
}

// endReport shows the log's end, and ends.
func endReport() {
	printUnknownCalls()
	printLastLines(12)
	stop()
}

// fatal reports a condition the kernel cannot go on with.
func fatal(why string) {
	beginReport()
	print1("godwit: fatal: ")
	print1(why)
	print1("\n")
	printStack(framePointer())
	endReport()
}

// outOfMemory reports that the Go program touched memory it was promised and none is
// left.
func outOfMemory() {
	beginReport()
	print1("godwit: fatal: out of memory: no free page for the Go heap, which has ")
	printUint(userPages.Load() * pageSize >> 20)
	print1(" MiB; ")
	printUint(physBytes.Load() >> 20)
	print1(" MiB are with guests and drivers, ")
	printUint((reservedBytes + (kernelPages.Load()+tablePages.Load())*pageSize) >> 20)
	print1(" MiB with the kernel\n")
	if f := this().fault; f != 0 {
		reportFrame((*trapFrame)(ptr(f)), uintptr(readCR2()))
	} else {
		printStack(framePointer())
	}
	endReport()
}

// fatalTrap reports an exception nobody handles.
func fatalTrap(f *trapFrame, addr uintptr) {
	beginReport()
	print1("godwit: fatal: ")
	printException(f, addr)
	if f.inHandler() {
		print1(" in the kernel")
	}
	print1(" on CPU ")
	printUint(this().index)
	print1("\n")
	reportFrame(f, addr)
	endReport()
}

func printException(f *trapFrame, addr uintptr) {
	if inGuard(addr) && (f.vector == vecPageFault || f.vector == vecDoubleFault) {
		print1("kernel stack overflow")
	} else {
		print1(exceptionNames[f.vector&31])
	}
	if f.vector == vecPageFault {
		print1(" at address ")
		printHex(uint64(addr), 16)
	}
}

// lastFault is the last exception that became a signal. If the Go program ends of it, the report shows it: the
// runtime's own trace has no registers.
var lastFault struct {
	mu    spinlock
	time  int64 // 0: none
	addr  uintptr
	frame trapFrame
}

func noteFault(f *trapFrame, addr uintptr) {
	lastFault.mu.lock()
	lastFault.time, lastFault.addr, lastFault.frame = Nanotime(), addr, *f
	lastFault.mu.unlock()
}

// inGuard reports whether an address is in the unmapped part below a kernel stack.
func inGuard(a uintptr) bool {
	if a >= threadStart && a < threadSlot(maxThreads) {
		return (a-threadStart)%threadSlotSize < threadStack
	}
	return a >= cpuStart && a < cpuSlot(maxCPU)
}

// reportFrame prints the registers and the stack of interrupted code.
func reportFrame(f *trapFrame, addr uintptr) {
	for i, r := range [...]struct {
		name string
		v    uintptr
	}{
		{"rax", f.ax}, {"rbx", f.bx}, {"rcx", f.cx}, {"rdx", f.dx},
		{"rsi", f.si}, {"rdi", f.di}, {"rbp", f.bp}, {"rsp", f.sp},
		{"r8 ", f.r8}, {"r9 ", f.r9}, {"r10", f.r10}, {"r11", f.r11},
		{"r12", f.r12}, {"r13", f.r13}, {"r14", f.r14}, {"r15", f.r15},
		{"rip", f.ip}, {"flg", f.flags}, {"cr2", addr}, {"err", f.code},
	} {
		print1("  ")
		print1(r.name)
		print1(" ")
		printHex(uint64(r.v), 16)
		if i%4 == 3 {
			print1("\n")
		}
	}
	printCall(f.ip, f.ip)
	printStack(f.bp)
}

// printStack walks the frame pointers that Go's compiler keeps.
func printStack(bp uintptr) {
	for range 40 {
		if bp&7 != 0 || !readable(bp) || !readable(bp+8) {
			return
		}
		pc := uintptr(ld64(bp + 8))
		if !printCall(pc, pc-1) {
			return
		}
		next := uintptr(ld64(bp))
		if next <= bp {
			return
		}
		bp = next
	}
}

// printCall names one code address; at is an address inside the call.
func printCall(pc, at uintptr) bool {
	if at < imageText() || at >= imageEtext() {
		return false
	}
	print1("  ")
	printHex(uint64(pc), 16)
	if p := findCode(at); p.name != 0 {
		print1(" ")
		printString(p.name)
		if p.file != 0 {
			print1("  ")
			printString(p.file)
			print1(":")
			printUint(uint64(p.line))
		}
	}
	print1("\n")
	return true
}

// readable reports whether an address can be read without a fault.
func readable(a uintptr) bool {
	if a < imageText() || a >= userEnd && a < directMap {
		return false
	}
	t := tableAt(rootPhys())
	for l := uint(4); l > 0; l-- {
		v := t[a>>(12+9*(l-1))&511]
		if v&ptePresent == 0 {
			return false
		}
		if v&pteLarge != 0 {
			return true
		}
		t = tableAt(v & pteAddr)
	}
	return true
}

// exitProgram ends the machine's life as the Go program ends: after main returned,
// or after the runtime printed why it gave up.
func exitProgram(status int) {
	beginReport()
	print1("godwit: the host program ended with status ")
	if status < 0 {
		print1("-")
		status = -status
	}
	printUint(uint64(status))
	print1("\n")
	if status != 0 {
		if l := &lastFault; l.time != 0 {
			print1("its last exception, ")
			printUint(uint64(Nanotime()-l.time) / 1e6)
			print1(" ms ago: ")
			printException(&l.frame, l.addr)
			print1("\n")
			reportFrame(&l.frame, l.addr)
		}
		printUnknownCalls()
		printLinesBefore("panic: ", "fatal error: ", 12)
	}
	stop()
}

// option returns the value of name=value on the command line, as it lies there.
func option(name string) []byte {
	line := boot.Cmdline()
	for i := 0; i < len(line); i++ {
		if i > 0 && line[i-1] != ' ' || i+len(name) >= len(line) || line[i+len(name)] != '=' || string(line[i:i+len(name)]) != name {
			continue
		}
		v := line[i+len(name)+1:]
		for n, c := range v {
			if c == ' ' {
				return v[:n]
			}
		}
		return v
	}
	return nil
}

// haltAtEnd is SetHaltAtEnd's wish: 0 none, 1 reboot, 2 halt.
var haltAtEnd uint32

// SetHaltAtEnd tells whether the machine halts or reboots after a report. Until it is
// called the command line's panic= decides.
func SetHaltAtEnd(halt bool) {
	v := uint32(1)
	if halt {
		v = 2
	}
	atomic.StoreUint32(&haltAtEnd, v)
}

// stop ends everything as the host's options say.
func stop() {
	wish := atomic.LoadUint32(&haltAtEnd)
	if wish == 2 || wish == 0 && string(option("panic")) == "halt" {
		print1("godwit: halted (panic=halt)\n")
		haltForever()
	}
	print1("godwit: rebooting (the option panic=halt stops here instead)\n")
	resetMachine()
	haltForever()
}
