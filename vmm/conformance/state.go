package conformance

import (
	"bytes"
	"encoding/binary"
	"reflect"

	"godwit/vmm/vcpu"
)

// Save and Load.
var stateTests = []test{
	{"a loaded state is the saved one", everyMode, func(m *machine) {
		s := m.prepare(gNops)
		for i := range s.Regs.GPR {
			s.Regs.GPR[i] = 0x1111_2222_3333_0000 + uint64(i)
		}
		s.Regs.GPR[vcpu.RSP] = stackAt
		if m.mode != long64 {
			for i := range s.Regs.GPR {
				s.Regs.GPR[i] &= 0xffff_ffff
				if i >= vcpu.R8 {
					s.Regs.GPR[i] = 0
				}
			}
		}
		s.Regs.CR8 = 5
		s.Reg[vcpu.CR2] = 0x1234
		s.Reg[vcpu.STAR], s.Reg[vcpu.LSTAR], s.Reg[vcpu.CSTAR] = 0x11<<48, 0xffff_8000_0000_1000, 0x2000
		s.Reg[vcpu.SFMASK], s.Reg[vcpu.KernelGSBase] = 0x4700, 0x7fff_0000_0000
		s.Reg[vcpu.SysenterCS], s.Reg[vcpu.SysenterESP], s.Reg[vcpu.SysenterEIP] = 8, 0x3000, 0x4000
		s.Reg[vcpu.DR0], s.Reg[vcpu.DR3] = 0x5000, 0x6000
		s.Reg[vcpu.PAT] = 0x0007010600070106
		m.must(m.cpu.Load(s))
		var a, b vcpu.State
		m.cpu.Save(&a)
		check(m, "registers", a.Regs, withFlag(s.Regs))
		check(m, "control registers and MSRs", a.Reg, s.Reg)
		m.must(m.cpu.Load(&a))
		m.cpu.Save(&b)
		if !sameState(&a, &b) {
			m.fail("saved %+v, loaded and saved again %+v", a, b)
		}
		m.hlt() // and it can be entered
		m.cpu.Save(&b)
		check(m, "CR8", b.Regs.CR8, 5)
		check(m, "LSTAR", b.Reg[vcpu.LSTAR], s.Reg[vcpu.LSTAR])
		check(m, "KernelGSBase", b.Reg[vcpu.KernelGSBase], s.Reg[vcpu.KernelGSBase])
		check(m, "SYSENTER_EIP", b.Reg[vcpu.SysenterEIP], s.Reg[vcpu.SysenterEIP])
	}},
	{"a guest goes on in another VCPU", long64, func(m *machine) {
		m.start(gSSE)
		m.cpu.Regs().GPR[vcpu.RAX], m.cpu.Regs().GPR[vcpu.RBX] = 0x1234567890abcdef, 77
		m.hlt()
		var s vcpu.State
		m.cpu.Save(&s)
		other, err := m.newCPU(1)
		m.must(err)
		old := m.cpu
		m.cpu = other
		defer func() { m.cpu = other; m.must(old.Close()) }()
		m.must(other.Load(&s))
		m.hlt()
		check(m, "XMM0", m.reg(vcpu.RCX), 0x1234567890abcdef)
		check(m, "XMM1", m.reg(vcpu.RDX), 77)
	}},
	{"a pending event moves with the state", long64, func(m *machine) {
		m.startWith(gNops, func(s *vcpu.State) {
			s.Regs.RFLAGS |= 1 << 9
			s.Pending = vcpu.Event{Valid: true, Vector: 0x41}
		})
		check(m, "pending", m.cpu.Pending().Vector, 0x41)
		check(m, "RIP pushed", m.trap(0x41, false).ip, 0)
	}},
	{"blocked NMIs stay blocked", long64, func(m *machine) {
		m.startWith(gIRETHalt, func(s *vcpu.State) { s.NMIBlock = true })
		check(m, "CanNMI", m.cpu.CanNMI(), false)
		// A frame for the IRET: behind it, on the same stack.
		sp := uint64(stackAt - 40)
		for i, x := range []uint64{codeAt + 2, selCode64, 2, stackAt, selData} {
			m.put64(sp+8*uint64(i), x)
		}
		m.cpu.Regs().GPR[vcpu.RSP] = sp
		var s vcpu.State
		m.cpu.Save(&s)
		check(m, "NMIBlock saved", s.NMIBlock, true)
		m.cpu.WantNMI(true)
		m.want(vcpu.ExitInterruptWindow)
		check(m, "RIP", m.ip(), 2)
		m.hlt()
	}},
	{"states that no processor enters are refused", long64, func(m *machine) {
		for what, change := range map[string]func(*vcpu.State){
			"CR0.PG without PE":          func(s *vcpu.State) { s.Reg[vcpu.CR0] = 0x80000010 },
			"CR0.NW without CD":          func(s *vcpu.State) { s.Reg[vcpu.CR0] |= 1 << 29 },
			"CR3 beyond the model":       func(s *vcpu.State) { s.Reg[vcpu.CR3] |= 1 << 51 },
			"CR4 beyond the model":       func(s *vcpu.State) { s.Reg[vcpu.CR4] |= 1 << 13 },
			"long mode without PAE":      func(s *vcpu.State) { s.Reg[vcpu.CR4] &^= 1 << 5 },
			"EFER beyond the model":      func(s *vcpu.State) { s.Reg[vcpu.EFER] |= 1 << 12 },
			"LMA without LME":            func(s *vcpu.State) { s.Reg[vcpu.EFER] = 1 << 10 },
			"DR7 above 31":               func(s *vcpu.State) { s.Reg[vcpu.DR7] |= 1 << 32 },
			"SPEC_CTRL beyond the model": func(s *vcpu.State) { s.Reg[vcpu.SpecCtrl] = 1 << 40 },
			"PAT type 2":                 func(s *vcpu.State) { s.Reg[vcpu.PAT] = 2 },
			"GDTR not canonical":         func(s *vcpu.State) { s.Reg[vcpu.GDTBase] = 1 << 62 },
			"FS not canonical":           func(s *vcpu.State) { s.Seg[vcpu.FS].Base = 1 << 62 },
			"XCR0 without x87":           func(s *vcpu.State) { s.Reg[vcpu.XCR0] = 2 },
			"XCR0 beyond the model":      func(s *vcpu.State) { s.Reg[vcpu.XCR0] = 1<<30 | 1 },
			"exception 40":               func(s *vcpu.State) { s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: 40} },
			"XSAVE header":               func(s *vcpu.State) { s.XSAVE[530] = 1 },
			"XSAVE components":           func(s *vcpu.State) { s.XSAVE[519] = 1 },
			"MXCSR reserved":             func(s *vcpu.State) { s.XSAVE[27] = 0x80 },
			"XSAVE too short":            func(s *vcpu.State) { s.XSAVE = s.XSAVE[:100] },
			"CS with L and D":            func(s *vcpu.State) { s.Seg[vcpu.CS].Attr |= vcpu.AttrDB },
			"an activity of its own":     func(s *vcpu.State) { s.Activity = 200 },
			"CR8 above 15":               func(s *vcpu.State) { s.Regs.CR8 = 16 },
			"RFLAGS above 21":            func(s *vcpu.State) { s.Regs.RFLAGS |= 1 << 40 },
			"segment attributes":         func(s *vcpu.State) { s.Seg[vcpu.DS].Attr |= 1 << 9 },
			"EFER.LMA without paging":    func(s *vcpu.State) { s.Reg[vcpu.CR0] = 0x11 },
		} {
			m.start(gNops)
			var before, after vcpu.State
			m.cpu.Save(&before)
			s := m.prepare(gNops)
			change(s)
			if m.cpu.Load(s) == nil {
				m.fail("%s: loaded", what)
			}
			m.cpu.Save(&after)
			if !sameState(&before, &after) {
				m.fail("%s: refused, but something changed", what)
			}
		}
	}},
	{"vector state survives exits", long64, func(m *machine) {
		if m.b.Capabilities().XCR0&4 == 0 {
			panic(skip{"no AVX on this host"})
		}
		m.startWith(gAVX, func(s *vcpu.State) {
			s.Reg[vcpu.CR4] |= 1 << 18
			s.Reg[vcpu.XCR0] = 7
		})
		m.put32(dataAt, 0xdeadbeef)
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt
		m.hlt()
		// Another guest's processor uses the same registers in between.
		other, err := m.newCPU(1)
		m.must(err)
		old := m.cpu
		m.cpu = other
		keep := bytes.Clone(m.ram[codeAt:][:32])
		m.start(gSSE)
		m.hlt()
		m.hlt()
		copy(m.ram[codeAt:], keep)
		m.must(other.Close())
		m.cpu = old
		m.hlt()
		for i := range uint64(8) {
			check(m, "YMM0", m.get32(dataAt+4*i), 0xdeadbeef)
		}
	}},
	{"MXCSR and the x87 control word are the guest's own", long64, func(m *machine) {
		m.start(gMXCSR)
		m.put32(dataAt, 0x1f00) // invalid operation unmasked and more
		m.put16(dataAt+8, 0x0300)
		m.cpu.Regs().GPR[vcpu.RBX], m.cpu.Regs().GPR[vcpu.RCX] = dataAt, dataAt+8
		m.hlt()
		// The host computes: with the guest's masks it would fault.
		x := 0.0
		for i := range 100 {
			x += 1 / float64(i+3)
		}
		if x < 1 {
			m.fail("the host's arithmetic went wrong: %v", x)
		}
		m.put64(dataAt, 0)
		m.put64(dataAt+8, 0)
		m.hlt()
		check(m, "MXCSR", m.get32(dataAt), 0x1f00)
		const one = 1 << 6 // reserved; some processors keep it set (SDM vol. 1, 8.1.5)
		check(m, "control word", uint64(binary.LittleEndian.Uint16(m.ram[dataAt+8:])&^one), 0x0300)
	}},
	{"reset state", real16, func(m *machine) {
		// The last 16 bytes below 4 GiB, where a processor begins.
		rom, err := m.hostMemory(4096, 4096)
		m.must(err)
		rom.Data[0xff0] = 0xf4 // hlt
		m.must(m.tables.Map(0xffff_f000, rom.Phys, 4096, 0x5, 0))
		cpu, err := m.newCPU(1)
		m.must(err)
		old := m.cpu
		m.cpu = cpu
		defer func() { m.cpu = old; m.must(cpu.Close()) }()
		m.want(vcpu.ExitHLT)
		check(m, "RIP", m.cpu.Regs().RIP, 0xfff0)
		check(m, "RDX", m.reg(vcpu.RDX), 0x600)
		check(m, "CS", m.cpu.Segment(vcpu.CS).Base, 0xffff0000)
		check(m, "CR0", m.cpu.Get(vcpu.CR0), 0x60000010)
	}},
}

func withFlag(r vcpu.Regs) vcpu.Regs {
	r.RFLAGS |= 2
	return r
}

// sameState compares all but the clock.
func sameState(a, b *vcpu.State) bool {
	x, y := *a, *b
	x.TSC, y.TSC = 0, 0
	return reflect.DeepEqual(x, y)
}
