package conformance

import (
	"fmt"
	"slices"

	"godwit/vmm/emulate"
	"godwit/vmm/vcpu"
)

// bus is the machine's memory, for the emulator; everywhere else is a device whose
// bytes are the low ones of their addresses.
type bus struct {
	m   *machine
	log []string
}

func (b *bus) Page(gpa uint64) *[4096]byte {
	if gpa >= ramSize {
		return nil
	}
	return (*[4096]byte)(b.m.ram[gpa:])
}
func (b *bus) Wrote(gpa, n uint64) {}
func (b *bus) ReadMMIO(gpa uint64, p []byte) {
	b.log = append(b.log, fmt.Sprintf("%d@%x", len(p), gpa))
	for i := range p {
		p[i] = byte(gpa) + byte(i)
	}
}
func (b *bus) WriteMMIO(gpa uint64, p []byte) {
	b.log = append(b.log, fmt.Sprintf("%x@%x", p, gpa))
}
func (b *bus) In(port uint16, size int) uint32 { return 0 }
func (b *bus) Out(port uint16, size int, v uint32) {
	b.log = append(b.log, fmt.Sprintf("%x", v))
}

// What a backend and the emulator do together: the exit, and the instruction's end.
var emulationTests = []test{
	{"an access across a page's end, of RAM and a device", long64, func(m *machine) {
		b := &bus{m: m}
		em := emulate.New(m.cpu, b)
		m.start(gLoads)
		m.put32(ramSize-4, 0x44332211)
		m.cpu.Regs().GPR[vcpu.RBX] = ramSize - 4
		m.want(vcpu.ExitMemory)
		check(m, "GPA", m.exit.GPA&^0xfff, ramSize)
		if o := em.MMIO(m.exit.GPA); o != emulate.Done {
			m.fail("outcome %v, %v", o, em.Err)
		}
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 0x0302010044332211)
		if !slices.Equal(b.log, []string{"4@400000"}) {
			m.fail("the device saw %v", b.log)
		}

		b.log = nil
		m.start(gLoads)
		m.cpu.Regs().GPR[vcpu.RBX] = device + 0xffd
		m.want(vcpu.ExitMemory)
		if o := em.MMIO(m.exit.GPA); o != emulate.Done {
			m.fail("outcome %v, %v", o, em.Err)
		}
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 0x0403020100fffefd)
		if !slices.Equal(b.log, []string{"1@30000ffd", "2@30000ffe", "4@30001000", "1@30001004"}) {
			m.fail("the device saw %v", b.log)
		}
	}},
	{"REP OUTS ends with its segment", flat32, func(m *machine) {
		for _, c := range []struct {
			name string
			seg  vcpu.Segment
			esi  uint64
			want []string
		}{
			{"limit", vcpu.Segment{Selector: selData, Attr: 0x4093, Base: dataAt, Limit: 0x101}, 0x100, []string{"10", "11"}},
			{"expand-down", vcpu.Segment{Selector: selData, Attr: 0x0097, Base: dataAt, Limit: 0xff}, 0xfffe, []string{"20", "21"}},
		} {
			b := &bus{m: m}
			em := emulate.New(m.cpu, b)
			m.startWith(gStrings, func(s *vcpu.State) { s.Seg[vcpu.DS] = c.seg })
			for i := range 8 {
				m.ram[dataAt+0x100+i], m.ram[dataAt+0xfffe+i] = 0x10+byte(i), 0x20+byte(i)
			}
			r := m.cpu.Regs()
			r.GPR[vcpu.RSI], r.GPR[vcpu.RCX], r.GPR[vcpu.RDX] = c.esi, 5, 0x80
			r.GPR[vcpu.RDI] = 0
			for m.run() == vcpu.ExitIO && m.exit.String {
				switch o := em.StringIO(emulate.OpOUTS); o {
				case emulate.Done:
				case emulate.Fault:
					m.inject(em.Fault)
				default:
					m.fail("%s: outcome %v, %v", c.name, o, em.Err)
				}
			}
			check(m, c.name+": exit", m.exit.Reason, vcpu.ExitIO)
			check(m, c.name+": vector", m.reg(vcpu.RAX)&0xff, vcpu.VecGP)
			check(m, c.name+": ESI", m.reg(vcpu.RSI), c.esi+2)
			check(m, c.name+": ECX", m.reg(vcpu.RCX), 3)
			if !slices.Equal(b.log, c.want) {
				m.fail("%s: the port saw %v, want %v", c.name, b.log, c.want)
			}
		}
	}},
}
