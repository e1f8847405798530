package conformance

import (
	"context"
	"strings"

	"godwit/kernel"
	"godwit/vmm/gcoff"
	"godwit/vmm/mem"
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// A Cost is what one round trip takes, from the guest's instruction through the
// backend and a VMM that does next to nothing back to the guest's next instruction.
type Cost struct {
	Name  string
	Ticks float64 // of the TSC, a round trip; under QEMU's -icount these are instructions
	Err   error
}

type bench struct {
	name  string
	guest guest
	// ready sets registers and memory before the first entry.
	ready func(m *machine)
	// exit answers one exit and tells whether it completes a round.
	exit func(m *machine, e *vcpu.Exit) bool
	// after runs when all rounds are done, inside the time.
	after func(m *machine)
}

const benchRounds = 1000

// Bench measures the round trips whose name contains filter over backend b, until ctx ends.
func Bench(ctx context.Context, b vcpu.Backend, a mem.Allocator, filter string, report func(Cost)) {
	defer gcoff.Off()() // no collection falls into a measurement
	for _, x := range benches(b) {
		if strings.Contains(x.name, filter) && ctx.Err() == nil {
			report(measure(b, a, x))
		}
	}
}

func measure(b vcpu.Backend, a mem.Allocator, x bench) (c Cost) {
	c.Name = x.name
	var r Result
	runOne(b, a, test{x.name, long64, func(m *machine) {
		m.start(x.guest)
		if x.ready != nil {
			x.ready(m)
		}
		rounds(m, x, 20) // what is done once
		from := kernel.TSC()
		rounds(m, x, benchRounds)
		if x.after != nil {
			x.after(m)
		}
		c.Ticks = float64(kernel.TSC()-from) / benchRounds
	}}, long64, &r)
	c.Err = r.Err
	return c
}

func rounds(m *machine, x bench, n int) {
	m.cpu.SetDeadline(soon(20000))
	for n > 0 {
		if err := m.cpu.Run(&m.exit); err != nil {
			m.fail("Run: %w", err)
		}
		if m.exit.Reason == vcpu.ExitHost {
			continue
		}
		if x.exit(m, &m.exit) {
			n--
		}
	}
}

// expect is an exit that takes one round and n bytes.
func expect(r vcpu.Reason, n uint8) func(m *machine, e *vcpu.Exit) bool {
	return func(m *machine, e *vcpu.Exit) bool {
		check(m, "exit", e.Reason, r)
		if e.Len == 0 {
			e.Len = n
		}
		m.cpu.Skip(e.Len)
		return true
	}
}

func benches(b vcpu.Backend) []bench {
	call := gLoopVMMCALL
	if b.Name() == "vmx" {
		call = gLoopVMCALL
	}
	const first = 256 << 20 // of the pages that are touched for the first time
	touch := func(step uint64) func(m *machine) {
		return func(m *machine) {
			m.cpu.Regs().GPR[vcpu.RBX], m.cpu.Regs().GPR[vcpu.RCX] = first, step
			for i := range uint64(8) { // 8 GiB are enough for 1020 pages of 2 MiB
				at := uint64(pdAt)
				if i > 0 {
					at = 0x200000 + i*4096
					m.put64(pdptAt+8*i, at|3)
				}
				for k := range uint64(512) {
					m.put64(at+8*k, i<<30|k<<21|0x83)
				}
			}
		}
	}
	mapped := func(size uint64) func(m *machine, e *vcpu.Exit) bool {
		return func(m *machine, e *vcpu.Exit) bool {
			check(m, "exit", e.Reason, vcpu.ExitMemory)
			m.must(m.tables.Map(e.GPA&^(size-1), m.host, size, slat.PermRWX, slat.WriteBack))
			return true
		}
	}
	pages := func(m *machine) {
		// All of them are mapped before, in 4K pages, and closed.
		touch(4096)(m)
		blk, err := m.hostMemory(4096, 4096)
		m.must(err)
		for i := range uint64(benchRounds + 64) {
			m.must(m.tables.Map(first+i*4096, blk.Phys, 4096, slat.PermRWX, slat.WriteBack))
		}
		m.must(m.tables.StartTracking(slat.WriteFaults))
		m.space.Sync()
	}
	fault := func(m *machine, e *vcpu.Exit) bool {
		check(m, "exit", e.Reason, vcpu.ExitMemory)
		what, _ := m.tables.WriteFault(e.GPA, 1)
		check(m, "write fault", what, slat.Opened)
		return e.GPA >= first
	}
	dirty := slat.NewBitmap(limit)
	interrupt := vcpu.Event{Valid: true, Vector: 0x41}
	handled := func(m *machine) {
		m.handler(0x41, gIRET64)
		m.cpu.Regs().RFLAGS |= 1 << 9 // VT-x enters with an interrupt only if IF is set
	}
	return []bench{
		{name: "CPUID", guest: gLoopCPUID, exit: expect(vcpu.ExitCPUID, 2)},
		{name: "RDMSR", guest: gLoopRDMSR, exit: expect(vcpu.ExitRDMSR, 2), ready: unknownMSR},
		{name: "WRMSR", guest: gLoopWRMSR, exit: expect(vcpu.ExitWRMSR, 2), ready: unknownMSR},
		{name: "IN", guest: gLoopIN, exit: expect(vcpu.ExitIO, 1)},
		{name: "OUT", guest: gLoopOUT, exit: expect(vcpu.ExitIO, 1)},
		{name: "MMIO read, not decoded", guest: gLoopLoad, exit: expect(vcpu.ExitMemory, 2),
			ready: func(m *machine) { m.cpu.Regs().GPR[vcpu.RBX] = device }},
		{name: "hypercall", guest: call, exit: expect(vcpu.ExitHypercall, 3)},
		{name: "hypercall and an interrupt with its handler", guest: call, ready: handled,
			exit: func(m *machine, e *vcpu.Exit) bool {
				check(m, "exit", e.Reason, vcpu.ExitHypercall)
				m.cpu.Skip(3)
				m.inject(interrupt)
				return true
			}},
		{name: "HLT and an interrupt that ends it", guest: gLoopHLT, ready: handled,
			exit: func(m *machine, e *vcpu.Exit) bool {
				check(m, "exit", e.Reason, vcpu.ExitHLT)
				m.cpu.Skip(1)
				m.inject(interrupt)
				return true
			}},
		{name: "an interrupt window, and the interrupt", guest: gLoopSTI, exit: func(m *machine, e *vcpu.Exit) bool {
			check(m, "exit", e.Reason, vcpu.ExitInterruptWindow)
			m.inject(interrupt)
			m.cpu.WantInterrupt(4)
			return true
		}, ready: func(m *machine) {
			m.handler(0x41, gIRET64)
			m.cpu.WantInterrupt(4)
		}},
		{name: "first touch of a 4K page", guest: gLoopTouch, ready: touch(4096), exit: mapped(4096)},
		{name: "first touch of a 2M page", guest: gLoopTouch, ready: touch(2 << 20), exit: mapped(2 << 20)},
		{name: "write fault of tracking", guest: gLoopTouch, ready: pages, exit: fault},
		{name: "write fault of tracking, and collecting it", guest: gLoopTouch, ready: pages, exit: fault,
			after: func(m *machine) { m.tables.CollectDirty(dirty) }},
		{name: "a kick", guest: gSpin, exit: func(m *machine, e *vcpu.Exit) bool {
			check(m, "exit", e.Reason, vcpu.ExitKicked)
			m.cpu.Kick()
			return true
		}, ready: func(m *machine) { m.cpu.Kick() }},
	}
}

func unknownMSR(m *machine) { m.cpu.Regs().GPR[vcpu.RCX] = 0x1234 }
