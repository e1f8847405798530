package kernel

import (
	"sync/atomic"
	"unsafe"

	"github.com/usbarmory/tamago/amd64/lapic"
)

// Vectors above the exceptions. Devices get 0x30 to 0xef; the legacy PICs, masked
// where there is an I/O APIC, 0x20 to 0x2f.
const (
	vecNMI          = 2
	vecDoubleFault  = 8
	vecGP           = 13
	vecPageFault    = 14
	vecMachineCheck = 18

	vecPIC       = 0x20
	vecDevice    = 0x30
	vecDeviceEnd = 0xf0
	vecTimer     = 0xf0
	vecResched   = 0xf1 // look at the run queue and at pending signals
	vecFlush     = 0xf2 // answer a TLB shootdown
	vecKick      = 0xf3 // nothing: a guest is left
	vecNMIRaised = 0xf4 // an NMI came
	vecSpurious  = 0xff
)

// Local APIC registers TamaGo's package does not name (SDM vol. 3, table 11-1).
const (
	lapicTPR       = 0x80
	lapicISR       = 0x100 // first of eight in-service registers
	lapicIRR       = 0x200 // first of eight interrupt request registers
	lapicESR       = 0x280
	lapicLVTError  = 0x370
	lapicLVTLINT0  = 0x350
	lapicLVTLINT1  = 0x360
	lapicInitCount = 0x380
	lapicCurCount  = 0x390
	lapicDivide    = 0x3e0

	lvtMasked    = 1 << 16
	lvtExtINT    = 7 << 8
	svrEnable    = 1 << lapic.SVR_ENABLE
	divideByOne  = 0xb
	divideBy16   = 0x3
	icrAssert    = 1 << 14
	icrPending   = 1 << lapic.ICR_DLV_STATUS
	apicBaseX2   = 1 << 10
	apicBaseOn   = 1 << 11
	apicBaseMask = 0x000f_ffff_ffff_f000

	apicBroadcast = 0xff // the 8-bit APIC ID that means all CPUs (SDM vol. 3, 11.6.2.1)
)

var (
	lapicBase  uintptr // xAPIC registers, physical = virtual
	x2apic     bool    // registers are MSRs
	tscTimer   bool    // the timer takes TSC values
	timerTicks uint64  // LAPIC timer ticks per 2^32 TSC ticks, when it does not
)

// TamaGo's lapic.LAPIC names the registers used here. Its methods are not used:
// they know no x2APIC, and IPI waits by runtime.Gosched, which a handler must not.

func lapicRead(reg uint32) uint32 {
	if x2apic {
		return uint32(ReadMSR(msrX2APIC + reg>>4))
	}
	return load32(lapicBase + uintptr(reg))
}

func lapicWrite(reg, v uint32) {
	if x2apic {
		WriteMSR(msrX2APIC+reg>>4, uint64(v))
		return
	}
	store32(lapicBase+uintptr(reg), v)
}

// initLAPIC enables this CPU's local APIC. Everything local but the timer stays
// masked, except NMI on LINT1.
func initLAPIC() {
	base := ReadMSR(msrAPICBase)
	if x2apic {
		WriteMSR(msrAPICBase, base|apicBaseOn|apicBaseX2)
	} else {
		WriteMSR(msrAPICBase, base|apicBaseOn)
	}
	lapicWrite(lapicTPR, 0)
	lapicWrite(lapic.LAPIC_SVR, svrEnable|vecSpurious)
	if this().index == 0 {
		// The 8259s, all masked, stay wired through: QEMU, having seen one of
		// their interrupts before they were masked, would else deliver vector -1.
		lapicWrite(lapicLVTLINT0, lvtExtINT)
	} else {
		lapicWrite(lapicLVTLINT0, lvtMasked)
	}
	lapicWrite(lapicLVTLINT1, lapic.ICR_DLV_NMI)
	lapicWrite(lapicLVTError, lvtMasked)
	lapicWrite(lapicESR, 0)
	if tscTimer {
		lapicWrite(lapic.LAPIC_LVT_TIMER, lapic.TIMER_MODE_TSC_DEADLINE<<lapic.TIMER_MODE|vecTimer)
		fence() // before the first write of the deadline (SDM vol. 3, 11.5.4.1)
		tscTimer = this().index != 0 || deadlineHolds()
	}
	if !tscTimer {
		lapicWrite(lapicDivide, divideByOne)
		lapicWrite(lapic.LAPIC_LVT_TIMER, lapic.TIMER_MODE_ONE_SHOT<<lapic.TIMER_MODE|vecTimer)
	}
}

// deadlineHolds reports whether a deadline that lies ahead is waited for. Bochs 2.7
// compares it with the time since it was started, not with the TSC: after a reset,
// which sets the TSC to 0, every deadline has passed, and the timer interrupts
// without end. Interrupts are off; one that came by it is harmless later.
func deadlineHolds() bool {
	const ahead = 1 << 20
	for range 3 {
		begin := TSC()
		WriteMSR(msrTSCDeadline, begin+ahead)
		for TSC()-begin < ahead/2 {
			pause()
		}
		came := lapicRead(lapicIRR+16*(vecTimer/32))>>(vecTimer%32)&1 != 0
		inTime := TSC()-begin < ahead // else whoever runs this machine stopped it meanwhile
		WriteMSR(msrTSCDeadline, 0)
		if inTime || !came {
			return !came
		}
	}
	return true
}

// inService reports whether the local APIC waits for an EOI of this vector.
func inService(vector uintptr) bool {
	return lapicRead(lapicISR+16*uint32(vector/32))>>(vector%32)&1 != 0
}

func lapicID() uint32 {
	if x2apic {
		return lapicRead(lapic.LAPIC_ID)
	}
	return lapicRead(lapic.LAPIC_ID) >> lapic.ID
}

func eoi() { lapicWrite(lapic.LAPIC_EOI, 0) }

// sendICR sends what low says to the CPU with this APIC ID. Interrupts are off, so
// that nothing comes between the register's two halves.
func sendICR(id uint32, low uint32) {
	if x2apic {
		fence() // WRMSR to x2APIC registers does not order earlier stores (SDM vol. 3, 11.12.3)
		WriteMSR(msrX2APIC+lapic.LAPIC_ICRL>>4, uint64(id)<<32|uint64(low))
		return
	}
	for load32(lapicBase+lapic.LAPIC_ICRL)&icrPending != 0 {
		relax()
	}
	store32(lapicBase+lapic.LAPIC_ICRH, id<<lapic.ID)
	store32(lapicBase+lapic.LAPIC_ICRL, low)
}

// interruptSelfFromNMI raises vecNMIRaised. The short form of the destination needs
// only the register's lower half, so a sendICR that the NMI parted is not led astray.
func interruptSelfFromNMI() {
	const low = icrAssert | lapic.ICR_DST_SELF | vecNMIRaised
	if x2apic {
		WriteMSR(msrX2APIC+lapic.LAPIC_ICRL>>4, low)
		return
	}
	if lapicBase == 0 {
		return
	}
	for load32(lapicBase+lapic.LAPIC_ICRL)&icrPending != 0 {
		pause()
	}
	store32(lapicBase+lapic.LAPIC_ICRL, low)
	for load32(lapicBase+lapic.LAPIC_ICRL)&icrPending != 0 { // sendICR may have looked already
		pause()
	}
}

func sendIPI(c *cpu, vector uint32) {
	if lapicBase == 0 && !x2apic {
		return // no local APIC, so there is no other CPU
	}
	sendICR(c.apicID, icrAssert|vector)
}

// KickCPU sends an interrupt that makes a CPU leave its guest and does nothing
// else. Any goroutine may call it, but not a function that Privileged runs: it is a
// system call itself.
func KickCPU(cpu int) {
	if !Running() || cpu < 0 || uint64(cpu) >= ncpu {
		return
	}
	k := kick{cpu: uint64(cpu)}
	critical(kickCPU, unsafe.Pointer(&k))
}

type kick struct{ cpu uint64 }

func kickCPU(arg unsafe.Pointer) { sendIPI(cpuAt((*kick)(arg).cpu), vecKick) }

// InterruptSelf makes an interrupt pend on the calling CPU, that does nothing. It is
// for functions that Privileged runs.
func InterruptSelf() { sendIPI(this(), vecKick) }

// armTimer sets this CPU's timer for the earliest of: a sleeping thread's
// deadline, the end of the current thread's slice if others wait, a guest's timer.
// A timer that is set for earlier is left alone: it comes, and sets itself anew.
func armTimer(c *cpu) {
	armTimerFor(c, c.cur != c.idle && atomic.LoadUint32(&c.rq.n) != 0)
}

func armTimerFor(c *cpu, sliceEnd bool) {
	want := c.guestTimer
	c.tqLock.lock()
	e, ok := c.tq.First()
	c.tqLock.unlock()
	if ok {
		want = earlier(want, tscAt(e.Deadline))
	}
	if sliceEnd {
		want = earlier(want, tscAt(c.switchedAt+slice))
	}
	if want != 0 && (c.armed == 0 || want < c.armed) {
		setHardwareTimer(c, want)
	}
}

// interruptWithin makes a timer interrupt hit this CPU so many nanoseconds from now at
// the latest.
func interruptWithin(c *cpu, ns int64) {
	if at := tscAt(Nanotime() + ns); c.armed == 0 || at < c.armed {
		setHardwareTimer(c, at)
	}
}

// earlier is the smaller of two times of which 0 means none.
func earlier(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func setHardwareTimer(c *cpu, tsc uint64) {
	c.armed = tsc
	if tscTimer {
		WriteMSR(msrTSCDeadline, tsc)
		return
	}
	n := uint64(1)
	if now := TSC(); tsc > now {
		n = mulShift32(min(tsc-now, 1<<40), timerTicks) + 1
	}
	lapicWrite(lapicInitCount, uint32(min(n, 1<<32-1)))
}

// timerInterrupt answers vecTimer.
func timerInterrupt(c *cpu) {
	c.armed = 0
	c.stat.timers++
	if c.guestTimer != 0 && TSC() >= c.guestTimer {
		c.guestTimer = 0
	}
	now := Nanotime()
	expire(c, now)
	if now-c.switchedAt < slice {
		armTimer(c)
	} else { // preempt comes next, and a timer set for the past would come once more
		armTimerFor(c, false)
	}
}

// SetTimer makes a timer interrupt hit this CPU at or before host TSC value tsc; 0
// says that it is not needed any more. If within is not 0, an interrupt also comes
// within so many ticks from now, and for this reason alone not much sooner. It may be
// called only inside Privileged.
func SetTimer(tsc, within uint64) {
	c := this()
	c.guestTimer = tsc
	if tsc != 0 && (c.armed == 0 || tsc < c.armed) {
		setHardwareTimer(c, tsc)
	}
	if within != 0 {
		left := c.armed - TSC()
		if left > within || left < within/4 && c.armed == c.bound {
			setBound(c, within)
		}
	}
}

// setBound sets the timer for SetTimer's second wish. It takes the place of an
// earlier one, so that while guests come and go the timer need not run out.
func setBound(c *cpu, within uint64) {
	now := TSC()
	if c.armed != 0 && c.armed <= now {
		return // it is pending
	}
	if c.armed == c.bound {
		c.armed = 0
		armTimer(c) // for what else there is
	}
	if end := now + within; c.armed == 0 || end < c.armed {
		c.bound = end
		setHardwareTimer(c, end)
	}
}

// InterruptPending reports whether the local APIC holds an interrupt for this CPU
// that it has not taken. Only inside Privileged does the answer mean anything.
func InterruptPending() bool {
	for i := uint32(0); i < 8; i++ {
		if lapicRead(lapicIRR+16*i) != 0 {
			return true
		}
	}
	return false
}
