package svm

import (
	"encoding/binary"

	"godwit/vmm/vcpu"
)

// opcodes are the instructions whose exits need a length and nothing else.
var opcodes = [0x100]struct {
	n  uint8
	op [3]byte
}{
	exitCPUID:   {2, [3]byte{0x0f, 0xa2}},
	exitINVD:    {2, [3]byte{0x0f, 0x08}},
	exitPAUSE:   {1, [3]byte{0x90}}, // with its F3
	exitHLT:     {1, [3]byte{0xf4}},
	exitVMMCALL: {3, [3]byte{0x0f, 0x01, 0xd9}},
	exitWBINVD:  {2, [3]byte{0x0f, 0x09}},
	exitXSETBV:  {3, [3]byte{0x0f, 0x01, 0xd1}},
}

// length is that of the instruction that exited, from the VMCB where the processor
// saves the next RIP, else from the guest's memory; 0 if it is not what it must
// have been, because another VCPU has changed it meanwhile.
func (v *VCPU) length(code uint64) uint8 {
	if v.space.b.has(featNextRIP) {
		if n := v.vm.nextRIP - v.regs.RIP; n-1 < 15 {
			return uint8(n)
		}
		return 0
	}
	var b [15]byte
	n := v.fetchFrom(&b, 0)
	i := v.prefixes(b[:n])
	if i+3 > n && n < 15 { // the page ends
		n = v.fetchFrom(&b, n)
		i = v.prefixes(b[:n])
	}
	o := &opcodes[code]
	if code == exitMSR {
		if i+2 <= n && b[i] == 0x0f && (b[i+1] == 0x30 || b[i+1] == 0x32) {
			return uint8(i + 2)
		}
		return 0
	}
	if o.n == 0 || i+int(o.n) > n {
		return 0
	}
	for k := range int(o.n) {
		if b[i+k] != o.op[k] {
			return 0
		}
	}
	return uint8(i) + o.n
}

// prefixes is how many bytes stand before the opcode.
func (v *VCPU) prefixes(b []byte) int {
	for i, c := range b {
		switch {
		case c == 0x66, c == 0x67, c == 0xf0, c == 0xf2, c == 0xf3, c == 0x2e, c == 0x36, c == 0x3e, c == 0x26, c == 0x64, c == 0x65:
		case c&0xf0 == 0x40 && v.long64():
		default:
			return i
		}
	}
	return len(b)
}

// fetch reads the instruction at RIP, and returns how many bytes it got.
func (v *VCPU) fetch(b *[15]byte) int {
	return v.fetchFrom(b, v.fetchFrom(b, 0))
}

// fetchFrom reads what follows the first n bytes, up to the end of the page.
func (v *VCPU) fetchFrom(b *[15]byte, n int) int {
	lin := v.vm.save.seg[vcpu.CS].base + v.regs.RIP + uint64(n)
	if v.long64() {
		lin = v.regs.RIP + uint64(n)
	} else {
		lin &= 0xffff_ffff
	}
	gpa, ok := v.translate(lin)
	if !ok {
		return n
	}
	page := v.page(gpa)
	if page == nil {
		return n
	}
	return n + copy(b[n:], page[gpa&0xfff:])
}

// translate walks the guest's page tables (APM 5.2, 5.3), without looking at
// permissions: the processor has fetched this instruction already.
func (v *VCPU) translate(lin uint64) (uint64, bool) {
	m := v.vm
	switch {
	case m.cr0&cr0PG == 0:
		return lin, true
	case m.efer&eferLMA != 0:
		return v.walk(m.cr3&0x000f_ffff_ffff_f000, lin, 39, 9, 8)
	case m.cr4&cr4PAE != 0:
		e, ok := v.entry(m.cr3&0xffff_ffe0+lin>>30&3*8, 8)
		if !ok || e&1 == 0 {
			return 0, false
		}
		return v.walk(e&0x000f_ffff_ffff_f000, lin, 21, 9, 8)
	}
	return v.walk(m.cr3&0xffff_f000, lin, 22, 10, 4)
}

// walk goes down from a table whose entries of size bytes cover 1<<shift each.
func (v *VCPU) walk(table, lin uint64, shift, bits uint, size uint64) (uint64, bool) {
	for {
		e, ok := v.entry(table+lin>>shift&(1<<bits-1)*size, size)
		if !ok || e&1 == 0 {
			return 0, false
		}
		big := e&(1<<7) != 0 && (shift == 30 || shift == 21 || shift == 22 && v.vm.cr4&cr4PSE != 0)
		if shift == 12 || big {
			base := e & 0x000f_ffff_ffff_f000
			if shift == 22 && big { // PSE-36
				base = e&0xffc0_0000 | e>>13&0xff<<32
			}
			return base&^(1<<shift-1) | lin&(1<<shift-1), true
		}
		table = e & 0x000f_ffff_ffff_f000
		shift -= bits
	}
}

func (v *VCPU) entry(gpa, size uint64) (uint64, bool) {
	p := v.page(gpa)
	if p == nil {
		return 0, false
	}
	if size == 4 {
		return uint64(binary.LittleEndian.Uint32(p[gpa&0xffc:])), true
	}
	return binary.LittleEndian.Uint64(p[gpa&0xff8:]), true
}

// page is the host's view of the page of guest memory at gpa; nil unless it is RAM.
// It walks the nested tables as the processor does.
func (v *VCPU) page(gpa uint64) *[4096]byte {
	if gpa>>48 != 0 {
		return nil
	}
	const uncached = 1<<3 | 1<<4
	base, table := v.space.b.base, v.vm.ncr3
	for shift := uint(39); ; shift -= 9 {
		e := direct(base, table+gpa>>shift&511*8)
		if e&1 == 0 || e&uncached == uncached {
			return nil
		}
		table = e & 0x000f_ffff_ffff_f000
		if shift == 12 || e&(1<<7) != 0 {
			in := uint64(1)<<shift - 1
			return directPage(base, (table&^in|gpa&in)&^0xfff)
		}
	}
}

// pdptes are the registers that PAE paging loads on other processors; here they are
// read from memory when they are needed (APM 15.25.10).
func (v *VCPU) pdptes() (p [4]uint64) {
	m := v.vm
	if m.cr0&cr0PG == 0 || m.cr4&cr4PAE == 0 || m.efer&eferLMA != 0 {
		return p
	}
	for i := range p {
		p[i], _ = v.entry(m.cr3&0xffff_ffe0+uint64(i)*8, 8)
	}
	return p
}
