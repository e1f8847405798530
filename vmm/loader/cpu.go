package loader

import (
	"encoding/binary"

	"godwit/vmm/vcpu"
)

// Selectors of the boot GDT: boot.rst wants __BOOT_CS at 0x10 and __BOOT_DS at
// 0x18; the other protocols do not mind.
const (
	selCode = 0x10
	selData = 0x18
	selTSS  = 0x20
)

// Segment attributes as vcpu.Segment has them.
const (
	attrCode64 = 0xb | vcpu.AttrS | vcpu.AttrP | vcpu.AttrL | vcpu.AttrG
	attrCode32 = 0xb | vcpu.AttrS | vcpu.AttrP | vcpu.AttrDB | vcpu.AttrG
	attrData   = 0x3 | vcpu.AttrS | vcpu.AttrP | vcpu.AttrDB | vcpu.AttrG
	attrTSS    = 0xb | vcpu.AttrP
)

// Control register bits (SDM vol. 3, section 2.5) and EFER's (section 2.2.1).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0NE   = 1 << 5
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10
)

// Page table bits (SDM vol. 3, section 4.5).
const (
	ptPresent = 1 << 0
	ptWrite   = 1 << 1
	ptLarge   = 1 << 7
)

// descriptor encodes a segment descriptor (SDM vol. 3, figure 3-8).
func descriptor(attr uint64, base, limit uint32) uint64 {
	if attr&vcpu.AttrG != 0 {
		limit >>= 12
	}
	return uint64(limit&0xffff) | uint64(base&0xffffff)<<16 | (attr&0xf0ff)<<40 |
		uint64(limit>>16&0xf)<<48 | uint64(base>>24)<<56
}

// flat sets the segments: all flat, as both 32- and 64-bit protocols want them.
func (l *load) flat(code uint32) error {
	s := l.state
	s.Reset(true)
	var gdt [6 * 8]byte
	le := binary.LittleEndian
	le.PutUint64(gdt[selCode:], descriptor(uint64(code), 0, 0xffffffff))
	le.PutUint64(gdt[selData:], descriptor(attrData, 0, 0xffffffff))
	le.PutUint64(gdt[selTSS:], descriptor(attrTSS, 0, 0x67))
	if err := l.write("GDT", gdtAt, gdt[:]); err != nil {
		return err
	}
	for _, r := range []vcpu.SegReg{vcpu.ES, vcpu.SS, vcpu.DS, vcpu.FS, vcpu.GS} {
		s.Seg[r] = vcpu.Segment{Selector: selData, Attr: attrData, Limit: 0xffffffff}
	}
	s.Seg[vcpu.CS] = vcpu.Segment{Selector: selCode, Attr: code, Limit: 0xffffffff}
	s.Seg[vcpu.TR] = vcpu.Segment{Selector: selTSS, Attr: attrTSS, Limit: 0x67}
	s.Reg[vcpu.GDTBase] = gdtAt
	s.Reg[vcpu.GDTLimit] = uint64(len(gdt) - 1)
	s.Reg[vcpu.IDTBase] = 0
	s.Reg[vcpu.IDTLimit] = 0
	s.Regs.GPR = [16]uint64{vcpu.RSP: stackTop}
	return nil
}

// longMode makes the state of boot.rst, "64-bit Boot Protocol": paging with
// the first 4 GiB mapped to themselves, flat 64-bit code.
func (l *load) longMode() error {
	if err := l.flat(attrCode64); err != nil {
		return err
	}
	t := make([]byte, 6*4096)
	le := binary.LittleEndian
	const next = ptPresent | ptWrite
	le.PutUint64(t, tablesAt+4096|next)
	for i := range 4 {
		le.PutUint64(t[4096+i*8:], tablesAt+uint64(2+i)*4096|next)
	}
	for i := range 4 * 512 {
		le.PutUint64(t[2*4096+i*8:], uint64(i)<<21|next|ptLarge)
	}
	if err := l.write("page tables", tablesAt, t); err != nil {
		return err
	}
	s := l.state
	s.Reg[vcpu.CR0] = cr0PE | cr0ET | cr0NE | cr0PG
	s.Reg[vcpu.CR3] = tablesAt
	s.Reg[vcpu.CR4] = cr4PAE
	s.Reg[vcpu.EFER] = eferLME | eferLMA
	return nil
}

// protectedMode makes the state that PVH and Multiboot share: 32-bit flat
// segments, paging off.
func (l *load) protectedMode(entry uint32) error {
	if err := l.flat(attrCode32); err != nil {
		return err
	}
	l.state.Reg[vcpu.CR0] = cr0PE | cr0ET
	l.state.Regs.RIP = uint64(entry)
	return nil
}
