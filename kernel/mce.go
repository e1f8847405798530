package kernel

import "sync/atomic"

// Machine-check registers (SDM vol. 3, 16.3).
const (
	msrMCGCap    = 0x179
	msrMCGStatus = 0x17a
	msrMCGCtl    = 0x17b
	msrMC0Ctl    = 0x400 // four registers a bank: control, status, address, miscellaneous

	mcgCtlPresent = 1 << 8
	mcValid       = 1 << 63
	mcAddrValid   = 1 << 58
)

func machineCheckBanks() uint32 {
	if _, _, _, d := CPUID(1, 0); d>>14&1 == 0 || d>>7&1 == 0 { // MCA, MCE
		return 0
	}
	return uint32(ReadMSR(msrMCGCap) & 0xff)
}

// enableMachineChecks switches every error of every bank on, on this CPU.
func enableMachineChecks() {
	n := machineCheckBanks()
	if n != 0 && ReadMSR(msrMCGCap)&mcgCtlPresent != 0 {
		WriteMSRSafe(msrMCGCtl, 1<<64-1)
	}
	for i := range n {
		WriteMSRSafe(msrMC0Ctl+4*i, 1<<64-1)
		WriteMSRSafe(msrMC0Ctl+4*i+1, 0)
	}
}

// handleMachineCheck reports what the banks hold. There is no going on: the state
// that was lost may be anybody's.
func handleMachineCheck(f *trapFrame) {
	beginReport()
	print1("godwit: fatal: machine check on CPU ")
	printUint(this().index)
	print1(", status ")
	printHex(ReadMSR(msrMCGStatus), 16)
	print1("\n")
	for i := range machineCheckBanks() {
		s := ReadMSR(msrMC0Ctl + 4*i + 1)
		if s&mcValid == 0 {
			continue
		}
		print1("  bank ")
		printUint(uint64(i))
		print1(": status ")
		printHex(s, 16)
		if s&mcAddrValid != 0 {
			print1(", address ")
			printHex(ReadMSR(msrMC0Ctl+4*i+2), 16)
		}
		print1("\n")
	}
	reportFrame(f, 0)
	endReport()
}

// Port 61h says why an NMI came (ISA system control port B).
const (
	portBSERR  = 1 << 7
	portBIOCHK = 1 << 6
)

var nmis atomic.Uint64

// handleNMI stops this CPU if another reports the machine's end. Any other NMI is
// the hardware's word that something is wrong; it is told, and work goes on.
func handleNMI() {
	if atomic.LoadUint32(&stopping) != 0 {
		haltForever()
	}
	if nmis.Add(1) > 10 { // a source that repeats itself tells nothing new
		return
	}
	why := In8(portB)
	print1("\ngodwit: NMI on CPU ")
	printUint(this().index)
	print1(", port 61h reads ")
	printHex(uint64(why), 2)
	switch {
	case why&portBSERR != 0:
		print1(": system error (SERR#)")
	case why&portBIOCHK != 0:
		print1(": I/O channel check")
	}
	print1("\n")
}
