package vmm

import (
	"fmt"
	"math"
	"sync/atomic"

	"godwit/vmm/device/apic"
	"godwit/vmm/emulate"
	"godwit/vmm/vcpu"
)

// Requests to a processor: bits of cpu.req.
const (
	reqLook = 1 << iota // something may be deliverable
	reqStop             // end the loop
)

// Where a processor is: cpu.mode. Whoever sets a bit of cpu.req looks at it to
// know how to get the processor's attention.
const (
	modeOut    = iota // in the loop: it will see the bit
	modeGuest         // in the guest, or on its way: kick
	modeHalted        // asleep on cpu.req: wake
)

// A cpu is one virtual processor.
type cpu struct {
	vm    *VM
	index int
	v     vcpu.VCPU
	regs  *vcpu.Regs
	lapic *apic.LAPIC
	em    *emulate.Emulator
	exit  vcpu.Exit

	req  atomic.Uint32
	mode atomic.Uint32

	hangs atomic.Int64 // since when it has not taken an interrupt, in the machine's time, once that has been told; 0: it takes them

	// The loop's own, or of who holds VM.ctl while no loop runs.
	activity     vcpu.Activity
	look         bool  // interrupts may have changed: see events and interrupts
	armed        int64 // the deadline that the VCPU was told, in the machine's time
	window       uint8 // the class asked for with WantInterrupt
	windowSince  int64 // since when, for telling a hang
	watch        watch
	msrs         msrBank
	tscOffset    uint64
	systemTime   uint64 // MSR_KVM_SYSTEM_TIME_NEW
	wallClock    uint64
	clockVersion uint32
	clockPage    [clockInfoSize]byte

	stats cpuStats
}

// cpuStats are written by the processor's goroutine and read by anyone.
type cpuStats struct {
	exits     [vcpu.NumReasons]atomic.Uint64
	injected  atomic.Uint64
	halted    atomic.Uint64 // nanoseconds
	resting   atomic.Uint64 // the counter when it halted; 0 while it does not rest
	entered   atomic.Uint64
	badMSR    atomic.Uint64
	rip       atomic.Uint64 // at the last exit that took a while to come
	emulated  atomic.Uint64
	mapFaults atomic.Uint64
}

// notify makes the processor look at a request. Callable from anywhere, also with
// a device's lock held; it neither blocks nor allocates.
func (c *cpu) notify(bit uint32) {
	if c.req.Or(bit)&bit != 0 {
		return // whoever set it has seen to the rest
	}
	switch c.mode.Load() {
	case modeGuest:
		c.v.Kick()
	case modeHalted:
		wake(&c.req)
	}
}

// loop runs the guest until someone wants it to stop.
func (c *cpu) loop() {
	defer c.vm.loops.Done()
	c.look, c.armed = true, math.MinInt64
	c.watch.begin(c.vm.clock.Now())
	for {
		if c.req.Load() != 0 {
			if c.req.And(^uint32(reqLook))&reqStop != 0 {
				return
			}
			c.look = true
		}
		if c.look {
			c.events()
		}
		if c.activity != vcpu.Running {
			c.idle()
			continue
		}
		if c.look {
			c.interrupts()
		}
		if at := c.due(); at != c.armed {
			c.setDeadline(at)
		}
		c.regs.CR8 = c.lapic.CR8()
		c.mode.Store(modeGuest)
		if c.req.Load() != 0 {
			c.mode.Store(modeOut)
			continue
		}
		c.stats.entered.Add(1)
		err := c.v.Run(&c.exit)
		c.mode.Store(modeOut)
		c.lapic.SetCR8(c.regs.CR8)
		if err != nil {
			c.vm.crash(c, fmt.Errorf("can not enter the guest: %w", err))
			continue
		}
		r := c.exit.Reason
		if r >= vcpu.NumReasons {
			r = vcpu.ExitNone
		}
		c.stats.exits[r].Add(1)
		c.watch.exit(r)
		handlers[r](c)
	}
}

// events takes INIT, SIPI and NMI.
func (c *cpu) events() {
	if c.lapic.Events() == 0 {
		return
	}
	if c.lapic.TakeINIT() {
		c.initSignal()
	}
	if vector, ok := c.lapic.TakeSIPI(); ok && c.activity == vcpu.WaitSIPI {
		c.startup(vector)
	}
	if c.lapic.Events()&apic.EventNMI != 0 && (c.activity == vcpu.Running || c.activity == vcpu.Halted) {
		if c.v.CanNMI() && c.lapic.TakeNMI() {
			c.activity = vcpu.Running
			c.v.WantNMI(false)
			c.v.Inject(vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2})
		} else {
			c.v.WantNMI(true)
		}
	}
}

// initSignal resets the processor as INIT does (SDM vol. 3, table 9-1).
func (c *cpu) initSignal() {
	if c.index == 0 {
		// The boot processor would start at the firmware's reset vector.
		c.vm.reset()
		return
	}
	var s vcpu.State
	c.v.Save(&s)
	xsave, dx := s.XSAVE, s.Regs.GPR[vcpu.RDX]
	old := s
	s.Reset(false)
	s.XSAVE = xsave // INIT leaves the FPU, its XCR0 and most MSRs alone
	s.Regs.GPR[vcpu.RDX] = dx
	for _, r := range []vcpu.Reg{vcpu.XCR0, vcpu.XSS, vcpu.PAT, vcpu.STAR, vcpu.LSTAR, vcpu.CSTAR, vcpu.SFMASK,
		vcpu.KernelGSBase, vcpu.SysenterCS, vcpu.SysenterESP, vcpu.SysenterEIP, vcpu.TSCAux, vcpu.SpecCtrl} {
		s.Reg[r] = old.Reg[r]
	}
	s.TSC = old.TSC
	if err := c.v.Load(&s); err != nil {
		c.vm.crash(c, fmt.Errorf("INIT: %w", err))
		return
	}
	c.v.SetTSCOffset(c.tscOffset)
	c.lapic.ResetINIT()
	c.activity = vcpu.WaitSIPI
}

// startup is SIPI: execution begins at vector<<12.
func (c *cpu) startup(vector uint8) {
	var s vcpu.State
	c.v.Save(&s)
	s.SIPI(vector)
	if err := c.v.Load(&s); err != nil {
		c.vm.crash(c, fmt.Errorf("SIPI: %w", err))
		return
	}
	c.v.SetTSCOffset(c.tscOffset)
	c.activity = vcpu.Running
	c.look = true
}

// interrupts injects what the local APIC has, or asks to be told when it can.
func (c *cpu) interrupts() {
	c.look = false
	class := c.lapic.Class()
	if class != 0 && c.v.CanInterrupt() && c.lapic.Deliverable() {
		if vector, ok := c.lapic.Acknowledge(); ok {
			c.v.Inject(vcpu.Event{Valid: true, Type: vcpu.EventInterrupt, Vector: vector})
			c.stats.injected.Add(1)
			c.takes()
		}
		class = c.lapic.Class()
	}
	if class != c.window {
		c.v.WantInterrupt(class)
		c.window = class
		if class != 0 && c.windowSince == 0 {
			c.windowSince = c.vm.clock.Now()
		}
	}
	if class == 0 {
		c.takes()
	}
}

// due is when the guest must be left at the latest: when the local APIC's timer
// fires, which may be never, or at the next look for a hang.
func (c *cpu) due() int64 {
	at, _ := c.lapic.Deadline()
	return min(at, c.watch.next)
}

// setDeadline tells the VCPU.
func (c *cpu) setDeadline(at int64) {
	c.armed = at
	c.v.SetDeadline(max(1, c.vm.hostTSC(at)))
}

// timer delivers the local APIC's timer interrupt if it is due.
func (c *cpu) timer() {
	c.armed = math.MinInt64
	c.lapic.PollTimer()
	c.look = true
	c.checkHang()
	c.patrol()
}

// idle waits while the processor does not execute.
func (c *cpu) idle() {
	if c.activity == vcpu.Halted && c.v.CanInterrupt() && c.lapic.Deliverable() {
		c.activity, c.look = vcpu.Running, true
		return
	}
	wait := int64(-1)
	if at, ok := c.lapic.Deadline(); ok && c.activity == vcpu.Halted {
		wait = at - c.vm.clock.Now()
		if wait <= 0 {
			c.timer()
			return
		}
	}
	start := c.vm.counter()
	c.stats.resting.Store(start)
	c.rest(c.activity == vcpu.Halted && c.regs.RFLAGS&flagIF != 0)
	c.mode.Store(modeHalted)
	if c.req.Load() == 0 {
		sleep(&c.req, wait)
	}
	c.mode.Store(modeOut)
	c.stats.resting.Store(0)
	c.stats.halted.Add(uint64(c.vm.pace.Load().scale.ns(c.vm.counter() - start)))
}

// inject queues an exception for the instruction at hand. If an event waits
// already it comes first, and the instruction, tried again, faults again.
func (c *cpu) inject(e vcpu.Event) { c.v.Inject(e) }

// skip ends the instruction that made the exit, which is op; false if something else
// stands there now.
func (c *cpu) skip(op emulate.Op) bool {
	n := c.exit.Len
	if n == 0 {
		var o emulate.Outcome
		if n, o = c.em.Length(op); o != emulate.Done {
			c.outcome(o)
			return false
		}
	}
	flags := c.regs.RFLAGS
	c.v.Skip(n)
	if flags&flagTF != 0 {
		c.singleStep()
	}
	return true
}

const (
	flagTF = 1 << 8
	flagIF = 1 << 9
	dr6BS  = 1 << 14

	debugBTF = 1 << 1 // of DEBUGCTL: only branches trap (SDM vol. 3, 17.4.1)
)

// singleStep queues the trap that an instruction carried out here, which is no branch,
// owes.
func (c *cpu) singleStep() {
	if c.v.Get(vcpu.DebugCtl)&debugBTF != 0 {
		return
	}
	if c.v.Set(vcpu.DR6, c.v.Get(vcpu.DR6)|dr6BS) == nil {
		c.v.Inject(vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDB})
	}
}

// emulated deals with what the emulation of an instruction came to, whose flags were these before: with TF set it owes a
// trap, and of a REP each round does (SDM vol. 3, 17.3.1.4).
func (c *cpu) emulated(o emulate.Outcome, flags uint64) {
	c.stats.emulated.Add(1)
	c.outcome(o)
	if o == emulate.Done && flags&flagTF != 0 {
		c.singleStep()
	}
}

// outcome deals with what emulation came to.
func (c *cpu) outcome(o emulate.Outcome) {
	switch o {
	case emulate.Fault:
		c.inject(c.em.Fault)
	case emulate.Shutdown:
		c.exitShutdown()
	case emulate.Unhandled:
		c.vm.crash(c, c.em.Err)
	}
}
