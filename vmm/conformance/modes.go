package conformance

import (
	"encoding/binary"

	"godwit/vmm/vcpu"
)

// Going from one mode to another, as a guest's boot code does.
var modeTests = []test{
	{"from real mode to protected to long", real16, func(m *machine) {
		m.start(gEnterProtected)
		// The descriptor tables of a machine in long mode.
		copy(m.ram[0x900:], binary.LittleEndian.AppendUint32([]byte{0x3f, 0}, gdtAt))
		copy(m.ram[0x8000:], gEnterLong.bytes())
		copy(m.ram[0x9000:], gLongAtLast.bytes())
		for {
			switch r := m.run(); r {
			case vcpu.ExitRDMSR:
				check(m, "MSR", m.exit.MSR, 0xc000_0080)
				m.cpu.Regs().GPR[vcpu.RAX], m.cpu.Regs().GPR[vcpu.RDX] = m.cpu.Get(vcpu.EFER), 0
				m.skip(2)
			case vcpu.ExitWRMSR:
				check(m, "EFER", m.exit.Value, 0x100)
				m.must(m.cpu.Set(vcpu.EFER, m.exit.Value))
				m.skip(2)
			case vcpu.ExitHLT:
				check(m, "RAX", m.reg(vcpu.RAX), 0x123456789abcdef0)
				check(m, "EFER", m.cpu.Get(vcpu.EFER), 0x500)
				check(m, "CS", m.cpu.Segment(vcpu.CS).Selector, selCode64)
				return
			default:
				m.fail("exit %v at RIP %#x, CR0 %#x", r, m.cpu.Regs().RIP, m.cpu.Get(vcpu.CR0))
			}
		}
	}},
	{"PAE pointers are loaded with CR3", pae32, func(m *machine) {
		m.start(gPAE)
		m.cpu.Regs().GPR[vcpu.RBX] = 0x4000_0000 + dataAt // by the second pointer
		m.put32(dataAt, 0x5a5a)
		check(m, "error code", m.trap(vcpu.VecPF, true).err, 0)
		m.startWith(gPAE, func(s *vcpu.State) {
			m.put64(pdptPAE+8, pdAt|1)
			s.PDPTE[1] = pdAt | 1
		})
		m.cpu.Regs().GPR[vcpu.RBX] = 0x4000_0000 + dataAt
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 0x5a5a)
		var s vcpu.State
		m.cpu.Save(&s)
		check(m, "PDPTE 1", s.PDPTE[1]&^0xe60, pdAt|1)
	}},
}
