package svm

import (
	"encoding/binary"

	"godwit/vmm/vcpu"
)

// opcodes are the instructions whose exits need a length and nothing else, as the
// first four bytes read, and which bits of those are the opcode.
var opcodes = [0x100]struct {
	op, mask uint32
	n        uint8
}{
	exitCPUID:   {0xa20f, 0xffff, 2},
	exitINVD:    {0x080f, 0xffff, 2},
	exitPAUSE:   {0x90, 0xff, 1}, // behind its F3
	exitHLT:     {0xf4, 0xff, 1},
	exitVMMCALL: {0xd9010f, 0xffffff, 3},
	exitWBINVD:  {0x090f, 0xffff, 2},
	exitXSETBV:  {0xd1010f, 0xffffff, 3},
	exitMSR:     {0x300f, 0xfdff, 2}, // 0F 30 and 0F 32
}

// length is that of the instruction that exited, from the VMCB where the processor
// saves the next RIP, else from the guest's memory; 0 if it is not what it must
// have been, because another VCPU has changed it meanwhile.
func (v *VCPU) length(code uint64) uint8 {
	if !v.space.b.tcg() {
		if n := v.vm.nextRIP - v.regs.RIP; n-1 < 15 {
			return uint8(n)
		}
		return 0
	}
	o := &opcodes[code&0xff]
	lin := v.linear(0)
	if gpa, ok := v.translate(lin); ok && gpa&0xfff <= 4096-4 {
		if p := v.page(gpa); p != nil && binary.LittleEndian.Uint32(p[gpa&0xfff:])&o.mask == o.op {
			return o.n
		}
	}
	// With prefixes, or at the end of a page.
	var b [15 + 4]byte
	n := v.fetch((*[15]byte)(b[:15]))
	i := v.prefixes(b[:n])
	if i+int(o.n) > n || binary.LittleEndian.Uint32(b[i:])&o.mask != o.op {
		return 0
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
	gpa, ok := v.translate(v.linear(uint64(n)))
	if !ok {
		return n
	}
	page := v.page(gpa)
	if page == nil {
		return n
	}
	return n + copy(b[n:], page[gpa&0xfff:])
}

// linear is the address of the byte n behind RIP.
func (v *VCPU) linear(n uint64) uint64 {
	if v.long64() {
		return v.regs.RIP + n
	}
	return (v.vm.save.seg[vcpu.CS].base + v.regs.RIP + n) & 0xffff_ffff
}

// translate walks the guest's page tables (APM 5.2, 5.3), without looking at
// permissions: the processor has fetched this instruction already.
func (v *VCPU) translate(lin uint64) (uint64, bool) {
	m := v.vm
	switch {
	case m.cr0&cr0PG == 0:
		return lin, true
	case m.efer&eferLMA != 0:
		return v.walk64(lin)
	case m.cr4&cr4PAE != 0:
		e, ok := v.entry(m.cr3&0xffff_ffe0+lin>>30&3*8, 8)
		if !ok || e&1 == 0 {
			return 0, false
		}
		return v.walk(e&0x000f_ffff_ffff_f000, lin, 21, 9, 8)
	}
	return v.walk(m.cr3&0xffff_f000, lin, 22, 10, 4)
}

// walk64 is walk for the mode that matters.
func (v *VCPU) walk64(lin uint64) (uint64, bool) {
	v.pages.check(v.space.cfg.Tables.Generation())
	const address = 0x000f_ffff_ffff_f000
	table := v.vm.cr3 & address
	for shift := uint(39); ; shift -= 9 {
		c := v.pages.slot(table)
		if c.gpa != table|1 && !v.remember(c, table) {
			return 0, false
		}
		e := tableOf(c.page)[lin>>(shift&63)&511]
		if e&1 == 0 {
			return 0, false
		}
		if shift == 12 || e&(1<<7) != 0 && shift != 39 {
			in := uint64(1)<<(shift&63) - 1
			return e&address&^in | lin&in, true
		}
		table = e & address
	}
}

// walk goes down from a table of 32-bit or PAE paging whose entries of size bytes
// cover 1<<shift each.
func (v *VCPU) walk(table, lin uint64, shift, bits uint, size uint64) (uint64, bool) {
	for {
		e, ok := v.entry(table+lin>>shift&(1<<bits-1)*size, size)
		if !ok || e&1 == 0 {
			return 0, false
		}
		big := e&(1<<7) != 0 && (shift == 21 || shift == 22 && v.vm.cr4&cr4PSE != 0)
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

// A pageCache remembers where pages of guest memory are, for as long as the tables'
// generation stays: it grows whenever a translation is taken away.
type pageCache struct {
	generation uint64
	at         [16]cachedPage
}

type cachedPage struct {
	gpa  uint64 // with bit 0 set, so that zero is none
	page *[4096]byte
}

func (p *pageCache) check(generation uint64) {
	if p.generation != generation {
		*p = pageCache{generation: generation}
	}
}

func (p *pageCache) slot(gpa uint64) *cachedPage { return &p.at[gpa>>12%16] }

// remember fills a slot, unless gpa is not RAM.
func (v *VCPU) remember(c *cachedPage, gpa uint64) bool {
	p := v.findPage(gpa)
	if p != nil {
		c.gpa, c.page = gpa|1, p
	}
	return p != nil
}

// page is the host's view of the page of guest memory at gpa; nil unless it is RAM.
func (v *VCPU) page(gpa uint64) *[4096]byte {
	gpa &^= 0xfff
	v.pages.check(v.space.cfg.Tables.Generation())
	c := v.pages.slot(gpa)
	if c.gpa != gpa|1 && !v.remember(c, gpa) {
		return nil
	}
	return c.page
}

// findPage walks the nested tables as the processor does.
func (v *VCPU) findPage(gpa uint64) *[4096]byte {
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
