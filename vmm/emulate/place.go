package emulate

import "godwit/vmm/vcpu"

// A place is one operand in memory: one or two pieces, as it lies in one page or
// two, each in RAM or a device's.
type place struct {
	gpa    [2]uint64
	size   [2]uint8
	device bool // all of it is a device's, and in one page
}

// operand finds the memory at an offset in a segment, for a string instruction.
func (m *Emulator) operand(seg vcpu.SegReg, off uint64, size uint8, a access) (p place, o Outcome) {
	lin, o := m.reach(seg, off, size, a)
	if o != Done {
		return p, o
	}
	return m.locate(lin, size, a)
}

// locate translates an operand. For a store both pages are checked before
// anything is written.
func (m *Emulator) locate(lin uint64, size uint8, a access) (p place, o Outcome) {
	first := uint8(min(uint64(size), 0x1000-lin&0xfff))
	if p.gpa[0], o = m.translate(lin, a, &m.odd.path); o != Done {
		return p, o
	}
	p.size[0] = first
	if first < size {
		next := lin + uint64(first)
		if m.mode.bits != 64 {
			next &= 0xffffffff
		}
		if p.gpa[1], o = m.translate(next, a, &m.odd.path); o != Done {
			return p, o
		}
		p.size[1] = size - first
	}
	return p, Done
}

// load reads an operand of up to 8 bytes.
func (m *Emulator) load(p *place) uint64 {
	le.PutUint64(m.buf[:8], 0)
	if p.device {
		m.bus.ReadMMIO(p.gpa[0], m.buf[:p.size[0]])
	} else {
		m.copyIn(p, m.buf[:p.size[0]+p.size[1]])
	}
	return le.Uint64(m.buf[:8])
}

func (m *Emulator) store(p *place, v uint64) {
	le.PutUint64(m.buf[:8], v)
	if p.device {
		m.bus.WriteMMIO(p.gpa[0], m.buf[:p.size[0]])
		return
	}
	m.copyOut(p, m.buf[:p.size[0]+p.size[1]])
}

// copyIn reads all of p, copyOut writes it. b is as long as p.
func (m *Emulator) copyIn(p *place, b []byte) {
	for i, n := range p.size {
		gpa, piece := p.gpa[i], b[:n]
		b = b[n:]
		if page := m.bus.Page(gpa &^ 0xfff); page != nil {
			copy(piece, page[gpa&0xfff:])
			continue
		}
		for len(piece) > 0 {
			n := natural(gpa, len(piece))
			m.bus.ReadMMIO(gpa, piece[:n])
			gpa, piece = gpa+uint64(n), piece[n:]
		}
	}
}

func (m *Emulator) copyOut(p *place, b []byte) {
	for i, n := range p.size {
		gpa, piece := p.gpa[i], b[:n]
		b = b[n:]
		if page := m.bus.Page(gpa &^ 0xfff); page != nil {
			copy(page[gpa&0xfff:], piece)
			if n > 0 {
				m.bus.Wrote(gpa, uint64(n))
			}
			continue
		}
		for len(piece) > 0 {
			n := natural(gpa, len(piece))
			m.bus.WriteMMIO(gpa, piece[:n])
			gpa, piece = gpa+uint64(n), piece[n:]
		}
	}
}

// natural is the size of the next access of a device for n bytes at gpa: devices take
// 1, 2, 4 and 8 bytes. What is none of these is taken apart into aligned ones, as a
// processor does with the parts of an access that crosses a page's end.
func natural(gpa uint64, n int) int {
	if n&(n-1) == 0 && n <= 8 {
		return n
	}
	k := 8
	for k > n || gpa&uint64(k-1) != 0 {
		k /= 2
	}
	return k
}
