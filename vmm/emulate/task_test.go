package emulate

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu"
)

const (
	tGDT  = 0x8000
	tTSS  = 0x9000
	tTSS2 = 0x9ff0 // across a page's end
	tCode = 0x40000
)

// taskRig is a processor in protected mode without paging, in task 28h; 38h is another.
func taskRig() *rig {
	r := longRig()
	v := r.v
	v.Set(vcpu.CR0, cr0PE)
	v.Set(vcpu.EFER, 0)
	v.Set(vcpu.CR4, 0)
	for i, d := range []uint64{
		0, 0, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00cffb000000ffff,
		0x00008b0000000067 | tTSS<<16, 0x00cff3000000ffff, 0x0000890000000067 | tTSS2<<16,
	} {
		le.PutUint64(r.ram[tGDT+8*i:], d)
	}
	v.Set(vcpu.GDTBase, tGDT)
	v.Set(vcpu.GDTLimit, 0x3f)
	v.SetSegment(vcpu.CS, vcpu.Segment{Selector: 0x18, Attr: 0xc09b, Limit: 0xffffffff})
	for _, s := range []vcpu.SegReg{vcpu.SS, vcpu.DS, vcpu.ES} {
		v.SetSegment(s, vcpu.Segment{Selector: 0x10, Attr: 0xc093, Limit: 0xffffffff})
	}
	v.SetSegment(vcpu.TR, vcpu.Segment{Selector: 0x28, Base: tTSS, Limit: 0x67, Attr: 0x8b})
	*v.Regs() = vcpu.Regs{RIP: tCode, RFLAGS: 2}
	for i := range 8 {
		v.Regs().GPR[i] = 0x100 + uint64(i)
	}
	r.tss(0x20, tCode+0x100)
	r.tss(0x24, 2)
	r.tss(0x38, 0x7000)
	for i, sel := range []uint32{0x10, 0x18, 0x10, 0x10, 0, 0} {
		r.tss(0x48+4*i, sel)
	}
	return r
}

func (r *rig) tss(at int, v uint32) { le.PutUint32(r.ram[tTSS2+at:], v) }

func jump() *vcpu.TaskSwitch {
	return &vcpu.TaskSwitch{Selector: 0x38, Cause: vcpu.TaskJump, Insn: true}
}

func TestTaskSwitchSavesAndLoads(t *testing.T) {
	r := taskRig()
	if o := r.TaskSwitch(jump(), 7); o != Done {
		t.Fatalf("%v: %+v %v", o, r.Fault, r.Err)
	}
	g := r.v.Regs()
	if g.RIP != tCode+0x100 || g.GPR[vcpu.RSP] != 0x7000 || g.RFLAGS != 2 {
		t.Errorf("registers %+v", g)
	}
	if x := le.Uint32(r.ram[tTSS+0x20:]); x != tCode+7 {
		t.Errorf("EIP saved %#x", x)
	}
	if r.ram[tGDT+0x28+5] != 0x89 || r.ram[tGDT+0x38+5] != 0x8b {
		t.Errorf("types %#x, %#x", r.ram[tGDT+0x28+5], r.ram[tGDT+0x38+5])
	}
	if r.v.Get(vcpu.CR0)&cr0TS == 0 {
		t.Error("TS is clear")
	}
	// Back, without a length: the decoder finds it.
	copy(r.ram[tCode+0x100:], []byte{0xea, 0, 0, 0, 0, 0x28, 0})
	back := jump()
	back.Selector = 0x28
	if o := r.TaskSwitch(back, 0); o != Done || g.RIP != tCode+7 || g.GPR[vcpu.RBX] != 0x103 {
		t.Errorf("back: %v, %+v", o, g)
	}
	if x := le.Uint32(r.ram[tTSS2+0x20:]); x != tCode+0x107 {
		t.Errorf("EIP saved %#x", x)
	}
}

func TestTaskSwitchAllocatesNothing(t *testing.T) {
	r := taskRig()
	there, back := jump(), jump()
	back.Selector = 0x28
	r.TaskSwitch(there, 7)
	r.TaskSwitch(back, 7)
	if n := testing.AllocsPerRun(50, func() { r.acc = r.acc[:0]; r.TaskSwitch(there, 7); r.TaskSwitch(back, 7) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTaskSwitchFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(r *rig, s *vcpu.TaskSwitch)
		vector uint8
		err    uint32
		stays  bool // in the old task
	}{
		{"busy", func(r *rig, s *vcpu.TaskSwitch) { s.Selector = 0x28 }, vcpu.VecGP, 0x28, true},
		{"in the LDT", func(r *rig, s *vcpu.TaskSwitch) { s.Selector = 0x3c }, vcpu.VecGP, 0x3c, true},
		{"beyond the table", func(r *rig, s *vcpu.TaskSwitch) { s.Selector = 0x40 }, vcpu.VecGP, 0x40, true},
		{"null", func(r *rig, s *vcpu.TaskSwitch) { s.Selector = 0 }, vcpu.VecGP, 0, true},
		{"IRET to one that is not busy", func(r *rig, s *vcpu.TaskSwitch) { s.Cause = vcpu.TaskIRET }, vcpu.VecTS, 0x38, true},
		{"absent", func(r *rig, s *vcpu.TaskSwitch) { r.ram[tGDT+0x3d] &^= 0x80 }, vcpu.VecNP, 0x38, true},
		{"short", func(r *rig, s *vcpu.TaskSwitch) { r.ram[tGDT+0x38] = 0x66 }, vcpu.VecTS, 0x38, true},
		{"old one short", func(r *rig, s *vcpu.TaskSwitch) {
			r.v.SetSegment(vcpu.TR, vcpu.Segment{Selector: 0x28, Base: tTSS, Limit: 0x2b, Attr: 0x8b})
		}, vcpu.VecTS, 0x28, true},
		{"an external interrupt sets EXT", func(r *rig, s *vcpu.TaskSwitch) {
			*s = vcpu.TaskSwitch{Selector: 0x28, Cause: vcpu.TaskGate, Event: vcpu.Event{Valid: true, Vector: 0x41}}
		}, vcpu.VecGP, 0x29, true},
		{"#TS while #GP is delivered is #DF", func(r *rig, s *vcpu.TaskSwitch) {
			*s = vcpu.TaskSwitch{Selector: 0x38, Cause: vcpu.TaskGate, Event: vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecGP, HasError: true}}
			r.tss(0x50, 0)
		}, vcpu.VecDF, 0, false},
		{"CS of another level", func(r *rig, s *vcpu.TaskSwitch) { r.tss(0x4c, 0x1b) }, vcpu.VecTS, 0x18, false},
		{"SS of another level", func(r *rig, s *vcpu.TaskSwitch) { r.tss(0x4c, 0x23) }, vcpu.VecTS, 0x10, false},
		{"DS above CPL", func(r *rig, s *vcpu.TaskSwitch) { r.tss(0x4c, 0x23); r.tss(0x50, 0x33); r.tss(0x48, 0) }, vcpu.VecTS, 0x10, false},
		{"a selector of a missing LDT", func(r *rig, s *vcpu.TaskSwitch) { r.tss(0x54, 0x14) }, vcpu.VecTS, 0x14, false},
		{"EIP beyond CS", func(r *rig, s *vcpu.TaskSwitch) {
			le.PutUint64(r.ram[tGDT+0x18:], 0x00409b000000ffff)
		}, vcpu.VecGP, 0, false},
	} {
		r := taskRig()
		s := jump()
		c.change(r, s)
		if o := r.TaskSwitch(s, 7); o != Fault || r.Fault.Vector != c.vector || r.Fault.Error != c.err || !r.Fault.HasError {
			t.Errorf("%s: %v, %+v %v", c.name, o, r.Fault, r.Err)
		}
		if stays := r.v.Segment(vcpu.TR).Selector == 0x28; stays != c.stays {
			t.Errorf("%s: TR %#x", c.name, r.v.Segment(vcpu.TR).Selector)
		}
		if c.stays && r.v.Regs().RIP != tCode {
			t.Errorf("%s: RIP %#x", c.name, r.v.Regs().RIP)
		}
	}
}

func TestTaskSwitchOutcomesThatAreNoFaults(t *testing.T) {
	r := taskRig()
	s := &vcpu.TaskSwitch{Selector: 0x28, Cause: vcpu.TaskGate, Event: vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDF, HasError: true}}
	if o := r.TaskSwitch(s, 0); o != Shutdown {
		t.Errorf("#GP while #DF is delivered: %v", o)
	}
	r = longRig()
	if o := r.TaskSwitch(jump(), 7); o != Unhandled || !strings.Contains(r.Err.Error(), "task switch") {
		t.Errorf("in long mode: %v, %v", o, r.Err)
	}
}

func TestTaskOfVirtual8086Mode(t *testing.T) {
	r := taskRig()
	r.tss(0x24, flagVM|2)
	r.tss(0x20, 0x1234)
	r.tss(0x4c, 0x4000)
	r.tss(0x50, 0x5000)
	if o := r.TaskSwitch(jump(), 7); o != Done {
		t.Fatalf("%v: %+v %v", o, r.Fault, r.Err)
	}
	want := vcpu.Segment{Selector: 0x4000, Base: 0x40000, Limit: 0xffff, Attr: 0xf3}
	if g := r.v.Segment(vcpu.CS); g != want {
		t.Errorf("CS %+v", g)
	}
}

// FuzzTaskSwitch gives a switch any tables and any memory: it ends, and the state is
// one that was loaded.
func FuzzTaskSwitch(f *testing.F) {
	f.Add(uint16(0x38), uint8(2), uint8(0), []byte{0x67, 0, 0xf0, 0x9f, 0, 0x89, 0, 0})
	f.Add(uint16(0x38), uint8(3), uint8(13), []byte{0x2b, 0, 0, 0x90, 0, 0x81, 0, 0})
	f.Add(uint16(0x28), uint8(1), uint8(8), make([]byte, 200))
	f.Fuzz(func(t *testing.T, sel uint16, cause, vector uint8, b []byte) {
		r := taskRig()
		copy(r.ram[tGDT+0x38:], b)
		if len(b) > 8 {
			copy(r.ram[tTSS2:], b[8:])
		}
		if cause&4 != 0 { // paging, with tables of whatever is there
			r.v.Set(vcpu.CR0, cr0PE|cr0PG)
			r.v.Set(vcpu.CR3, 0)
			r.v.Set(vcpu.CR4, uint64(cause)<<1&cr4PAE)
		}
		s := &vcpu.TaskSwitch{Selector: sel, Cause: vcpu.TaskCause(cause & 3), Insn: cause&8 != 0}
		if s.Cause == vcpu.TaskGate {
			s.Event = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vector & 31, HasError: vector&32 != 0}
		}
		switch o := r.TaskSwitch(s, 1); o {
		case Done, Fault, Shutdown:
		case Unhandled:
			if r.Err == nil {
				t.Error("no reason")
			}
		default:
			t.Errorf("outcome %d", o)
		}
	})
}
