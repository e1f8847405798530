package emulate

import (
	"fmt"
	"slices"
	"testing"

	"godwit/vmm/vcpu"
)

// pages is a bus whose devices are memory that notes each access.
type pages struct {
	*rig
	dev map[uint64]byte
	log []string
}

func (p *pages) ReadMMIO(gpa uint64, b []byte) {
	p.log = append(p.log, fmt.Sprintf("r%d@%x", len(b), gpa))
	for i := range b {
		b[i] = p.dev[gpa+uint64(i)]
	}
}

func (p *pages) WriteMMIO(gpa uint64, b []byte) {
	p.log = append(p.log, fmt.Sprintf("w%d@%x", len(b), gpa))
	for i := range b {
		p.dev[gpa+uint64(i)] = b[i]
	}
}

// crossing has two device pages at devLin, and RAM before them.
func crossing() *pages {
	r := longRig()
	p := &pages{rig: r, dev: map[uint64]byte{}}
	r.Emulator = New(r.v, p)
	le.PutUint64(r.ram[0x5000+8:], devGPA+0x5000|3) // the second page is elsewhere
	le.PutUint64(r.ram[0x3000+2*8:], 0x6000|7)      // the 2 MiB before devLin
	le.PutUint64(r.ram[0x6000+511*8:], 0x70000|7)
	return p
}

func TestAccessAcrossAPagesEndIsTakenApart(t *testing.T) {
	for _, c := range []struct {
		code []byte
		at   uint64
		log  []string
	}{
		{[]byte{0x8b, 0x03}, devLin + 0xffe, []string{"r2@fee00ffe", "r2@fee05000"}},
		{[]byte{0x89, 0x03}, devLin + 0xffd, []string{"w1@fee00ffd", "w2@fee00ffe", "w1@fee05000"}},
		{[]byte{0x48, 0x89, 0x03}, devLin + 0xff9, []string{"w1@fee00ff9", "w2@fee00ffa", "w4@fee00ffc", "w1@fee05000"}},
		{[]byte{0x01, 0x03}, devLin + 0xfff, []string{"r1@fee00fff", "r2@fee05000", "r1@fee05002", "w1@fee00fff", "w2@fee05000", "w1@fee05002"}},
		{[]byte{0x89, 0x03}, devLin - 2, []string{"w2@fee00000"}}, // its first half is RAM
		{[]byte{0x8b, 0x03}, devLin - 1, []string{"r2@fee00000", "r1@fee00002"}},
	} {
		p := crossing()
		p.code(c.code...)
		g := &p.v.Regs().GPR
		g[vcpu.RAX], g[vcpu.RBX] = 0x1122334455667788, c.at
		gpa := uint64(devGPA) + c.at - devLin
		if c.at < devLin {
			gpa = devGPA
		}
		if o := p.MMIO(gpa); o != Done {
			t.Errorf("% x at %#x: %v, %v %+v", c.code, c.at, o, p.Err, p.Fault)
			continue
		}
		if !slices.Equal(p.log, c.log) {
			t.Errorf("% x at %#x: %v, want %v", c.code, c.at, p.log, c.log)
		}
		if c.code[0] == 0x89 && c.at == devLin-2 {
			if le.Uint16(p.ram[0x70ffe:]) != 0x7788 || p.dev[devGPA] != 0x66 || p.dev[devGPA+1] != 0x55 || !slices.Contains(p.acc, span{0x70ffe, 2}) {
				t.Errorf("RAM %#x, device %v, RAM writes %v", p.ram[0x70ffe:0x71000], p.dev, p.acc)
			}
		}
	}
}

func TestFaultOfTheSecondPageChangesNothing(t *testing.T) {
	p := crossing()
	le.PutUint64(p.ram[0x5000+8:], 0)
	p.code(0x89, 0x03)
	p.v.Regs().GPR[vcpu.RBX] = devLin + 0xffe
	if o := p.MMIO(devGPA + 0xffe); o != Fault || p.Fault.Vector != vcpu.VecPF || p.Fault.CR2 != devLin+0x1000 || p.Fault.Error != pfW {
		t.Errorf("%v, %+v", o, p.Fault)
	}
	if len(p.log) != 0 || p.v.Regs().RIP != codeLin {
		t.Errorf("%v, RIP %#x", p.log, p.v.Regs().RIP)
	}
}

func TestSegmentLimits(t *testing.T) {
	const down, code, readOnly = 0x97, 0x99, 0x91
	flat := vcpu.Segment{Attr: 0xc093, Limit: 0xffffffff}
	for _, c := range []struct {
		name string
		seg  vcpu.SegReg
		g    vcpu.Segment
		off  uint64
		a    access
		ok   bool
	}{
		{"flat", vcpu.DS, flat, 0xfffffffc, store, true},
		{"around the end of 4 GiB", vcpu.DS, flat, 0xfffffffd, store, false},
		{"last bytes", vcpu.ES, vcpu.Segment{Attr: 0x4093, Limit: 0xfff}, 0xffc, store, true},
		{"one too far", vcpu.ES, vcpu.Segment{Attr: 0x4093, Limit: 0xfff}, 0xffd, load, false},
		{"stack", vcpu.SS, vcpu.Segment{Attr: 0x4093, Limit: 0xfff}, 0x1000, load, false},
		{"expand-down, below", vcpu.DS, vcpu.Segment{Attr: 0x4000 | down, Limit: 0xfff}, 0xfff, load, false},
		{"expand-down, above", vcpu.DS, vcpu.Segment{Attr: 0x4000 | down, Limit: 0xfff}, 0x1000, load, true},
		{"expand-down, 16 bits, its end", vcpu.DS, vcpu.Segment{Attr: down, Limit: 0xfff}, 0xfffd, load, false},
		{"expand-down, 16 bits", vcpu.DS, vcpu.Segment{Attr: down, Limit: 0xfff}, 0xfffc, load, true},
		{"execute-only", vcpu.CS, vcpu.Segment{Attr: 0xc000 | code, Limit: 0xffffffff}, 0, load, false},
		{"readable code", vcpu.CS, vcpu.Segment{Attr: 0xc09b, Limit: 0xffffffff}, 0, load, true},
		{"store to code", vcpu.CS, vcpu.Segment{Attr: 0xc09b, Limit: 0xffffffff}, 0, store, false},
		{"read-only, load", vcpu.DS, vcpu.Segment{Attr: 0xc000 | readOnly, Limit: 0xffffffff}, 0, load, true},
		{"read-only, store", vcpu.DS, vcpu.Segment{Attr: 0xc000 | readOnly, Limit: 0xffffffff}, 0, store, false},
		{"null", vcpu.DS, vcpu.Segment{Attr: vcpu.AttrUnusable}, 0, load, false},
	} {
		r := taskRig()
		r.v.SetSegment(c.seg, c.g)
		r.look()
		_, o := r.reach(c.seg, c.off, 4, c.a)
		vector := uint8(vcpu.VecGP)
		if c.seg == vcpu.SS {
			vector = vcpu.VecSS
		}
		if (o == Done) != c.ok || !c.ok && (r.Fault.Vector != vector || r.Fault.Error != 0) {
			t.Errorf("%s: %v, %+v", c.name, o, r.Fault)
		}
	}
	r := longRig()
	r.look()
	if _, o := r.reach(vcpu.SS, 1<<47, 1, load); o != Fault || r.Fault.Vector != vcpu.VecSS {
		t.Errorf("a stack that is not canonical: %v, %+v", o, r.Fault)
	}
	if _, o := r.reach(vcpu.DS, 1<<47-4, 8, load); o != Fault || r.Fault.Vector != vcpu.VecGP {
		t.Errorf("an end that is not canonical: %v, %+v", o, r.Fault)
	}
}

// A REP ends where its segment does, with what was done until then.
func TestStringStopsAtTheSegmentsEnd(t *testing.T) {
	r := taskRig()
	r.v.SetSegment(vcpu.ES, vcpu.Segment{Attr: 0x4093, Limit: 0x107, Base: 0x10000})
	r.code(0xf3, 0x6d) // rep insd
	g := &r.v.Regs().GPR
	g[vcpu.RCX], g[vcpu.RDI] = 5, 0x100
	r.in = []uint32{1, 2, 3, 4, 5}
	if o := r.StringIO(OpINS); o != Fault || r.Fault.Vector != vcpu.VecGP {
		t.Fatalf("%v, %+v %v", o, r.Fault, r.Err)
	}
	if g[vcpu.RCX] != 3 || g[vcpu.RDI] != 0x108 || len(r.in) != 3 || le.Uint32(r.ram[0x10104:]) != 2 {
		t.Errorf("ECX %d, EDI %#x, %d values left", g[vcpu.RCX], g[vcpu.RDI], len(r.in))
	}
}
