package conformance

import (
	"sync"

	"godwit/kernel"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// What a guest has against speculation among its own programs: its registers are its own,
// its commands reach the processor, and the host's SPEC_CTRL is the host's.
var controlTests = []test{
	{"SPEC_CTRL is the guest's, and the host keeps its own", long64, func(m *machine) {
		bits := m.needsSpecCtrl()
		m.start(gHLT)
		m.hlt()
		before := specCtrls()
		for x := range bits + 1 {
			if x&^bits != 0 {
				continue
			}
			m.writeSpecCtrl(x)
			check(m, "exit", m.answerSpecCtrl(), vcpu.ExitHLT)
			check(m, "SPEC_CTRL in the guest", m.reg(vcpu.RDX)<<32|m.reg(vcpu.RAX), x)
			check(m, "SPEC_CTRL", m.cpu.Get(vcpu.SpecCtrl), x)
			for v := range specCtrls() {
				if !before[v] {
					m.fail("with %#x in the guest the host's SPEC_CTRL is %#x; before it was one of %v", x, v, before)
				}
			}
		}
	}},
	{"SPEC_CTRL beyond the model faults", long64, func(m *machine) {
		bits := m.needsSpecCtrl()
		for _, bad := range []uint64{1 << 9, 1 << 31, 1 << 32, 1 << 63, bits | 1<<40, ^uint64(0)} {
			m.writeSpecCtrl(bad)
			m.must(m.cpu.Set(vcpu.SpecCtrl, bits))
			check(m, "exit", m.answerSpecCtrl(), vcpu.ExitIO)
			check(m, "vector", m.reg(vcpu.RAX)&0xff, vcpu.VecGP)
			check(m, "SPEC_CTRL", m.cpu.Get(vcpu.SpecCtrl), bits)
		}
	}},
	{"SPEC_CTRL moves with the state", long64, func(m *machine) {
		bits := m.needsSpecCtrl()
		m.writeSpecCtrl(bits)
		check(m, "exit", m.answerSpecCtrl(), vcpu.ExitHLT)
		var s, again vcpu.State
		m.cpu.Save(&s)
		check(m, "SPEC_CTRL saved", s.Reg[vcpu.SpecCtrl], bits)
		m.start(gHLT)
		check(m, "SPEC_CTRL of another state", m.cpu.Get(vcpu.SpecCtrl), 0)
		m.hlt()
		m.start(gWriteReadMSR) // the code
		s.Regs.RIP = codeAt + 2
		m.must(m.cpu.Load(&s))
		m.cpu.Save(&again)
		check(m, "SPEC_CTRL loaded", again.Reg[vcpu.SpecCtrl], bits)
		check(m, "exit", m.answerSpecCtrl(), vcpu.ExitHLT)
		check(m, "SPEC_CTRL in the guest", m.reg(vcpu.RAX), bits)
	}},
	{"a model without SPEC_CTRL has none", long64, func(m *machine) {
		p := policy(m.b.Capabilities())
		p.Controls = x86.Controls{}
		space, err := m.b.NewSpace(vcpu.SpaceConfig{Name: "plain", Tables: m.tables, CPUID: p})
		m.must(err)
		old, oldSpace := m.cpu, m.space
		defer func() {
			m.must(m.cpu.Close())
			m.must(m.space.Close())
			m.cpu, m.space = old, oldSpace
		}()
		m.space = space
		m.cpu, err = m.newCPU(0)
		m.must(err)
		if m.cpu.Set(vcpu.SpecCtrl, 1) == nil {
			m.fail("SPEC_CTRL was taken")
		}
		for _, msr := range []uint64{x86.MSRSpecCtrl, x86.MSRPredCmd, x86.MSRFlushCmd} {
			m.start(gMSR)
			r := m.cpu.Regs()
			r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = msr, 1, 0
			check(m, "MSR", uint64(m.want(vcpu.ExitRDMSR).MSR), msr)
			m.skip(2)
			check(m, "MSR", uint64(m.want(vcpu.ExitWRMSR).MSR), msr)
		}
	}},
	{"an IBPB is made without an exit", long64, func(m *machine) {
		if !m.b.Capabilities().Controls.IBPB {
			panic(skip{"this host's processor shows no IBPB"})
		}
		m.commands(x86.MSRPredCmd, x86.PredIBPB)
	}},
	{"the L1 data cache is flushed without an exit", long64, func(m *machine) {
		if !m.b.Capabilities().Controls.FlushL1D {
			panic(skip{"this host's processor shows no flush of its L1 data cache"})
		}
		m.commands(x86.MSRFlushCmd, x86.FlushL1D)
	}},
}

// needsSpecCtrl is what the guest may set there.
func (m *machine) needsSpecCtrl() uint64 {
	bits := m.b.Capabilities().Controls.SpecCtrl
	if bits == 0 {
		panic(skip{"this host's processor shows neither IBRS, STIBP nor SSBD"})
	}
	return bits
}

// writeSpecCtrl begins a guest that writes x and reads it back.
func (m *machine) writeSpecCtrl(x uint64) {
	m.start(gWriteReadMSR)
	check(m, "SPEC_CTRL as loaded", m.cpu.Get(vcpu.SpecCtrl), 0)
	r := m.cpu.Regs()
	r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = x86.MSRSpecCtrl, x&0xffff_ffff, x>>32
}

// answerSpecCtrl runs it, and plays the VMM where the backend does not answer itself.
func (m *machine) answerSpecCtrl() vcpu.Reason {
	for {
		r := m.run()
		switch r {
		case vcpu.ExitWRMSR:
			if m.cpu.Set(vcpu.SpecCtrl, m.exit.Value) != nil {
				m.inject(vcpu.GP())
				continue
			}
		case vcpu.ExitRDMSR:
			x, g := m.cpu.Get(vcpu.SpecCtrl), &m.cpu.Regs().GPR
			g[vcpu.RAX], g[vcpu.RDX] = x&0xffff_ffff, x>>32
		default:
			return r
		}
		check(m, "MSR", m.exit.MSR, x86.MSRSpecCtrl)
		m.skip(2)
	}
}

// commands: the guest's write reaches the processor, and there is nothing to be read.
func (m *machine) commands(msr, order uint64) {
	m.start(gWriteMSR)
	r := m.cpu.Regs()
	r.GPR[vcpu.RCX], r.GPR[vcpu.RAX], r.GPR[vcpu.RDX] = msr, order, 0
	m.hlt()
	m.start(gMSR)
	m.cpu.Regs().GPR[vcpu.RCX] = msr
	check(m, "MSR", uint64(m.want(vcpu.ExitRDMSR).MSR), msr)
}

// specCtrls are the values of SPEC_CTRL on the host's CPUs.
func specCtrls() map[uint64]bool {
	var mu sync.Mutex
	seen := map[uint64]bool{}
	kernel.OnEachCPU(func(int) {
		if v, ok := kernel.ReadMSRSafe(x86.MSRSpecCtrl); ok {
			mu.Lock()
			seen[v] = true
			mu.Unlock()
		}
	})
	return seen
}
