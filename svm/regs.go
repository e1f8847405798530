package svm

import (
	"fmt"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// Get reads one of the less common registers.
func (v *VCPU) Get(r vcpu.Reg) uint64 {
	s := &v.vm.save
	switch r {
	case vcpu.DR0, vcpu.DR1, vcpu.DR2, vcpu.DR3:
		return v.dr[r-vcpu.DR0]
	case vcpu.XCR0:
		return v.gxcr0
	case vcpu.CR4:
		return v.cr4()
	case vcpu.XSS:
		return v.xss
	case vcpu.EFER:
		return s.efer &^ eferSVME
	case vcpu.TSCAux:
		return v.tscAux
	case vcpu.SpecCtrl:
		return v.specCtrl
	case vcpu.GDTLimit:
		return uint64(s.gdtr.limit)
	case vcpu.IDTLimit:
		return uint64(s.idtr.limit)
	}
	if p := s.field(r); p != nil {
		return *p
	}
	panic(fmt.Sprintf("svm: Get of register %d, which is none", r))
}

// field is where the VMCB holds a register of 64 bits as it is.
func (s *save) field(r vcpu.Reg) *uint64 {
	switch r {
	case vcpu.CR0:
		return &s.cr0
	case vcpu.CR2:
		return &s.cr2
	case vcpu.CR3:
		return &s.cr3
	case vcpu.CR4:
		return &s.cr4
	case vcpu.DR6:
		return &s.dr6
	case vcpu.DR7:
		return &s.dr7
	case vcpu.PAT:
		return &s.pat
	case vcpu.STAR:
		return &s.star
	case vcpu.LSTAR:
		return &s.lstar
	case vcpu.CSTAR:
		return &s.cstar
	case vcpu.SFMASK:
		return &s.sfmask
	case vcpu.KernelGSBase:
		return &s.kernelGSBase
	case vcpu.SysenterCS:
		return &s.sysenterCS
	case vcpu.SysenterESP:
		return &s.sysenterESP
	case vcpu.SysenterEIP:
		return &s.sysenterEIP
	case vcpu.DebugCtl:
		return &s.debugCtl
	case vcpu.GDTBase:
		return &s.gdtr.base
	case vcpu.IDTBase:
		return &s.idtr.base
	}
	return nil
}

// Set writes a register after the checks that the guest's own instruction would
// undergo; the error says what would have faulted.
func (v *VCPU) Set(r vcpu.Reg, x uint64) error {
	s := &v.vm.save
	pol := &v.space.cfg.CPUID
	switch r {
	case vcpu.CR0:
		if err := checkCR0(x); err != nil {
			return err
		}
		long := s.efer&eferLME != 0
		if x&cr0PG != 0 && s.cr0&cr0PG == 0 && long && s.cr4&cr4PAE == 0 {
			return fmt.Errorf("svm: CR0 %#x: paging in long mode needs CR4.PAE", x)
		}
		if x&cr0PG == 0 && s.cr4&cr4PCIDE != 0 {
			return fmt.Errorf("svm: CR0 %#x: paging off with CR4.PCIDE set", x)
		}
		s.cr0 = x | 1<<4
		s.efer &^= eferLMA
		if long && x&cr0PG != 0 {
			s.efer |= eferLMA
		}
		v.flush = true
	case vcpu.CR3:
		if x &^= 1 << 63; x&^physMask(pol.PhysBits) != 0 { // bit 63: keep the PCID's translations
			return fmt.Errorf("svm: CR3 %#x: bits above the %d of a physical address", x, pol.PhysBits)
		}
		s.cr3 = x
		v.flush = true
	case vcpu.CR4:
		if bad := x &^ pol.CR4; bad != 0 {
			return fmt.Errorf("svm: CR4 %#x: the CPU model has no bits %#x", x, bad)
		}
		if s.efer&eferLMA != 0 && x&cr4PAE == 0 {
			return fmt.Errorf("svm: CR4 %#x: PAE off in long mode", x)
		}
		if x&cr4PCIDE != 0 && s.cr4&cr4PCIDE == 0 && (s.efer&eferLMA == 0 || s.cr3&0xfff != 0) {
			return fmt.Errorf("svm: CR4 %#x: PCIDE on outside long mode or with CR3 %#x", x, s.cr3)
		}
		v.setCR4(x)
		v.flush = true
	case vcpu.EFER:
		if bad := x &^ (pol.EFER | eferLMA); bad != 0 {
			return fmt.Errorf("svm: EFER %#x: the CPU model has no bits %#x", x, bad)
		}
		if s.cr0&cr0PG != 0 && (x^s.efer)&eferLME != 0 {
			return fmt.Errorf("svm: EFER %#x: LME changed with paging on", x)
		}
		s.efer = x&^eferLMA | s.efer&eferLMA | eferSVME
		v.flush = true
	case vcpu.XCR0:
		if err := checkXCR0(x, pol.XCR0); err != nil {
			return err
		}
		v.gxcr0 = x
	case vcpu.XSS:
		if x != 0 {
			return fmt.Errorf("svm: IA32_XSS %#x: the CPU model has no supervisor components", x)
		}
	case vcpu.DR0, vcpu.DR1, vcpu.DR2, vcpu.DR3:
		v.dr[r-vcpu.DR0] = x
	case vcpu.DR6, vcpu.DR7:
		if x>>32 != 0 {
			return fmt.Errorf("svm: DR%d %#x: bits above 31", 6+r-vcpu.DR6, x)
		}
		if r == vcpu.DR6 {
			s.dr6 = x&^(1<<12) | 0xffff0ff0
		} else {
			s.dr7 = x&^0xd000 | 0x400
			v.asked = true // for breakpoints
		}
	case vcpu.PAT:
		if !x86.ValidPAT(x) {
			return fmt.Errorf("svm: PAT %#x: a memory type that does not exist", x)
		}
		s.pat = x
	case vcpu.TSCAux:
		if x>>32 != 0 {
			return fmt.Errorf("svm: TSC_AUX %#x: bits above 31", x)
		}
		v.tscAux = x
	case vcpu.SpecCtrl:
		if bad := x &^ pol.Controls.SpecCtrl; bad != 0 {
			return fmt.Errorf("svm: SPEC_CTRL %#x: the CPU model has no bits %#x", x, bad)
		}
		v.setSpecCtrl(x)
	case vcpu.DebugCtl:
		if x != 0 {
			return fmt.Errorf("svm: DEBUGCTL %#x: the CPU model has no branch records", x)
		}
	case vcpu.GDTLimit, vcpu.IDTLimit:
		if x > 0xffff {
			return fmt.Errorf("svm: a descriptor table limit of %#x", x)
		}
		if r == vcpu.GDTLimit {
			s.gdtr.limit = uint32(x)
		} else {
			s.idtr.limit = uint32(x)
		}
	case vcpu.LSTAR, vcpu.CSTAR, vcpu.KernelGSBase, vcpu.SysenterESP, vcpu.SysenterEIP, vcpu.GDTBase, vcpu.IDTBase:
		if !x86.Canonical(x) {
			return fmt.Errorf("svm: register %d: %#x is no canonical address", r, x)
		}
		*s.field(r) = x
	case vcpu.CR2, vcpu.STAR, vcpu.SFMASK, vcpu.SysenterCS:
		*s.field(r) = x
	default:
		panic(fmt.Sprintf("svm: Set of register %d, which is none", r))
	}
	v.clean &^= cleanCR | cleanDR | cleanDT | cleanCR2 | cleanNP
	return nil
}

// Segment reads a segment register.
func (v *VCPU) Segment(r vcpu.SegReg) vcpu.Segment {
	g := fromHardware(*v.vm.seg(r), r)
	if r == vcpu.SS {
		// The processor keeps CPL apart and SS.DPL may be stale.
		g.Attr = g.Attr&^0x60 | uint32(v.vm.cpl)<<5
	}
	return g
}

// SetSegment writes one; SS.DPL becomes the privilege level.
func (v *VCPU) SetSegment(r vcpu.SegReg, g vcpu.Segment) error {
	if err := checkSegment(r, g); err != nil {
		return err
	}
	*v.vm.seg(r) = toHardware(g)
	if r == vcpu.SS {
		v.vm.cpl = uint8(g.Attr >> 5 & 3)
	}
	v.clean &^= cleanSeg
	return nil
}

func (m *vmcb) seg(r vcpu.SegReg) *segment {
	switch r {
	case vcpu.LDTR:
		return &m.ldtr
	case vcpu.TR:
		return &m.tr
	}
	return &m.save.seg[r]
}

// toHardware packs attributes as the VMCB has them: 15:12 follow 7:0. Unusable is
// a segment that is not present (APM 15.5.1, "Segment State in the VMCB").
func toHardware(g vcpu.Segment) segment {
	a := uint16(g.Attr&0xff | g.Attr>>4&0xf00)
	if g.Attr&vcpu.AttrUnusable != 0 {
		a &^= vcpu.AttrP
	}
	return segment{g.Selector, a, g.Limit, g.Base}
}

// fromHardware also puts G right, which AMD does not keep: a limit says which it is
// (VT-x insists, SDM vol. 3, section 27.3.1.2).
func fromHardware(h segment, r vcpu.SegReg) vcpu.Segment {
	g := vcpu.Segment{Selector: h.selector, Attr: uint32(h.attr)&0xff | uint32(h.attr)&0xf00<<4, Limit: h.limit, Base: h.base}
	switch {
	case g.Limit > 0xfffff:
		g.Attr |= vcpu.AttrG
	case g.Limit&0xfff != 0xfff:
		g.Attr &^= vcpu.AttrG
	}
	switch {
	case r == vcpu.TR:
		g.Attr |= 2 // busy: TCG's own task switches leave it as it was in memory before
	case r < vcpu.LDTR && g.Attr&vcpu.AttrS != 0:
		// Accessed, as loading it made it in memory, whether a processor keeps that here or
		// not: VT-x insists on this, too.
		g.Attr |= 1
	}
	if g.Attr&vcpu.AttrP == 0 && r != vcpu.CS && r != vcpu.TR {
		g.Attr = g.Attr&^vcpu.AttrDB | vcpu.AttrUnusable // D/B may be left of the segment before
	}
	return g
}
