package emulate

import "godwit/vmm/vcpu"

// A descriptor is one of the GDT or an LDT (SDM vol. 3, 3.4.5). found says that the
// selector leads to one.
type descriptor struct {
	vcpu.Segment
	found bool
}

// globalDescriptor reads a descriptor of the GDT, and gives its linear address.
func (m *Emulator) globalDescriptor(s *vcpu.State, sel uint16) (descriptor, uint64, Outcome) {
	if sel&selLocal != 0 {
		return descriptor{}, 0, Done
	}
	return m.readDescriptor(s.Reg[vcpu.GDTBase], s.Reg[vcpu.GDTLimit], sel)
}

func (m *Emulator) readDescriptor(base, limit uint64, sel uint16) (d descriptor, at uint64, o Outcome) {
	if sel&selNumber == 0 || uint64(sel|7) > limit {
		return d, 0, Done
	}
	at = (base + uint64(sel&^7)) & 0xffffffff
	p, o := m.locate(at, 8, load)
	if o != Done {
		return d, at, o
	}
	x := m.load(&p)
	d.found = true
	d.Selector = sel
	d.Base = x>>16&0xffffff | x>>32&0xff000000
	d.Attr = uint32(x >> 40 & 0xf0ff)
	d.Limit = uint32(x&0xffff | x>>32&0xf0000)
	if d.Attr&vcpu.AttrG != 0 {
		d.Limit = d.Limit<<12 | 0xfff
	}
	return d, at, Done
}

// loadTask gives the new task its address space and segments. A fault is the new
// task's: what has been loaded by then stays (SDM vol. 3, 7.3, step 12).
func (m *Emulator) loadTask(t *vcpu.TaskSwitch, s *vcpu.State) Outcome {
	o := m.loadSpace(s)
	if o == Done {
		o = m.loadLDT(t, s)
	}
	if o == Done && s.Regs.RFLAGS&flagVM != 0 {
		for i := vcpu.ES; i <= vcpu.GS; i++ {
			sel := s.Seg[i].Selector
			s.Seg[i] = vcpu.Segment{Selector: sel, Base: uint64(sel) << 4, Limit: 0xffff, Attr: 0xf3}
		}
	} else if o == Done {
		for _, i := range [...]vcpu.SegReg{vcpu.CS, vcpu.SS, vcpu.DS, vcpu.ES, vcpu.FS, vcpu.GS} {
			if o = m.loadSegment(t, s, i); o != Done {
				break
			}
		}
	}
	if o != Done && s.Regs.RFLAGS&flagVM != 0 {
		// The fault is delivered from protected mode: there are no segments yet.
		s.Regs.RFLAGS &^= flagVM
	}
	return o
}

// loadSpace begins to use the new task's page tables. PAE's pointers become part of
// the state (SDM vol. 3, 4.4.1).
func (m *Emulator) loadSpace(s *vcpu.State) Outcome {
	m.mode.cr3 = s.Reg[vcpu.CR3]
	if m.mode.cr0&cr0PG == 0 || m.mode.cr4&cr4PAE == 0 {
		return Done
	}
	page := m.bus.Page(m.mode.cr3 & 0xfffff000)
	if page == nil {
		return m.tableOutside(m.mode.cr3)
	}
	const reserved = 0x1e6 | 0xfff<<52
	for i := range s.PDPTE {
		e := loadEntry(&page[m.mode.cr3&0xfe0+8*uint64(i)], true)
		if e&pteP != 0 && e&reserved != 0 {
			m.Fault = vcpu.GP()
			return Fault
		}
		s.PDPTE[i] = e
	}
	return Done
}

func (m *Emulator) loadLDT(t *vcpu.TaskSwitch, s *vcpu.State) Outcome {
	const ldt = 2
	sel := s.Seg[vcpu.LDTR].Selector
	if sel&selNumber == 0 {
		return Done
	}
	d, _, o := m.globalDescriptor(s, sel)
	if o != Done {
		return o
	}
	if !d.found || d.Attr&(0xf|vcpu.AttrS|vcpu.AttrP) != ldt|vcpu.AttrP {
		return m.refuse(t, vcpu.VecTS, sel)
	}
	s.Seg[vcpu.LDTR] = d.Segment
	return Done
}

// loadSegment makes the checks of SDM vol. 3, table 7-1, on one segment register of
// the new task, whose selector is in s. CS comes first: its RPL is the new privilege
// level.
func (m *Emulator) loadSegment(t *vcpu.TaskSwitch, s *vcpu.State, r vcpu.SegReg) Outcome {
	const (
		accessed = 1 << 0
		writable = 1 << 1 // of data; of code: readable
		conforms = 1 << 2
		code     = 1 << 3
		dpl      = 5
	)
	sel := s.Seg[r].Selector
	rpl, cpl := uint32(sel&3), uint32(s.Seg[vcpu.CS].Selector&3)
	if sel&selNumber == 0 {
		if r == vcpu.CS || r == vcpu.SS {
			return m.refuse(t, vcpu.VecTS, sel)
		}
		return Done
	}
	base, limit := s.Reg[vcpu.GDTBase], s.Reg[vcpu.GDTLimit]
	if sel&selLocal != 0 {
		g := &s.Seg[vcpu.LDTR]
		if g.Attr&vcpu.AttrUnusable != 0 {
			return m.refuse(t, vcpu.VecTS, sel)
		}
		base, limit = g.Base, uint64(g.Limit)
	}
	d, at, o := m.readDescriptor(base, limit, sel)
	if o != Done {
		return o
	}
	level := d.Attr >> dpl & 3
	ok, missing := d.found && d.Attr&vcpu.AttrS != 0, uint8(vcpu.VecNP)
	switch kind := d.Attr & (code | conforms | writable); {
	case !ok:
	case r == vcpu.CS:
		ok = kind&code != 0 && (kind&conforms == 0 && level == rpl || kind&conforms != 0 && level <= rpl)
	case r == vcpu.SS:
		ok = kind&(code|writable) == writable && rpl == cpl && level == cpl
		missing = vcpu.VecSS
	case kind&code != 0:
		ok = kind&writable != 0 && (kind&conforms != 0 || level >= max(rpl, cpl))
	default:
		ok = level >= max(rpl, cpl)
	}
	switch {
	case !ok:
		return m.refuse(t, vcpu.VecTS, sel)
	case d.Attr&vcpu.AttrP == 0:
		return m.refuse(t, missing, sel)
	}
	if d.Attr&accessed == 0 {
		p, o := m.locate(at+5, 1, store)
		if o != Done {
			return o
		}
		m.store(&p, m.load(&p)|accessed)
		d.Attr |= accessed
	}
	s.Seg[r] = d.Segment
	if ss := &s.Seg[vcpu.SS]; r == vcpu.CS && ss.Attr>>dpl&3 != rpl {
		// Until SS is loaded the old task's stack serves, but not at another level.
		*ss = vcpu.Segment{Selector: ss.Selector, Attr: vcpu.AttrUnusable | rpl<<dpl}
	}
	return Done
}
