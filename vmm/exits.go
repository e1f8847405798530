package vmm

import (
	"errors"
	"fmt"

	"godwit/vmm/cpuid"
	"godwit/vmm/device/apic"
	"godwit/vmm/emulate"
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// handlers say what to do at each exit.
var handlers [vcpu.NumReasons]func(*cpu)

func init() { // not a composite literal: handlers reach the table through the loop
	handlers = [vcpu.NumReasons]func(*cpu){
		vcpu.ExitNone:            (*cpu).exitInternal,
		vcpu.ExitHost:            (*cpu).exitNothing,
		vcpu.ExitKicked:          (*cpu).exitLook,
		vcpu.ExitDeadline:        (*cpu).timer,
		vcpu.ExitInterruptWindow: (*cpu).exitWindow,
		vcpu.ExitHLT:             (*cpu).exitHLT,
		vcpu.ExitPause:           (*cpu).exitPause,
		vcpu.ExitCPUID:           (*cpu).exitCPUID,
		vcpu.ExitRDMSR:           (*cpu).exitRDMSR,
		vcpu.ExitWRMSR:           (*cpu).exitWRMSR,
		vcpu.ExitIO:              (*cpu).exitIO,
		vcpu.ExitMemory:          (*cpu).exitMemory,
		vcpu.ExitXSETBV:          (*cpu).exitXSETBV,
		vcpu.ExitHypercall:       (*cpu).exitHypercall,
		vcpu.ExitShutdown:        (*cpu).exitShutdown,
		vcpu.ExitException:       (*cpu).exitException,
		vcpu.ExitTaskSwitch:      (*cpu).exitTaskSwitch,
		vcpu.ExitWBINVD:          (*cpu).exitWBINVD,
		vcpu.ExitRDTSC:           (*cpu).exitRDTSC,
		vcpu.ExitINIT:            (*cpu).exitNothing,
		vcpu.ExitMonitor:         (*cpu).exitUD,
		vcpu.ExitOther:           (*cpu).exitUD,
		vcpu.ExitInternal:        (*cpu).exitInternal,
	}
}

func (c *cpu) exitNothing() {}
func (c *cpu) exitLook()    { c.look = true; c.checkHang() }
func (c *cpu) exitUD()      { c.inject(vcpu.UD()) }
func (c *cpu) exitWBINVD()  { c.skip(emulate.OpWBINVD) }

// exitPause: the guest spins, perhaps for what a processor of its own does that waits for this one's time slice to end.
func (c *cpu) exitPause() {
	if c.skip(emulate.OpPAUSE) {
		giveWay()
	}
}

func (c *cpu) exitWindow() {
	c.look, c.window = true, 0
	c.takes()
}

func (c *cpu) exitHLT() {
	if !c.skip(emulate.OpHLT) || c.v.Pending().Valid {
		return // another instruction by now, or a debug trap that ends the halt (SDM vol. 2, HLT)
	}
	c.activity, c.look = vcpu.Halted, true
	if c.regs.RFLAGS&flagIF == 0 {
		c.vm.haltedForGood(c)
	}
}

func (c *cpu) exitCPUID() {
	g := &c.regs.GPR
	leaf := uint32(g[vcpu.RAX])
	base, _ := c.lapic.ReadMSR(apic.MSRBase)
	d := cpuid.Dynamic{APICID: uint32(c.index), CR4: c.v.Get(vcpu.CR4), APICActive: base>>11&1 != 0}
	if leaf == 0xd {
		d.XCR0 = c.v.Get(vcpu.XCR0)
	}
	ra, rb, rc, rd := c.vm.cpuid.Query(leaf, uint32(g[vcpu.RCX]), &d)
	g[vcpu.RAX], g[vcpu.RBX], g[vcpu.RCX], g[vcpu.RDX] = uint64(ra), uint64(rb), uint64(rc), uint64(rd)
	c.skip(emulate.OpCPUID)
}

func (c *cpu) exitRDMSR() {
	v, ok := c.readMSR(c.exit.MSR)
	if !ok {
		c.inject(vcpu.GP())
		return
	}
	c.regs.GPR[vcpu.RAX], c.regs.GPR[vcpu.RDX] = v&0xffffffff, v>>32
	c.skip(emulate.OpRDMSR)
}

func (c *cpu) exitWRMSR() {
	if !c.writeMSR(c.exit.MSR, c.exit.Value) {
		c.inject(vcpu.GP())
		return
	}
	c.skip(emulate.OpWRMSR)
}

func (c *cpu) exitIO() {
	e := &c.exit
	if e.String {
		op := emulate.OpOUTS
		if e.In {
			op = emulate.OpINS
		}
		flags := c.regs.RFLAGS
		c.emulated(c.em.StringIO(op), flags)
		return
	}
	if !e.In {
		v := uint32(c.regs.GPR[vcpu.RAX])
		c.vm.bus.Out(e.Port, int(e.Size), v&(1<<(8*uint(e.Size))-1))
		c.skip(emulate.OpOUT)
		return
	}
	v := uint64(c.vm.bus.In(e.Port, int(e.Size)))
	switch a := &c.regs.GPR[vcpu.RAX]; e.Size {
	case 1:
		*a = *a&^0xff | v&0xff
	case 2:
		*a = *a&^0xffff | v&0xffff
	default:
		*a = v & 0xffffffff
	}
	c.skip(emulate.OpIN)
}

// exitMemory: RAM that is touched for the first time, a write that migration
// watches for, code in a large page that may not hold any, or a device.
func (c *cpu) exitMemory() {
	e := &c.exit
	ram := c.vm.ram
	if e.GPA < uint64(len(ram.chunks))*chunkSize && ram.page(e.GPA) != nil {
		switch {
		case e.Mapped && e.Access&vcpu.Write != 0:
			switch f, _ := c.vm.tables.WriteFault(e.GPA, int(c.vm.group.Load())); f {
			case slat.Opened, slat.Raced:
				return
			}
		case e.Mapped && e.Access&vcpu.Exec != 0:
			again, err := c.vm.tables.ExecFault(e.GPA)
			if err != nil {
				c.vm.crash(c, fmt.Errorf("code at %#x: %w", e.GPA, err))
			}
			if again || err != nil {
				return
			}
		}
		c.stats.mapFaults.Add(1)
		if _, err := ram.mapAt(e.GPA); err != nil {
			c.vm.crash(c, fmt.Errorf("memory at %#x: %w", e.GPA, err))
		}
		return
	}
	switch {
	case e.Access&vcpu.PageWalk != 0:
		c.vm.crash(c, fmt.Errorf("a page table of the guest is at %#x, which is not RAM", e.GPA))
	case e.Access&vcpu.Exec != 0:
		c.vm.crash(c, fmt.Errorf("the guest executes at %#x, which is not RAM", e.GPA))
	case e.Deliver:
		c.vm.crash(c, fmt.Errorf("an event's delivery reaches %#x, which is not RAM: the guest's stack or a descriptor table is there", e.GPA))
	default:
		flags := c.regs.RFLAGS
		c.emulated(c.em.MMIO(e.GPA), flags)
	}
}

// cpuBus is the machine around one processor, for its emulator: each has a local
// APIC of its own at the same address.
type cpuBus struct{ *cpu }

func (b cpuBus) Page(gpa uint64) *[4096]byte         { return b.vm.ram.page(gpa) }
func (b cpuBus) Wrote(gpa, n uint64)                 { b.vm.ram.wrote(gpa, n) }
func (b cpuBus) In(port uint16, size int) uint32     { return b.vm.bus.In(port, size) }
func (b cpuBus) Out(port uint16, size int, v uint32) { b.vm.bus.Out(port, size, v) }

func (b cpuBus) ReadMMIO(gpa uint64, p []byte) {
	if base, on := b.lapic.Base(); on && gpa&^0xfff == base && gpa&0xfff+uint64(len(p)) <= apic.Size && powerOfTwo(len(p)) {
		b.look = true
		b.lapic.ReadMMIO(gpa-base, p)
		return
	}
	b.vm.bus.ReadMMIO(gpa, p)
}

func (b cpuBus) WriteMMIO(gpa uint64, p []byte) {
	if base, on := b.lapic.Base(); on && gpa&^0xfff == base && gpa&0xfff+uint64(len(p)) <= apic.Size && powerOfTwo(len(p)) {
		b.look = true
		b.lapic.WriteMMIO(gpa-base, p)
		return
	}
	b.vm.bus.WriteMMIO(gpa, p)
}

func (c *cpu) exitXSETBV() {
	g := &c.regs.GPR
	if uint32(g[vcpu.RCX]) != 0 || c.v.Set(vcpu.XCR0, g[vcpu.RDX]<<32|g[vcpu.RAX]&0xffffffff) != nil {
		c.inject(vcpu.GP())
		return
	}
	c.skip(emulate.OpXSETBV)
}

// errNoHypercall is -KVM_ENOSYS (Linux, Documentation/virt/kvm/x86/hypercalls.rst).
const errNoHypercall = 1000

// exitHypercall: no hypercall is offered, in KVM's words.
func (c *cpu) exitHypercall() {
	n := int64(-errNoHypercall)
	c.regs.GPR[vcpu.RAX] = uint64(n)
	c.skip(emulate.OpVMMCALL)
}

func (c *cpu) exitRDTSC() {
	t := c.vm.counter() + c.tscOffset
	c.regs.GPR[vcpu.RAX], c.regs.GPR[vcpu.RDX] = t&0xffffffff, t>>32
	c.skip(emulate.OpRDTSC)
}

func (c *cpu) exitException() {
	e := &c.exit
	x := vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: e.Vector, Error: e.Error, CR2: e.GPA}
	switch e.Vector {
	case vcpu.VecDF, vcpu.VecTS, vcpu.VecNP, vcpu.VecSS, vcpu.VecGP, vcpu.VecPF, vcpu.VecAC:
		x.HasError = true
	}
	c.inject(x)
}

// exitTaskSwitch: the new task may have interrupts on.
func (c *cpu) exitTaskSwitch() {
	c.stats.emulated.Add(1)
	c.look = true
	c.outcome(c.em.TaskSwitch(&c.exit.Task, c.exit.Len))
}

var errTriple = errors.New("triple fault: the guest could not deliver an exception, nor the double fault after it")

func (c *cpu) exitShutdown() {
	c.activity = vcpu.Shutdown
	c.vm.crash(c, errTriple)
}

func (c *cpu) exitInternal() {
	c.vm.crash(c, fmt.Errorf("the processor reported an exit that can not be (%v, code %#x)", c.exit.Reason, c.exit.Value))
}
