package kernel

import "unsafe"

// A sysFrame is a thread's registers during a system call, at the top of its
// kernel stack. The second part is used when a signal handler begins or ends.
type sysFrame struct {
	ax, bx, cx, dx, si, di, bp      uintptr // 0; cx: return address
	r8, r9, r10, r11                uintptr // 56; r11: flags
	r12, r13, r14, r15              uintptr // 88
	sp                              uintptr // 120
	fpu                             uintptr // 128: 0 fast return, 1 full return, else XSAVE area to load as well
	ip, cs, flags, fullSP, ss, _, _ uintptr // 136
}

const sysFrameSize = 192

const (
	_ = -(unsafe.Sizeof(sysFrame{}) - sysFrameSize)
	_ = -(unsafe.Offsetof(sysFrame{}.sp) - 120)
	_ = -(unsafe.Offsetof(sysFrame{}.ip) - 136)
)

// A trapFrame is the state of interrupted code.
type trapFrame struct {
	ax, bx, cx, dx, si, di, bp uintptr // 0
	r8, r9, r10, r11           uintptr // 56
	r12, r13, r14, r15         uintptr // 88
	fs                         uintptr // 120
	vector, code               uintptr // 128: pushed by the stub; the error code maybe by hardware
	ip, cs, flags, sp, ss      uintptr // 144: pushed by hardware
}

const (
	_ = -(unsafe.Offsetof(trapFrame{}.vector) - 128)
	_ = -(unsafe.Offsetof(trapFrame{}.ip) - 144)
)

// inHandler reports whether the frame interrupted kernel code rather than the Go
// program: the two differ in FS.
func (f *trapFrame) inHandler() bool { return f.fs == handlerFS() }

// handleTrap answers every vector. fpu is where the vector state was saved.
func handleTrap(f *trapFrame, fpu uintptr) {
	c := this()
	if f.vector < 32 {
		handleException(c, f, fpu)
		return
	}
	c.stat.interrupts++
	switch v := f.vector; {
	case v == vecTimer:
		eoi()
		timerInterrupt(c)
	case v == vecResched, v == vecKick:
		c.stat.ipis++
		eoi()
	case v == vecFlush:
		c.stat.ipis++
		answerShootdown()
		eoi()
	case v == vecNMIRaised:
		eoi()
		nmiRaised(c)
	case v >= vecDevice && v < vecDeviceEnd:
		deviceInterrupt(c, int(v))
		eoi()
	case v >= vecPIC && v < vecPIC+16:
		picInterrupt(v)
	default:
		// Spurious ones are not in service: acknowledging one would acknowledge
		// another (SDM vol. 3, 11.9). What a device was told wrongly is, and would
		// hold off all vectors below it.
		if inService(v) {
			eoi()
		}
	}
	if f.inHandler() { // the idle thread, which looks for work itself
		if f.ip == addrHalt() { // and must not sleep over this interrupt: see haltOnce
			f.ip++
		}
		return
	}
	answerShootdown()
	preempt(c)
	signalFromTrap(f, fpu)
}

func handleException(c *cpu, f *trapFrame, fpu uintptr) {
	addr := uintptr(0)
	switch f.vector {
	case vecPageFault:
		addr = uintptr(readCR2())
		if c.trapDeep == 0 {
			c.trapDeep++
			c.fault = uintptr(unsafe.Pointer(f))
			ok := handlePageFault(addr, uint64(f.code))
			c.fault = 0
			c.trapDeep--
			if ok {
				return
			}
		}
	case vecGP:
		if f.ip == addrRdmsrInsn() || f.ip == addrWrmsrInsn() {
			f.ip = addrMSRFault()
			return
		}
	case vecNMI:
		handleNMI(c, f)
		return
	case vecMachineCheck:
		handleMachineCheck(c, f)
		return
	}
	if !f.inHandler() && c.trapDeep == 0 && f.vector != vecDoubleFault {
		c.trapDeep++
		ok := faultSignal(f, fpu, addr)
		c.trapDeep--
		if ok {
			return
		}
	}
	fatalTrap(f, addr)
}

var exceptionNames = [32]string{
	"divide error", "debug", "NMI", "breakpoint", "overflow", "bound range", "invalid opcode", "device not available",
	"double fault", "coprocessor overrun", "invalid TSS", "segment not present", "stack fault", "general protection fault", "page fault", "reserved",
	"x87 error", "alignment check", "machine check", "SIMD error", "virtualization", "control protection", "reserved", "reserved",
	"reserved", "reserved", "reserved", "reserved", "hypervisor injection", "VMM communication", "security", "reserved",
}
