package kernel

import "sync/atomic"

// stopping is 1 once a fatal error stops the machine; the other CPUs then halt on
// the NMI they get.
var stopping uint32

// fatal reports a condition the kernel cannot go on with.
func fatal(why string) {
	beginReport()
	print1("godwit: fatal: ")
	print1(why)
	print1("\n")
	stop()
}

func outOfMemory() {
	beginReport()
	print1("godwit: fatal: out of memory: no free page for the Go heap (")
	printUint(userPages.Load() >> 8)
	print1(" MiB heap, ")
	printUint(physBytes.Load() >> 20)
	print1(" MiB for guests and drivers)\n")
	stop()
}

// beginReport stops whoever reports second: a fault inside a report, or another
// CPU's.
func beginReport() {
	if atomic.SwapUint32(&stopping, 1) != 0 {
		haltForever()
	}
	print1("\n")
}

// fatalTrap reports an exception nobody handles.
func fatalTrap(f *trapFrame, addr uintptr) {
	beginReport()
	print1("godwit: fatal: ")
	if f.vector < 32 {
		print1(exceptionNames[f.vector])
	}
	print1(" at ")
	printHex(uint64(f.ip), 16)
	print1(" ")
	print1(symbol(f.ip))
	if f.inHandler() {
		print1(", in the kernel")
	}
	print1(" on CPU ")
	printUint(this().index)
	print1("\n")
	for i, r := range [...]struct {
		name string
		v    uintptr
	}{
		{"rax", f.ax}, {"rbx", f.bx}, {"rcx", f.cx}, {"rdx", f.dx},
		{"rsi", f.si}, {"rdi", f.di}, {"rbp", f.bp}, {"rsp", f.sp},
		{"r8 ", f.r8}, {"r9 ", f.r9}, {"r10", f.r10}, {"r11", f.r11},
		{"r12", f.r12}, {"r13", f.r13}, {"r14", f.r14}, {"r15", f.r15},
		{"cr2", addr}, {"err", f.code}, {"flg", f.flags}, {"fs ", f.fs},
	} {
		print1("  ")
		print1(r.name)
		print1(" ")
		printHex(uint64(r.v), 16)
		if i%4 == 3 {
			print1("\n")
		}
	}
	for bp, n := f.bp, 0; n < 32; n++ {
		if bp&7 != 0 || !readable(bp) || !readable(bp+8) {
			break
		}
		pc := uintptr(ld64(bp + 8))
		name := symbol(pc - 1)
		if name == "" {
			break
		}
		print1("  ")
		printHex(uint64(pc), 16)
		print1(" ")
		print1(name)
		print1("\n")
		next := uintptr(ld64(bp))
		if next <= bp {
			break
		}
		bp = next
	}
	stop()
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
	print1("godwit: the host program ended with status ")
	if status < 0 {
		print1("-")
		status = -status
	}
	printUint(uint64(status))
	print1("\n")
	stop()
}

// stop ends everything as the command line says.
func stop() {
	resetMachine()
	haltForever()
}

// resetMachine resets by the keyboard controller, then by port CF9h.
func resetMachine() {
	for i := 0; i < 100000 && In8(com1.Base+5)&0x40 == 0; i++ { // let the last bytes out
	}
	Out8(0x64, 0xfe)
	for range 100000 {
		pause()
	}
	Out8(0xcf9, 0x02)
	Out8(0xcf9, 0x06)
}

// Reboot resets the machine. It does not return.
func Reboot() {
	resetMachine()
	haltForever()
}

// PowerOff switches the machine off. It does not return; where nothing answers,
// it halts.
func PowerOff() { Reboot() }

// Halt stops all CPUs. It does not return.
func Halt() { haltForever() }
