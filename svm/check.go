package svm

import (
	"encoding/binary"
	"fmt"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

func physMask(bits uint) uint64 { return 1<<bits - 1 }

// checkCR0 is what MOV to CR0 and VMRUN both refuse (APM 3.1.1, 15.5.1). Reserved
// bits below 32 are ignored by processors and kept here.
func checkCR0(x uint64) error {
	switch {
	case x>>32 != 0:
		return fmt.Errorf("svm: CR0 %#x: bits above 31", x)
	case x&cr0NW != 0 && x&cr0CD == 0:
		return fmt.Errorf("svm: CR0 %#x: NW without CD", x)
	case x&cr0PG != 0 && x&cr0PE == 0:
		return fmt.Errorf("svm: CR0 %#x: PG without PE", x)
	}
	return nil
}

// checkXCR0 is what XSETBV refuses (APM vol. 4, XSETBV).
func checkXCR0(x, allowed uint64) error {
	switch {
	case x&^allowed != 0:
		return fmt.Errorf("svm: XCR0 %#x: the CPU model has no components %#x", x, x&^allowed)
	case x&1 == 0:
		return fmt.Errorf("svm: XCR0 %#x: without x87", x)
	case x&4 != 0 && x&2 == 0:
		return fmt.Errorf("svm: XCR0 %#x: AVX without SSE", x)
	case x&0xe0 != 0 && x&0xe6 != 0xe6:
		return fmt.Errorf("svm: XCR0 %#x: AVX-512 in part", x)
	}
	return nil
}

// checkSegment is what no instruction could have loaded. VMRUN would rather sign-
// extend a base than refuse it (APM 15.5.1, "Canonicalization").
func checkSegment(r vcpu.SegReg, g vcpu.Segment) error {
	if r >= vcpu.NumSegs {
		return fmt.Errorf("svm: segment register %d", r)
	}
	if g.Attr&^(0xf0ff|vcpu.AttrUnusable) != 0 {
		return fmt.Errorf("svm: segment register %d: attributes %#x", r, g.Attr)
	}
	if !x86.Canonical(g.Base) {
		return fmt.Errorf("svm: segment register %d: base %#x is no canonical address", r, g.Base)
	}
	if r <= vcpu.DS && g.Base>>32 != 0 {
		return fmt.Errorf("svm: segment register %d: base %#x above 4 GiB", r, g.Base)
	}
	return nil
}

// checkState refuses what VMRUN or XRSTOR would (APM 15.5.1; vol. 4, XRSTOR).
func (v *VCPU) checkState(s *vcpu.State) error {
	pol, b := &v.space.cfg.CPUID, v.space.b
	reg := &s.Reg
	if err := checkCR0(reg[vcpu.CR0]); err != nil {
		return err
	}
	bad := func(name string, x, bits uint64) error {
		return fmt.Errorf("svm: %s %#x: bits %#x are not the CPU model's", name, x, bits)
	}
	if x := reg[vcpu.CR3] &^ physMask(pol.PhysBits); x != 0 {
		return bad("CR3", reg[vcpu.CR3], x)
	}
	if x := reg[vcpu.CR4] &^ pol.CR4; x != 0 {
		return bad("CR4", reg[vcpu.CR4], x)
	}
	efer := reg[vcpu.EFER]
	if x := efer &^ (pol.EFER | eferLMA); x != 0 {
		return bad("EFER", efer, x)
	}
	long := efer&eferLME != 0 && reg[vcpu.CR0]&cr0PG != 0
	if long != (efer&eferLMA != 0) {
		return fmt.Errorf("svm: EFER %#x with CR0 %#x: LMA is not LME and PG", efer, reg[vcpu.CR0])
	}
	if long && reg[vcpu.CR4]&cr4PAE == 0 {
		return fmt.Errorf("svm: long mode without CR4.PAE")
	}
	if cs := s.Seg[vcpu.CS].Attr; long && cs&vcpu.AttrL != 0 && cs&vcpu.AttrDB != 0 {
		return fmt.Errorf("svm: CS attributes %#x: L and D", cs)
	}
	if !long && reg[vcpu.CR4]&cr4PCIDE != 0 {
		return fmt.Errorf("svm: CR4.PCIDE outside long mode")
	}
	if err := checkXCR0(reg[vcpu.XCR0], pol.XCR0|1); err != nil {
		return err
	}
	if reg[vcpu.XSS] != 0 {
		return bad("IA32_XSS", reg[vcpu.XSS], reg[vcpu.XSS])
	}
	if reg[vcpu.DebugCtl] != 0 {
		return bad("DEBUGCTL", reg[vcpu.DebugCtl], reg[vcpu.DebugCtl])
	}
	if x := reg[vcpu.SpecCtrl] &^ pol.Controls.SpecCtrl; x != 0 {
		return bad("SPEC_CTRL", reg[vcpu.SpecCtrl], x)
	}
	for _, r := range []struct {
		name string
		r    vcpu.Reg
	}{{"DR6", vcpu.DR6}, {"DR7", vcpu.DR7}, {"TSC_AUX", vcpu.TSCAux}} {
		if reg[r.r]>>32 != 0 {
			return fmt.Errorf("svm: %s %#x: bits above 31", r.name, reg[r.r])
		}
	}
	if !x86.ValidPAT(reg[vcpu.PAT]) {
		return fmt.Errorf("svm: PAT %#x: a memory type that does not exist", reg[vcpu.PAT])
	}
	for _, r := range []struct {
		name string
		r    vcpu.Reg
	}{
		{"LSTAR", vcpu.LSTAR}, {"CSTAR", vcpu.CSTAR}, {"KernelGSBase", vcpu.KernelGSBase},
		{"SYSENTER_ESP", vcpu.SysenterESP}, {"SYSENTER_EIP", vcpu.SysenterEIP},
		{"GDTR", vcpu.GDTBase}, {"IDTR", vcpu.IDTBase},
	} {
		if !x86.Canonical(reg[r.r]) {
			return fmt.Errorf("svm: %s %#x is no canonical address", r.name, reg[r.r])
		}
	}
	if reg[vcpu.GDTLimit] > 0xffff || reg[vcpu.IDTLimit] > 0xffff {
		return fmt.Errorf("svm: descriptor table limits %#x, %#x", reg[vcpu.GDTLimit], reg[vcpu.IDTLimit])
	}
	for r, g := range s.Seg {
		if err := checkSegment(vcpu.SegReg(r), g); err != nil {
			return err
		}
	}
	if s.Regs.RFLAGS>>22 != 0 || s.Regs.CR8 > 15 {
		return fmt.Errorf("svm: RFLAGS %#x, CR8 %#x", s.Regs.RFLAGS, s.Regs.CR8)
	}
	if s.Activity > vcpu.Shutdown {
		return fmt.Errorf("svm: activity %d", s.Activity)
	}
	if err := checkEvent(s.Pending); err != nil {
		return err
	}
	return checkXSAVE(s.XSAVE, b, pol.XCR0|1)
}

// xsaveLeast is an XSAVE area's legacy part and header (SDM vol. 1, 13.4).
const xsaveLeast = 576

// checkXSAVE makes sure that XRSTOR, which runs in the host, can not fault. The area may
// be of a host with more components, as long as it does not hold one of those.
func checkXSAVE(x []byte, b *Backend, allowed uint64) error {
	if len(x) < xsaveLeast || len(x) > vcpu.XSAVEMax {
		return fmt.Errorf("svm: an XSAVE area of %d bytes; one has %d to %d", len(x), xsaveLeast, vcpu.XSAVEMax)
	}
	le := binary.LittleEndian
	bv := le.Uint64(x[512:])
	if bv&^allowed != 0 {
		return fmt.Errorf("svm: XSAVE area with components %#x; the CPU model has %#x", bv, allowed)
	}
	for i := 520; i < xsaveLeast; i++ {
		if x[i] != 0 {
			return fmt.Errorf("svm: byte %d of the XSAVE area's header is not zero", i)
		}
	}
	for i := uint(2); i < 64; i++ {
		if bv>>i&1 != 0 && int(b.component(i)) > len(x) {
			return fmt.Errorf("svm: XSAVE area of %d bytes holds only a part of component %d", len(x), i)
		}
	}
	if m := le.Uint32(x[24:]); m&^b.mxcsrMask != 0 {
		return fmt.Errorf("svm: MXCSR %#x: this host has the bits %#x", m, b.mxcsrMask)
	}
	return nil
}
