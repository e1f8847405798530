package emulate

import (
	"fmt"

	"godwit/vmm/vcpu"
)

// Hardware task switches (SDM vol. 3, chapter 7; APM vol. 2, chapter 12). Both vendors
// leave them to the VMM, after the checks of privilege, of the selector and of the
// descriptor (SDM vol. 3, 25.4.2; APM vol. 2, 15.14.1). What another processor could
// have changed since is checked again.

// A layout is where a kind of TSS has what a switch moves (SDM vol. 3, figures 7-2
// and 7-10).
type layout struct {
	word     uint8 // size of a register in it
	limit    uint8 // the smallest of a TSS
	first    uint8 // what the processor saves begins here, with the instruction pointer
	segments uint8 // ES; the others follow
	nsegs    uint8 // 16-bit tasks have no FS and GS
	ldt      uint8
}

var (
	layout16 = layout{word: 2, limit: 0x2b, first: 0x0e, segments: 0x22, nsegs: 4, ldt: 0x2a}
	layout32 = layout{word: 4, limit: 0x67, first: 0x20, segments: 0x48, nsegs: 6, ldt: 0x60}
)

const (
	tssCR3  = 0x1c // 32-bit TSSs only
	tssTrap = 0x64

	typeTSS  = 1      // with
	typeBusy = 1 << 1 // and
	typeWide = 1 << 3 // for 32 bits

	flagNT = 1 << 14
	flagRF = 1 << 16
	// flagsKnown are all of EFLAGS that is not reserved (SDM vol. 1, figure 3-8).
	flagsKnown = 0x3f7fd5

	cr0TS     = 1 << 3
	dr6BT     = 1 << 15
	dr7Local  = 1<<0 | 1<<2 | 1<<4 | 1<<6 | 1<<8 // L0 to L3, LE
	selLocal  = 1 << 2                           // of a selector: in the LDT
	selNumber = 0xfffc                           // of a selector: as in error codes
)

// TaskSwitch carries out the switch that an exit was for. length is that of the
// instruction behind it, if there is one; 0 if the hardware does not tell.
//
// Outcome Fault before the switch leaves everything as it was; after it, the fault is
// the new task's. That task's debug trap comes as a Fault, too.
func (m *Emulator) TaskSwitch(t *vcpu.TaskSwitch, length uint8) Outcome {
	m.look()
	r := m.cpu.Regs()
	if m.mode.efer&eferLMA != 0 || m.mode.cr0&cr0PE == 0 {
		m.Err = fmt.Errorf("emulate: a task switch to TSS %#x at RIP %#x, where no processor makes one", t.Selector, r.RIP)
		return Unhandled
	}
	next := r.RIP
	if t.Insn {
		if length == 0 {
			e, o := m.fetch()
			if o != Done {
				return o
			}
			length = e.in.len
		}
		next = (next + uint64(length)) & mask(m.mode.bits/8)
	}
	m.mode.cpl, m.mode.implicit = 0, true
	s := &m.state
	m.cpu.Save(s)
	if o := m.switchTask(t, s, next); o != Done {
		return m.during(t, o)
	}
	o := m.loadTask(t, s)

	offset := m.cpu.TSCOffset()
	if err := m.cpu.Load(s); err != nil {
		m.Err = fmt.Errorf("emulate: the state of the task with TSS %#x: %w", t.Selector, err)
		return Unhandled
	}
	m.cpu.SetTSCOffset(offset)
	if o == Done && t.Event.Valid && t.Event.HasError {
		o = m.pushError(t, s.Seg[vcpu.TR].Attr&typeWide != 0)
	}
	if o == Done && r.RIP > uint64(s.Seg[vcpu.CS].Limit) {
		m.Fault = vcpu.GP()
		o = Fault
	}
	if o == Fault {
		return m.during(t, o)
	}
	if o == Done && m.buf[tssTrap]&1 != 0 && s.Seg[vcpu.TR].Attr&typeWide != 0 {
		// The T flag: a trap before the new task's first instruction (SDM vol. 3,
		// 17.3.1.5).
		if err := m.cpu.Set(vcpu.DR6, m.cpu.Get(vcpu.DR6)|dr6BT); err != nil {
			m.Err = err
			return Unhandled
		}
		m.Fault = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDB}
		return Fault
	}
	return o
}

// external is the EXT bit of an error code: an event that no instruction asked for
// was being delivered (SDM vol. 3, 6.13).
func external(t *vcpu.TaskSwitch) uint32 {
	if t.Event.Valid && !t.Insn && t.Event.Type != vcpu.EventSoft {
		return 1
	}
	return 0
}

// refuse makes a fault that names a selector.
func (m *Emulator) refuse(t *vcpu.TaskSwitch, vector uint8, sel uint16) Outcome {
	m.Fault = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vector, HasError: true, Error: uint32(sel)&selNumber | external(t)}
	return Fault
}

// during combines a fault with the exception whose delivery it ended (SDM vol. 3,
// tables 6-4 and 6-5).
func (m *Emulator) during(t *vcpu.TaskSwitch, o Outcome) Outcome {
	e := &t.Event
	if o != Fault || !e.Valid || e.Type != vcpu.EventException {
		return o
	}
	second := m.Fault.Vector
	switch {
	case e.Vector == vcpu.VecDF && (contributory(second) || second == vcpu.VecPF):
		return Shutdown
	case contributory(e.Vector) && contributory(second),
		e.Vector == vcpu.VecPF && (contributory(second) || second == vcpu.VecPF):
		m.Fault = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDF, HasError: true}
	}
	return o
}

func contributory(vector uint8) bool {
	return vector == vcpu.VecDE || vector >= vcpu.VecTS && vector <= vcpu.VecGP
}

// switchTask checks everything that can be checked in the old task, saves that, and
// makes s the new one, but for its segments (SDM vol. 3, 7.3). The new TSS is in m.buf
// then.
func (m *Emulator) switchTask(t *vcpu.TaskSwitch, s *vcpu.State, next uint64) Outcome {
	iret, nested := t.Cause == vcpu.TaskIRET, t.Cause == vcpu.TaskCall || t.Cause == vcpu.TaskGate
	bad := uint8(vcpu.VecGP)
	if iret {
		bad = vcpu.VecTS
	}
	d, dat, o := m.globalDescriptor(s, t.Selector)
	switch {
	case o != Done:
		return o
	case !d.found || d.Attr&(vcpu.AttrS|typeTSS) != typeTSS || d.Attr&4 != 0 || d.Attr&typeBusy != 0 != iret:
		return m.refuse(t, bad, t.Selector)
	case d.Attr&vcpu.AttrP == 0:
		return m.refuse(t, vcpu.VecNP, t.Selector)
	}
	to, from := layoutOf(d.Attr), layoutOf(s.Seg[vcpu.TR].Attr)
	old := s.Seg[vcpu.TR]
	if d.Limit < uint32(to.limit) {
		return m.refuse(t, vcpu.VecTS, t.Selector)
	}
	if old.Attr&vcpu.AttrUnusable != 0 || old.Limit < uint32(from.limit) {
		return m.refuse(t, vcpu.VecTS, old.Selector)
	}
	// All memory that is touched, before any of it changes.
	var save, busy, link, image place
	size := from.segments + from.nsegs*from.word - from.first
	if save, o = m.locate(uint64(uint32(old.Base)+uint32(from.first)), size, store); o != Done {
		return o
	}
	a := load
	if nested {
		a = store // of the link
	}
	if link, o = m.locate(d.Base, 2, a); o != Done {
		return o
	}
	if image, o = m.locate(d.Base, to.limit+1, load); o != Done {
		return o
	}
	if !nested {
		od, at, o := m.globalDescriptor(s, old.Selector)
		if o != Done {
			return o
		}
		if !od.found {
			return m.refuse(t, vcpu.VecTS, old.Selector)
		}
		if busy, o = m.locate(at+5, 1, store); o != Done {
			return o
		}
	}
	var taken place
	if !iret {
		if taken, o = m.locate(dat+5, 1, store); o != Done {
			return o
		}
	}

	if !nested {
		m.store(&busy, m.load(&busy)&^typeBusy)
	}
	m.copyOut(&save, m.saved(from, s, next, iret))
	if nested {
		m.store(&link, uint64(old.Selector))
	}
	if !iret {
		m.store(&taken, m.load(&taken)|typeBusy)
	}
	m.copyIn(&image, m.buf[:to.limit+1])
	m.registers(to, s)
	if nested {
		s.Regs.RFLAGS |= flagNT
	}
	d.Attr |= typeBusy
	d.Selector = t.Selector
	s.Seg[vcpu.TR] = d.Segment
	s.Reg[vcpu.CR0] |= cr0TS
	s.Reg[vcpu.DR7] &^= dr7Local
	s.STI, s.MovSS, s.Pending = false, false, vcpu.Event{}
	switch {
	case iret:
		s.NMIBlock = false
	case t.Event.Valid && t.Event.Type == vcpu.EventNMI:
		s.NMIBlock = true
	}
	return Done
}

func layoutOf(attr uint32) *layout {
	if attr&typeWide != 0 {
		return &layout32
	}
	return &layout16
}

// saved is what the old TSS gets, in m.buf.
func (m *Emulator) saved(l *layout, s *vcpu.State, next uint64, iret bool) []byte {
	b := m.buf[:l.segments+l.nsegs*l.word-l.first]
	flags := s.Regs.RFLAGS
	if iret {
		flags &^= flagNT
	}
	at := 0
	put := func(v uint64) {
		if l.word == 2 {
			le.PutUint16(b[at:], uint16(v))
		} else {
			le.PutUint32(b[at:], uint32(v))
		}
		at += int(l.word)
	}
	put(next)
	put(flags)
	for i := range 8 {
		put(s.Regs.GPR[i])
	}
	for i := range l.nsegs {
		put(uint64(s.Seg[i].Selector))
	}
	return b
}

// registers loads s from the TSS in m.buf; segment registers get their selectors only.
func (m *Emulator) registers(l *layout, s *vcpu.State) {
	at := l.first
	get := func() (v uint64) {
		v = uint64(le.Uint16(m.buf[at:]))
		if l.word == 4 {
			v = uint64(le.Uint32(m.buf[at:]))
		}
		at += l.word
		return v
	}
	s.Regs.RIP = get()
	s.Regs.RFLAGS = get()&flagsKnown | 2
	for i := range 8 {
		s.Regs.GPR[i] = get()
		if l.word == 2 {
			s.Regs.GPR[i] |= 0xffff0000 // not defined; as processors leave it
		}
	}
	for i := vcpu.ES; i <= vcpu.GS; i++ {
		sel := uint16(0)
		if uint8(i) < l.nsegs {
			sel = uint16(get())
		}
		if i != vcpu.CS && i != vcpu.SS {
			s.Seg[i] = vcpu.Segment{Attr: vcpu.AttrUnusable}
		}
		s.Seg[i].Selector = sel // CS and SS stay usable until they are loaded
	}
	s.Seg[vcpu.LDTR] = vcpu.Segment{Selector: le.Uint16(m.buf[l.ldt:]), Attr: vcpu.AttrUnusable}
	if l.word == 4 && s.Reg[vcpu.CR0]&cr0PG != 0 {
		s.Reg[vcpu.CR3] = uint64(le.Uint32(m.buf[tssCR3:]))
	}
}

// pushError pushes the error code of the exception that the new task handles.
func (m *Emulator) pushError(t *vcpu.TaskSwitch, wide bool) Outcome {
	m.look()
	size := uint8(2)
	if wide {
		size = 4
	}
	sp := m.cpu.Regs().GPR[vcpu.RSP] - uint64(size)
	width := uint8(2)
	if m.cpu.Segment(vcpu.SS).Attr&vcpu.AttrDB != 0 {
		width = 4
	}
	p, o := m.operand(vcpu.SS, sp&mask(width), size, store)
	if o != Done {
		return o
	}
	m.store(&p, uint64(t.Event.Error))
	m.set(vcpu.RSP, width, false, sp)
	return Done
}
