package kernel

import (
	"runtime/debug"
	"strings"
	"unsafe"

	"godwit/kernel/internal/acpi"
	"godwit/kernel/internal/bootinfo"
)

var (
	running bool // in ring 0
	boot    bootinfo.Info
	madt    acpi.MADT
	rsdp    uint64
)

// stubTSC is where the boot stub leaves the TSC of its first instruction (boot.TSCAddress).
const stubTSC = 0x1000f8

var tscFirst uint64

// Running reports whether the program runs in ring 0 under this kernel, rather
// than as a Linux process.
func Running() bool { return running }

// start is the kernel's first Go function. It runs on the boot stack before the Go
// runtime does: package variables have only what the linker could give them,
// nothing may allocate.
func start(info uintptr, magic uintptr) {
	running = true
	tscFirst = ld64(stubTSC)
	initSerial()
	findFeatures()
	loadEarlyIDT()
	if why := bootinfo.Parse(bootMemory{}, uint64(info), uint32(magic), &boot); why != "" {
		fatal(why)
	}
	if boot.Truncated {
		print1("kernel: the boot loader passed more than is kept (128 ranges of memory, 64 modules, 4095 letters of command line); the rest is left out\n")
	}
	WriteMSR(msrEFER, ReadMSR(msrEFER)|eferNXE)
	initMemory()
	buildTables()
	addMemory(1<<32, ramTop)

	bsp := newCPU(0, 0)
	if bsp == nil {
		fatal("no memory for the boot CPU")
	}
	// The frames kept by the boot structure move along.
	bsp.npages, bsp.pages = bootCPU.npages, bootCPU.pages
	bootCPU.npages = 0
	WriteMSR(msrGSBase, uint64(bsp.self))
	bsp.setUp()
	setStacks()

	if rsdp = boot.RSDP; rsdp == 0 {
		rsdp = acpi.FindRSDP(tableMemory{})
	}
	firmwareOEM = acpi.OEM(tableMemory{}, rsdp)
	findACPIPower()
	findAPICs()
	initLAPIC()
	bsp.apicID = lapicID()
	bsp.online = 1
	maskPIC()
	initClock()
	initRandom()
	main := newThread()
	if main == nil {
		fatal("no memory for the first thread")
	}
	startAPs()
	logClock()
	logClockStep()

	main.state, main.onCPU = threadRunning, 1
	bsp.setCurrent(main)
	enterRuntime(initialStack())
}

// findAPICs reads the MADT and maps the controllers where TamaGo's drivers, whose
// base addresses have 32 bits, can reach them.
func findAPICs() {
	madt.LAPIC = ReadMSR(msrAPICBase) & apicBaseMask
	if t := acpi.Table(tableMemory{}, rsdp, "APIC", 0); t != nil {
		acpi.ParseMADT(t, &madt)
		if madt.Truncated {
			print1("kernel: the MADT names more than is kept (256 CPUs, 16 I/O APICs, 32 overrides); the rest is left out\n")
		}
	} else {
		print1("kernel: no ACPI MADT: one CPU, and interrupts through the 8259s; devices beyond their 15 lines need MSI\n")
	}
	if x2apic && ReadMSR(msrAPICBase)&apicBaseX2 == 0 && acpi.X2APICOptOut(acpi.Table(tableMemory{}, rsdp, "DMAR", 0)) {
		x2apic = false
		logString("kernel: firmware asks not to use x2APIC: CPUs with APIC IDs above 254 stay off\n")
	}
	if !x2apic {
		lapicBase = uintptr(ReadMSR(msrAPICBase) & apicBaseMask)
		if lapicBase >= 1<<32 || !mapRange(lapicBase, uint64(lapicBase), pageSize, deviceData, pageSize) {
			fatal("cannot map the local APIC")
		}
	}
	mapIOAPICs()
	maskIOAPICs()
}

// The Go program's argument and environment. GOTRACEBACK makes a crash show every
// goroutine.
var (
	argv0   = [...]byte{'g', 'o', 'd', 'w', 'i', 't', 0}
	env0    = [...]byte{'G', 'O', 'T', 'R', 'A', 'C', 'E', 'B', 'A', 'C', 'K', '=', 'a', 'l', 'l', 0}
	auxSeed [16]byte

	// env1 is given to the program under QEMU's TCG only. Its CRC32 instruction
	// goes bit by bit: a table is many times faster there.
	env1 = [...]byte{'G', 'O', 'D', 'E', 'B', 'U', 'G', '=', 'c', 'p', 'u', '.', 's', 's', 'e', '4', '2', '=', 'o', 'f', 'f', 0}
)

// OnTCG tells whether this is an emulated machine of QEMU's, by the signature in
// the first hypervisor leaf.
func OnTCG() bool {
	if _, _, c, _ := CPUID(1, 0); c>>31 == 0 {
		return false
	}
	_, b, c, d := CPUID(0x4000_0000, 0)
	return b == 0x54474354 && c == 0x43544743 && d == 0x47435447 // "TCGTCGTCGTCG"
}

// Auxiliary vector entries (include/uapi/linux/auxvec.h).
const (
	atNull   = 0
	atPageSz = 6
	atSecure = 23
	atRandom = 25
)

const runtimeStackSize = 256 << 10

// runtimeStack is where the Go runtime's first thread has its stack; the page below
// is never mapped.
const runtimeStack = userEnd - 1<<30

// initialStack makes the first thread's stack with what Linux puts there: argc,
// argv, envp, auxv.
func initialStack() uintptr {
	space.mu.lock()
	ok := space.areas.Set(runtimeStack, runtimeStack+runtimeStackSize, 3)
	// Keep other mappings away from its guard.
	ok = ok && space.areas.Set(runtimeStack-runtimeStackSize, runtimeStack, 0)
	if end := pageUp(imageEnd()); imageTail() < end {
		ok = ok && space.areas.Set(imageTail(), end, 3)
	}
	space.mu.unlock()
	if !ok {
		fatal("cannot map the first thread's stack")
	}
	random(auxSeed[:])
	last := uintptr(unsafe.Pointer(&env0)) // a second time does no harm
	if OnTCG() {
		last = uintptr(unsafe.Pointer(&env1))
	}
	v := [...]uintptr{
		1, uintptr(unsafe.Pointer(&argv0)), 0,
		uintptr(unsafe.Pointer(&env0)), last, 0,
		atPageSz, pageSize, atRandom, uintptr(unsafe.Pointer(&auxSeed)), atSecure, 0, atNull, 0,
	}
	sp := uintptr(runtimeStack+runtimeStackSize-unsafe.Sizeof(v)) &^ 63
	for i := range v {
		st64(sp+8*uintptr(i), uint64(v[i]))
	}
	return sp
}

// maxGoStack bounds a goroutine's stack. The runtime's own bound, 1 GiB, would take
// all memory of a small machine before a runaway recursion is told as one.
const maxGoStack = 64 << 20

func init() {
	if running {
		debug.SetMaxStack(maxGoStack)
	}
}

// CommandLine is the host's command line without the image's own name or URL.
func CommandLine() string { return string(boot.Cmdline()) }

// A Module is a file the boot loader put into memory beside the image.
type Module struct {
	Name string // last element of its path
	Data []byte // read-only
}

// Modules lists the boot modules in the boot loader's order. A module the loader
// gave no name is called moduleN.
func Modules() []Module {
	var list []Module
	for i := range boot.Mod[:boot.NMod] {
		m := &boot.Mod[i]
		name := string(m.Name())
		if name == "" {
			name = "module" + string(rune('0'+i))
		}
		list = append(list, Module{name, bootMemory{}.Bytes(m.Start, m.End-m.Start)})
	}
	return list
}

// RSDP is the physical address of ACPI's root pointer, 0 if there is none.
func RSDP() uint64 { return rsdp }

var firmwareOEM [6]byte

// FirmwareOEM is who made the firmware, by its ACPI tables; empty if there are none.
func FirmwareOEM() string { return strings.TrimRight(string(firmwareOEM[:]), " \x00") }

// ACPITable returns the first ACPI table with this signature, its checksum
// verified, or nil.
func ACPITable(sig string) []byte {
	if !running || len(sig) != 4 {
		return nil
	}
	t := tableCall{sig: [4]byte([]byte(sig))}
	critical(findTable, unsafe.Pointer(&t))
	return bytesAt(t.at, t.size)
}

type tableCall struct {
	sig      [4]byte
	at, size uintptr
}

// findTable runs in the kernel because it may have to map pages.
func findTable(arg unsafe.Pointer) {
	t := (*tableCall)(arg)
	if b := acpi.Table(tableMemory{}, rsdp, string(t.sig[:]), 0); b != nil {
		t.at, t.size = uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))
	}
}
