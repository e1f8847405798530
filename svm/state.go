package svm

import (
	"encoding/binary"

	"godwit/vmm/vcpu"
)

// Save copies all that the guest could observe.
func (v *VCPU) Save(s *vcpu.State) {
	s.Regs = v.regs
	for r := vcpu.Reg(0); r < vcpu.NumRegs; r++ {
		s.Reg[r] = v.Get(r)
	}
	for r := vcpu.SegReg(0); r < vcpu.NumSegs; r++ {
		s.Seg[r] = v.Segment(r)
	}
	s.TSC = v.tscRatio.Guest(tsc()) + v.vm.tscOffset
	s.Activity = v.activity
	// There is one shadow for STI and MOV SS here; only the latter can be with
	// IF clear, and VT-x insists on that (SDM vol. 3, section 27.3.1.5).
	s.STI = v.shadow() && s.Regs.RFLAGS&flagIF != 0
	s.MovSS = v.shadow() && !s.STI
	s.NMIBlock = v.nmiBlocked
	s.Pending = v.pending
	s.PDPTE = v.pdptes()
	v.saveXSAVE(s)
}

// saveXSAVE: components that the host has and the CPU model lacks are switched too, to
// keep the host's own from the guest. They are no part of its state: a host without
// them takes it.
func (v *VCPU) saveXSAVE(s *vcpu.State) {
	b, model := v.space.b, v.space.cfg.CPUID.XCR0|1
	n := uint32(xsaveLeast)
	for i := uint(2); i < 64; i++ {
		if model>>i&1 != 0 {
			n = max(n, b.component(i))
		}
	}
	s.XSAVE = append(s.XSAVE[:0], v.area.Data[:n]...)
	le := binary.LittleEndian
	held := le.Uint64(s.XSAVE[512:]) & model
	le.PutUint64(s.XSAVE[512:], held)
	// What was never used in a component reads as its initial values.
	for i := uint(2); i < 64; i++ {
		if from, end := b.xoffset[i], b.component(i); from < n && held>>i&1 == 0 {
			clear(s.XSAVE[from:min(end, n)])
		}
	}
}

// Load sets it after checking it whole.
func (v *VCPU) Load(s *vcpu.State) error {
	if err := v.checkState(s); err != nil {
		return err
	}
	m := v.vm
	v.regs = s.Regs
	v.regs.RFLAGS |= 2
	for r := vcpu.Reg(0); r < vcpu.NumRegs; r++ {
		if p := m.save.field(r); p != nil {
			*p = s.Reg[r]
		}
	}
	m.cr0 |= 1 << 4
	v.setCR4(s.Reg[vcpu.CR4])
	m.efer = s.Reg[vcpu.EFER] | eferSVME
	m.gdtr.limit, m.idtr.limit = uint32(s.Reg[vcpu.GDTLimit]), uint32(s.Reg[vcpu.IDTLimit])
	copy(v.dr[:], s.Reg[vcpu.DR0:vcpu.DR3+1])
	v.gxcr0, v.xss, v.tscAux = s.Reg[vcpu.XCR0], 0, s.Reg[vcpu.TSCAux]
	for r := range s.Seg {
		*m.seg(vcpu.SegReg(r)) = toHardware(s.Seg[r])
	}
	m.cpl = uint8(s.Seg[vcpu.SS].Attr >> 5 & 3)
	m.tscOffset = s.TSC - v.tscRatio.Guest(tsc())
	m.shadow = 0
	if s.STI || s.MovSS {
		m.shadow = 1
	}
	v.setSpecCtrl(s.Reg[vcpu.SpecCtrl])
	v.activity = s.Activity
	v.nmiBlocked, v.stepping = s.NMIBlock, false
	v.pending, v.injected, v.asked = s.Pending, vcpu.Event{}, true
	clear(v.area.Data)
	copy(v.area.Data, s.XSAVE)
	v.shareDR(false)
	v.clean, v.flush = 0, true
	return nil
}
