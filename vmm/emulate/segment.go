package emulate

import "godwit/vmm/vcpu"

// reach turns size bytes at an offset in a segment into a linear address, after the
// checks that the processor makes (SDM vol. 3, sections 5.3 to 5.5; APM vol. 2,
// section 4.12): the exit says only that the instruction's first access passed them.
func (m *Emulator) reach(seg vcpu.SegReg, off uint64, size uint8, a access) (lin uint64, o Outcome) {
	if m.mode.bits != 64 {
		g := m.cpu.Segment(seg)
		if !m.within(&g, off, size, a) {
			return 0, m.segmentFault(seg)
		}
		return (g.Base + off) & 0xffffffff, Done
	}
	lin = off
	if seg == vcpu.FS || seg == vcpu.GS {
		lin += m.cpu.Segment(seg).Base
	}
	width := uint(48)
	if m.mode.cr4&cr4LA57 != 0 {
		width = 57
	}
	if !canonical(lin, width) || !canonical(lin+uint64(size)-1, width) {
		return 0, m.segmentFault(seg)
	}
	return lin, Done
}

func canonical(lin uint64, width uint) bool {
	return uint64(int64(lin<<(64-width))>>(64-width)) == lin
}

// within tells whether a segment of 16- or 32-bit code holds an access of a kind. In
// real and virtual-8086 mode segments have no types, but limits.
func (m *Emulator) within(g *vcpu.Segment, off uint64, size uint8, a access) bool {
	const code, writable, readable, down = 1 << 3, 1 << 1, 1 << 1, 1 << 2
	last := off + uint64(size) - 1
	if m.mode.cr0&cr0PE == 0 || m.cpu.Regs().RFLAGS&flagVM != 0 {
		return last <= uint64(g.Limit)
	}
	switch {
	case g.Attr&(vcpu.AttrUnusable|vcpu.AttrP) != vcpu.AttrP:
		return false
	case g.Attr&code != 0:
		if a == store || g.Attr&readable == 0 {
			return false
		}
	case a == store && g.Attr&writable == 0:
		return false
	case g.Attr&down != 0: // the limit is the last offset that is not in it
		top := uint64(0xffff)
		if g.Attr&vcpu.AttrDB != 0 {
			top = 0xffffffff
		}
		return off > uint64(g.Limit) && last <= top
	}
	return last <= uint64(g.Limit)
}

func (m *Emulator) segmentFault(seg vcpu.SegReg) Outcome {
	m.Fault = vcpu.GP()
	if seg == vcpu.SS {
		m.Fault.Vector = vcpu.VecSS
	}
	return Fault
}
