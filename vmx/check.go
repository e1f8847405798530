package vmx

import (
	"fmt"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A candidate is a state that is to be entered.
type candidate struct {
	regs    *vcpu.Regs
	reg     *[vcpu.NumRegs]uint64
	seg     *[vcpu.NumSegs]vcpu.Segment
	pdpte   *[4]uint64
	blocked uint64
	event   vcpu.Event
}

// check makes the checks on the guest-state area that the hardware makes at VM
// entry, in the order of SDM vol. 3, 26.3.1, and those of the CPU model. What this
// package writes itself (NE, VMXE, the activity state, the link pointer) is right
// by construction.
func (c *candidate) check(p *vcpu.Policy, s *silicon) error {
	for _, f := range []func(*vcpu.Policy, *silicon) error{
		c.checkControl, c.checkSegments, c.checkFlags, c.checkBlocking, c.checkPDPTE,
	} {
		if err := f(p, s); err != nil {
			return err
		}
	}
	return checkEvent(&c.event, s.zeroLength)
}

// 26.3.1.1: control registers, debug registers, MSRs; and 26.3.1.3, descriptor-table
// registers.
func (c *candidate) checkControl(p *vcpu.Policy, s *silicon) error {
	r := c.reg
	cr0, cr4, efer := r[vcpu.CR0], r[vcpu.CR4], r[vcpu.EFER]
	const known = cr0Own | cr0ET | cr0NE | cr0NW | cr0CD
	switch {
	case cr0&^known != 0:
		return fmt.Errorf("CR0 %#x: reserved bits %#x", cr0, cr0&^known)
	case cr0&cr0PG != 0 && cr0&cr0PE == 0:
		return fmt.Errorf("CR0 %#x: PG without PE", cr0)
	case cr0&cr0NW != 0 && cr0&cr0CD == 0:
		return fmt.Errorf("CR0 %#x: NW without CD", cr0)
	case cr4&^p.CR4 != 0:
		return fmt.Errorf("CR4 %#x: the CPU model lacks bits %#x", cr4, cr4&^p.CR4)
	case efer&^(p.EFER|eferLMA) != 0:
		return fmt.Errorf("EFER %#x: the CPU model lacks bits %#x", efer, efer&^(p.EFER|eferLMA))
	case (efer&eferLMA != 0) != (efer&eferLME != 0 && cr0&cr0PG != 0):
		return fmt.Errorf("EFER %#x with CR0 %#x: LMA must be LME and PG", efer, cr0)
	case efer&eferLMA != 0 && cr4&cr4PAE == 0:
		return fmt.Errorf("CR4 %#x: IA-32e mode without PAE", cr4)
	case efer&eferLMA == 0 && cr4&cr4PCIDE != 0:
		return fmt.Errorf("CR4 %#x: PCIDE outside IA-32e mode", cr4)
	case r[vcpu.CR3]>>s.physBits != 0:
		return fmt.Errorf("CR3 %#x: beyond %d physical-address bits", r[vcpu.CR3], s.physBits)
	}
	for i := range vcpu.NumRegs {
		if i == vcpu.XCR0 && p.XCR0 == 0 {
			continue // what it is makes no difference
		}
		if f := checkPlain(i, r[i], p); f != fine {
			return f.err(i, r[i])
		}
	}
	return nil
}

func (c *candidate) long() bool   { return c.reg[vcpu.EFER]&eferLMA != 0 }
func (c *candidate) code64() bool { return c.long() && c.seg[vcpu.CS].Attr&vcpu.AttrL != 0 }

// Names of the segment registers.
var segNames = [vcpu.NumSegs]string{"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"}

const (
	attrType     = 0xf
	attrDPL      = 3 << 5
	attrReserved = 0xfffe0f00
	attrV86      = 0xf3
)

// Descriptor types (SDM vol. 3, tables 3-1 and 3-2).
const (
	typeAccessed = 1 << 0
	typeReadable = 1 << 1 // of code; of data: writable
	typeCode     = 1 << 3
	typeData3    = 3
	typeLDT      = 2
	typeTSS16    = 3
	typeTSS      = 11
)

func usable(g *vcpu.Segment) bool { return g.Attr&vcpu.AttrUnusable == 0 }

// normalSegment brings a segment's hidden part into the form VT-x wants, where
// AMD-V and VT-x say the same in different ways: a segment that is not present is
// unusable, and the limit tells the granularity.
func normalSegment(s vcpu.SegReg, g vcpu.Segment) vcpu.Segment {
	if s != vcpu.CS && s != vcpu.TR && g.Attr&vcpu.AttrP == 0 {
		g.Attr |= vcpu.AttrUnusable
	}
	switch {
	case g.Limit>>20 != 0:
		g.Attr |= vcpu.AttrG
	case g.Limit&0xfff != 0xfff:
		g.Attr &^= vcpu.AttrG
	}
	return g
}

// checkHidden makes those checks of 26.3.1.2 that concern one segment only.
func checkHidden(s vcpu.SegReg, g *vcpu.Segment) error {
	n, t := segNames[s], g.Attr&attrType
	if s == vcpu.CS || s == vcpu.TR {
		if !usable(g) {
			return fmt.Errorf("%s is unusable", n)
		}
	}
	switch s {
	case vcpu.FS, vcpu.GS, vcpu.TR: // whether usable or not
		if !x86.Canonical(g.Base) {
			return fmt.Errorf("%s base %#x is not canonical", n, g.Base)
		}
	}
	if !usable(g) {
		return nil
	}
	switch s {
	case vcpu.LDTR:
		if !x86.Canonical(g.Base) {
			return fmt.Errorf("%s base %#x is not canonical", n, g.Base)
		}
	case vcpu.CS, vcpu.SS, vcpu.DS, vcpu.ES:
		if g.Base>>32 != 0 {
			return fmt.Errorf("%s base %#x has more than 32 bits", n, g.Base)
		}
	}
	switch {
	case g.Attr&attrReserved != 0:
		return fmt.Errorf("%s access rights %#x: reserved bits", n, g.Attr)
	case g.Attr&vcpu.AttrP == 0:
		return fmt.Errorf("%s access rights %#x: not present", n, g.Attr)
	case g.Limit&0xfff != 0xfff && g.Attr&vcpu.AttrG != 0:
		return fmt.Errorf("%s limit %#x is not one of 4 KiB granularity", n, g.Limit)
	case g.Limit>>20 != 0 && g.Attr&vcpu.AttrG == 0:
		return fmt.Errorf("%s limit %#x is not one of byte granularity", n, g.Limit)
	case (g.Attr&vcpu.AttrS != 0) != (s < vcpu.LDTR):
		return fmt.Errorf("%s access rights %#x: S is wrong", n, g.Attr)
	}
	bad := false
	switch s {
	case vcpu.CS:
		bad = t != typeData3 && t&(typeCode|typeAccessed) != typeCode|typeAccessed ||
			t == typeData3 && g.Attr&attrDPL != 0
	case vcpu.SS:
		bad = t != 3 && t != 7
	case vcpu.LDTR:
		bad = t != typeLDT
	case vcpu.TR:
		bad = t != typeTSS && t != typeTSS16
	default:
		bad = t&typeAccessed == 0 || t&typeCode != 0 && t&typeReadable == 0
	}
	if bad {
		return fmt.Errorf("%s access rights %#x: type %d", n, g.Attr, t)
	}
	switch s {
	case vcpu.LDTR, vcpu.TR:
		if g.Selector&4 != 0 {
			return fmt.Errorf("%s selector %#x points into the LDT", n, g.Selector)
		}
	}
	return nil
}

func virtual86(r *vcpu.Regs, reg *[vcpu.NumRegs]uint64) bool {
	return r.RFLAGS&flagVM != 0 && reg[vcpu.CR0]&cr0PE != 0 && reg[vcpu.EFER]&eferLMA == 0
}

// 26.3.1.2: segment registers.
func (c *candidate) checkSegments(*vcpu.Policy, *silicon) error {
	v86 := virtual86(c.regs, c.reg)
	for i := range c.seg {
		s, g := vcpu.SegReg(i), &c.seg[i]
		if v86 && s < vcpu.LDTR {
			if g.Base != uint64(g.Selector)<<4 || g.Limit != 0xffff || g.Attr != attrV86 {
				return fmt.Errorf("%s %+v is not one of virtual-8086 mode", segNames[s], *g)
			}
			continue
		}
		if err := checkHidden(s, g); err != nil {
			return err
		}
	}
	cs, ss := &c.seg[vcpu.CS], &c.seg[vcpu.SS]
	csDPL, ssDPL := cs.Attr&attrDPL, ss.Attr&attrDPL
	switch t := cs.Attr & attrType; {
	case v86:
	case (t == 9 || t == 11) && csDPL != ssDPL:
		return fmt.Errorf("CS access rights %#x, SS %#x: the privilege levels differ", cs.Attr, ss.Attr)
	case (t == 13 || t == 15) && csDPL > ssDPL:
		return fmt.Errorf("CS access rights %#x, SS %#x: conforming code of a higher level", cs.Attr, ss.Attr)
	case (t == typeData3 || c.reg[vcpu.CR0]&cr0PE == 0) && ssDPL != 0:
		return fmt.Errorf("SS access rights %#x: privilege level not 0 in real mode", ss.Attr)
	}
	if c.code64() && cs.Attr&vcpu.AttrDB != 0 {
		return fmt.Errorf("CS access rights %#x: L and D", cs.Attr)
	}
	if tr := &c.seg[vcpu.TR]; c.long() && tr.Attr&attrType != typeTSS {
		return fmt.Errorf("TR access rights %#x: IA-32e mode needs a busy 64-bit TSS", tr.Attr)
	}
	return nil
}

// 26.3.1.4: RIP, RFLAGS.
func (c *candidate) checkFlags(*vcpu.Policy, *silicon) error {
	rip, flags := c.regs.RIP, c.regs.RFLAGS
	switch {
	case !c.code64() && rip>>32 != 0:
		return fmt.Errorf("RIP %#x has more than 32 bits outside 64-bit mode", rip)
	case !ripFits(rip):
		return fmt.Errorf("RIP %#x is not canonical", rip)
	case flags&flagReserved != 0 || flags&flagOnes == 0:
		return fmt.Errorf("RFLAGS %#x: reserved bits", flags)
	case flags&flagVM != 0 && (c.long() || c.reg[vcpu.CR0]&cr0PE == 0):
		return fmt.Errorf("RFLAGS %#x: VM in real or IA-32e mode", flags)
	case c.event.Valid && c.event.Type == vcpu.EventInterrupt && flags&flagIF == 0:
		return fmt.Errorf("RFLAGS %#x: an external interrupt is pending delivery, and IF is 0", flags)
	}
	return nil
}

// 26.3.1.5: interruptibility.
func (c *candidate) checkBlocking(*vcpu.Policy, *silicon) error {
	shadow := c.blocked & (blockSTI | blockMovSS)
	switch {
	case shadow == blockSTI|blockMovSS:
		return fmt.Errorf("shadows of STI and of MOV SS at the same time")
	case shadow == blockSTI && c.regs.RFLAGS&flagIF == 0:
		return fmt.Errorf("RFLAGS %#x: a shadow of STI, and IF is 0", c.regs.RFLAGS)
	case !c.event.Valid:
	case c.event.Type == vcpu.EventInterrupt && shadow != 0:
		return fmt.Errorf("an external interrupt is pending delivery in a shadow of STI or MOV SS")
	case c.event.Type == vcpu.EventNMI && c.blocked != 0:
		return fmt.Errorf("an NMI is pending delivery while NMIs are blocked")
	}
	return nil
}

// 26.3.1.6: page-directory-pointer-table entries.
func (c *candidate) checkPDPTE(_ *vcpu.Policy, s *silicon) error {
	if !paePaging(c.reg[vcpu.CR0], c.reg[vcpu.CR4], c.reg[vcpu.EFER]) {
		return nil
	}
	for i, e := range c.pdpte {
		if e&1 != 0 && (e&0x1e6 != 0 || e>>s.physBits != 0) {
			return fmt.Errorf("PDPTE %d %#x: reserved bits", i, e)
		}
	}
	return nil
}

// 26.2.1.3: event injection.
func checkEvent(e *vcpu.Event, zeroLength bool) error {
	if !e.Valid {
		return nil
	}
	soft := false
	switch e.Type {
	case vcpu.EventInterrupt:
	case vcpu.EventNMI:
		if e.Vector != 2 {
			return fmt.Errorf("event: NMI with vector %d", e.Vector)
		}
	case vcpu.EventException:
		if e.Vector > 31 {
			return fmt.Errorf("event: exception %d", e.Vector)
		}
	case vcpu.EventSoft:
		soft = true
	case vcpu.EventPrivSoft:
		soft = true
		if e.Vector != vcpu.VecDB {
			return fmt.Errorf("event: INT1 with vector %d", e.Vector)
		}
	case vcpu.EventSoftExc:
		soft = true
		if e.Vector != vcpu.VecBP && e.Vector != 4 {
			return fmt.Errorf("event: INT3 or INTO with vector %d", e.Vector)
		}
	default:
		return fmt.Errorf("event: there is no type %d", e.Type)
	}
	switch {
	case e.HasError && (e.Type != vcpu.EventException || !hasError(e.Vector)):
		return fmt.Errorf("event: vector %d of type %d has no error code", e.Vector, e.Type)
	case e.HasError && e.Error>>16 != 0:
		return fmt.Errorf("event: error code %#x has more than 16 bits", e.Error)
	case soft && (e.Len > 15 || e.Len == 0 && !zeroLength):
		return fmt.Errorf("event: instruction length %d", e.Len)
	}
	return nil
}
