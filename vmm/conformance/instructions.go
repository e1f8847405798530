package conformance

import (
	"godwit/kernel"
	"godwit/vmm/vcpu"
)

// Instructions that exit, and those that a guest must not have.
var instructionTests = []test{
	{"cpuid exits and continues behind", everyMode, func(m *machine) {
		m.start(gCPUID)
		m.cpu.Regs().GPR[vcpu.RAX] = 7
		m.cpu.Regs().GPR[vcpu.RCX] = 1
		m.want(vcpu.ExitCPUID)
		check(m, "RAX", m.reg(vcpu.RAX), 7)
		check(m, "RCX", m.reg(vcpu.RCX), 1)
		check(m, "RIP", m.ip(), 0)
		m.cpu.Regs().GPR[vcpu.RAX] = 0x1234
		m.skip(2)
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 0x1234)
		check(m, "RIP", m.ip(), 3)
	}},
	{"unknown MSRs exit, and #GP is the guest's", everyMode, func(m *machine) {
		m.start(gMSR)
		r := m.cpu.Regs()
		r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = 0x12345678, 0xfffffff1, 0xfffffff2
		check(m, "MSR", m.want(vcpu.ExitRDMSR).MSR, 0x12345678)
		m.skip(2)
		e := m.want(vcpu.ExitWRMSR)
		check(m, "MSR", e.MSR, 0x12345678)
		check(m, "value", e.Value, 0xfffffff2_fffffff1)
		m.inject(vcpu.GP())
		f := m.trap(vcpu.VecGP, true)
		check(m, "RIP pushed", f.ip, 2)
		check(m, "error code", f.err, 0)
	}},
	{"ports", everyMode, func(m *machine) {
		wide := uint8(4)
		if m.mode == real16 {
			wide = 2
		}
		m.start(gPorts)
		r := m.cpu.Regs()
		r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = 0x11223344, 0xfffe
		for _, c := range []struct {
			port   uint16
			in     bool
			size   uint8
			length uint8
		}{
			{0x80, false, 1, 2}, {0x81, true, 1, 2}, {0xfffe, false, 1, 1}, {0xfffe, true, 1, 1},
			{0xfffe, false, wide, 1}, {0xfffe, true, wide, 1},
		} {
			e := m.want(vcpu.ExitIO)
			check(m, "port", e.Port, c.port)
			check(m, "In", e.In, c.in)
			check(m, "size", e.Size, c.size)
			check(m, "String, Rep", e.String || e.Rep, false)
			check(m, "length", e.Len, c.length) // every vendor tells it here
			m.cpu.Skip(e.Len)
		}
		m.hlt()
	}},
	{"string I/O", flat32, func(m *machine) {
		m.start(gStrings)
		r := m.cpu.Regs()
		r.GPR[vcpu.RDX], r.GPR[vcpu.RCX], r.GPR[vcpu.RSI], r.GPR[vcpu.RDI] = 0x3f8, 3, dataAt, dataAt
		for _, c := range []struct {
			in, rep      bool
			size, length uint8
		}{{false, true, 1, 2}, {true, true, 1, 2}, {false, false, 4, 1}, {true, false, 2, 2}} {
			e := m.want(vcpu.ExitIO)
			if !e.String || e.In != c.in || e.Rep != c.rep || e.Size != c.size || e.Port != 0x3f8 {
				m.fail("string %v, in %v, rep %v, size %d, port %#x; want %+v", e.String, e.In, e.Rep, e.Size, e.Port, c)
			}
			if e.AddrLen != 0 {
				check(m, "address size", e.AddrLen, 4)
			}
			check(m, "RCX", m.reg(vcpu.RCX), 3)
			m.skip(c.length)
		}
		m.hlt()
	}},
	{"hlt", everyMode, func(m *machine) {
		m.start(gHLT)
		m.hlt()
		m.hlt()
		check(m, "RIP", m.ip(), 2)
	}},
	{"wbinvd and invd never reach the caches", everyMode, func(m *machine) {
		m.start(gWBINVD)
		m.want(vcpu.ExitWBINVD)
		m.skip(2)
		m.want(vcpu.ExitWBINVD)
		m.skip(2)
		m.hlt()
	}},
	{"hypercall", everyMode, func(m *machine) {
		g := gVMMCALL
		if m.b.Name() == "vmx" {
			g = gVMCALL
		}
		m.start(g)
		m.want(vcpu.ExitHypercall)
		m.skip(3)
		m.hlt()
	}},
	{"the other vendor's hypercall is #UD", long64, func(m *machine) {
		g := gVMCALL
		if m.b.Name() == "vmx" {
			g = gVMMCALL
		}
		m.start(g)
		m.wantUD()
	}},
	{"monitor and mwait are hidden", long64, func(m *machine) {
		for _, g := range []guest{gMONITOR, gMWAIT} {
			m.start(g)
			m.cpu.Regs().GPR[vcpu.RAX] = dataAt
			m.wantUD()
		}
	}},
	{"virtualization is hidden", long64, func(m *machine) {
		for _, g := range []guest{
			gVMRUN, gVMLOAD, gVMSAVE, gSTGI, gCLGI, gINVLPGA, gVMXON, gVMPTRLD, gINVEPT, gGETSEC,
		} {
			m.start(g)
			r := m.cpu.Regs()
			r.GPR[vcpu.RAX], r.GPR[vcpu.RBX], r.GPR[vcpu.RCX] = dataAt, dataAt, 0
			m.wantUD()
		}
	}},
	{"rdpmc faults", long64, func(m *machine) {
		m.start(gRDPMC)
		check(m, "RIP pushed", m.trap(vcpu.VecGP, true).ip, 0)
	}},
	{"xsetbv", long64, func(m *machine) {
		m.startWith(gXSETBV, func(s *vcpu.State) { s.Reg[vcpu.CR4] |= 1 << 18 })
		r := m.cpu.Regs()
		r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = 0, 3, 0
		if m.run() == vcpu.ExitHLT {
			// QEMU's TCG executes it without an exit; the backend sees the
			// result and stops a guest that goes beyond its model.
			check(m, "XCR0", m.cpu.Get(vcpu.XCR0), 3)
			return
		}
		check(m, "exit", m.exit.Reason, vcpu.ExitXSETBV)
		if err := m.cpu.Set(vcpu.XCR0, 2); err == nil {
			m.fail("XCR0 without x87 was accepted")
		}
		if err := m.cpu.Set(vcpu.XCR0, 1<<20|3); err == nil {
			m.fail("XCR0 outside the model was accepted")
		}
		m.must(m.cpu.Set(vcpu.XCR0, 3))
		m.skip(3)
		m.hlt()
		check(m, "XCR0", m.cpu.Get(vcpu.XCR0), 3)
	}},
	{"xsetbv without OSXSAVE is #UD", long64, func(m *machine) {
		m.start(gXSETBV)
		check(m, "RIP pushed", m.trap(vcpu.VecUD, false).ip, 0)
	}},
	{"the TSC has the guest's offset", long64, func(m *machine) {
		m.start(gRDTSC)
		const off = 1 << 50
		m.cpu.SetTSCOffset(off)
		check(m, "offset", m.cpu.TSCOffset(), off)
		before := soon(0)
		m.hlt()
		got := m.reg(vcpu.RDX)<<32 | m.reg(vcpu.RAX)
		if got < before+off || got > soon(0)+off {
			m.fail("the guest read %#x, between host TSC %#x and %#x", got, before, soon(0))
		}
	}},
	{"the TSC runs at the guest's ratio", long64, func(m *machine) {
		can := m.b.Capabilities().TSCScaling
		if can == (vcpu.TSCScaling{}) {
			panic(skip{"this host's processor has no TSC scaling"})
		}
		m.start(gRDTSC)
		const off = 1 << 50
		m.cpu.SetTSCOffset(off)
		// Rates in MHz: of the guest, on a host of the second.
		for _, c := range [][2]uint64{{2600, 3000}, {3000, 2600}, {1000, 20}, {20, 1000}, {1, 1}, {2550, 10}, {1, 3}} {
			r, ok := can.Ratio(c[0]*1e6, c[1]*1e6)
			if !ok {
				m.fail("%d MHz on a host with %d: no ratio", c[0], c[1])
			}
			m.must(m.cpu.SetTSCRatio(r))
			for range 3 {
				m.cpu.Regs().RIP = codeAt
				before := kernel.TSC()
				m.hlt()
				after := kernel.TSC()
				got := m.reg(vcpu.RDX)<<32 | m.reg(vcpu.RAX)
				if got < r.Guest(before)+off || got > r.Guest(after)+off {
					m.fail("%d MHz on a host with %d: the guest read %#x, and %#x to %#x of the host are %#x to %#x",
						c[0], c[1], got, before, after, r.Guest(before)+off, r.Guest(after)+off)
				}
				var s vcpu.State
				m.cpu.Save(&s)
				if s.TSC < got || s.TSC > r.Guest(kernel.TSC())+off {
					m.fail("%d MHz on a host with %d: the guest read %#x, and the state says %#x", c[0], c[1], got, s.TSC)
				}
			}
		}
		if m.cpu.SetTSCRatio(1) == nil && !can.Has(1) {
			m.fail("a ratio that the processor does not have was taken")
		}
	}},
}

// wantUD expects an instruction to fault, be it by itself or by the VMM's word.
func (m *machine) wantUD() {
	r := m.run()
	if r == vcpu.ExitOther || r == vcpu.ExitMonitor {
		m.inject(vcpu.UD())
		r = m.run()
	}
	if al := m.reg(vcpu.RAX) & 0xff; r != vcpu.ExitIO || m.exit.Port != trapPort || al != vcpu.VecUD {
		m.fail("exit %v, AL %#x at RIP %#x; want #UD", r, al, m.cpu.Regs().RIP)
	}
	check(m, "RIP pushed", m.get64(m.reg(vcpu.RSP)), codeAt)
}

// inject queues an event where none may be queued.
func (m *machine) inject(e vcpu.Event) {
	if !m.cpu.Inject(e) {
		m.fail("an event is queued already: %+v", m.cpu.Pending())
	}
}
