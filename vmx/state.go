package vmx

import (
	"fmt"

	"godwit/vmm/vcpu"
)

// Save copies out all that the guest could observe.
func (v *VCPU) Save(s *vcpu.State) {
	v.need(gAll)
	s.Regs = v.frame.regs
	s.Reg = v.reg
	s.Reg[vcpu.CR2] = v.frame.cr2
	s.Reg[vcpu.DR0], s.Reg[vcpu.DR1], s.Reg[vcpu.DR2], s.Reg[vcpu.DR3] = v.dr.dr0, v.dr.dr1, v.dr.dr2, v.dr.dr3
	s.Reg[vcpu.DR6] = v.dr.dr6
	s.Seg = v.seg
	s.TSC = v.tscRatio.Guest(v.m.tsc()) + v.tscOffset
	s.Activity = v.activity
	s.STI = v.blocked&blockSTI != 0
	s.MovSS = v.blocked&blockMovSS != 0
	s.NMIBlock = v.blocked&blockNMI != 0
	s.Pending = v.event
	s.PDPTE = [4]uint64{}
	if paePaging(v.reg[vcpu.CR0], v.reg[vcpu.CR4], v.reg[vcpu.EFER]) {
		s.PDPTE = v.pdpte
	}
	s.XSAVE = v.s.layout.save(s.XSAVE, v.xarea.Data)

	// A debug trap that waits for the next entry becomes a queued #DB: the state
	// has no other word for it. In a shadow, Load's first entry finds it again.
	if d := v.pendingDebug; d&(pendingBS|pendingEnabled) != 0 && !v.event.Valid && !s.STI && !s.MovSS {
		s.Reg[vcpu.DR6] |= d & (pendingPoints | pendingBS)
		s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDB}
	}
}

// Load checks s whole, and only then changes anything.
func (v *VCPU) Load(s *vcpu.State) error {
	fail := func(err error) error {
		return fmt.Errorf("vmx: VCPU %d: state refused: %w", v.index, err)
	}
	if v.dead == errClosed {
		return errClosed
	}
	n := normal(s)
	c := candidate{regs: &n.Regs, reg: &n.Reg, seg: &n.Seg, pdpte: &n.PDPTE, blocked: blocking(s), event: n.Pending}
	if err := c.check(&v.s.cfg.CPUID, v.b.s); err != nil {
		return fail(err)
	}
	if s.Activity > vcpu.Shutdown {
		return fail(fmt.Errorf("activity %d", s.Activity))
	}
	if s.Regs.CR8 > 15 {
		return fail(fmt.Errorf("CR8 %#x has more than 4 bits", s.Regs.CR8))
	}
	if err := v.s.layout.check(s.XSAVE, v.s.mxcsr); err != nil {
		return fail(err)
	}

	v.frame.regs = n.Regs
	v.frame.cr2 = n.Reg[vcpu.CR2]
	v.reg, v.seg, v.pdpte = n.Reg, n.Seg, n.PDPTE
	v.dr = debugRegs{
		dr0: n.Reg[vcpu.DR0], dr1: n.Reg[vcpu.DR1], dr2: n.Reg[vcpu.DR2], dr3: n.Reg[vcpu.DR3],
		dr6: n.Reg[vcpu.DR6]&dr6Writable | dr6Ones,
	}
	v.reg[vcpu.DR7] = n.Reg[vcpu.DR7]&dr7Writable | dr7Ones
	v.drActive = v.reg[vcpu.DR7]&dr7Enables != 0
	v.setXCR0(n.Reg[vcpu.XCR0])
	v.setSpecCtrl(n.Reg[vcpu.SpecCtrl])
	v.s.layout.load(v.xarea.Data, s.XSAVE)
	v.blocked, v.blockedChanged = blocking(s), true
	v.pendingDebug, v.pendingStale = 0, true
	v.event = n.Pending
	v.activity = s.Activity
	v.SetTSCOffset(s.TSC - v.tscRatio.Guest(v.m.tsc()))
	v.have, v.changed = gAll, gAll
	v.loaded.rip, v.loaded.rsp, v.loaded.rflags = ^n.Regs.RIP, ^n.Regs.GPR[vcpu.RSP], ^n.Regs.RFLAGS
	v.touched = false
	v.lastCPU = nowhere // what is cached under its tag is another state's
	v.reloadMSRs()
	v.dead, v.trouble = nil, trouble{}
	return nil
}

func blocking(s *vcpu.State) (b uint64) {
	if s.STI {
		b |= blockSTI
	}
	if s.MovSS {
		b |= blockMovSS
	}
	if s.NMIBlock {
		b |= blockNMI
	}
	return b
}

// normal is s in VT-x's form, without its XSAVE area.
func normal(s *vcpu.State) vcpu.State {
	n := *s
	n.XSAVE = nil
	n.Reg[vcpu.CR0] |= cr0ET
	for i := range n.Seg {
		n.Seg[i] = normalSegment(vcpu.SegReg(i), n.Seg[i])
		if virtual86(&n.Regs, &n.Reg) && vcpu.SegReg(i) < vcpu.LDTR {
			n.Seg[i].Attr = attrV86 // AMD-V leaves the hidden parts as they were
		}
	}
	return n
}

// checkWhole repeats Load's checks after changes to single registers.
func (v *VCPU) checkWhole() error {
	v.need(gAll)
	if v.dead != nil {
		return v.dead
	}
	c := candidate{regs: &v.frame.regs, reg: &v.reg, seg: &v.seg, pdpte: &v.pdpte, blocked: v.blocked, event: v.event}
	return c.check(&v.s.cfg.CPUID, v.b.s)
}
