package emulate

import (
	"encoding/binary"
	"sync/atomic"

	"godwit/vmm/vcpu"
)

// Page table entry bits (SDM vol. 3, tables 4-5 to 4-20).
const (
	pteP  = 1 << 0
	pteW  = 1 << 1
	pteU  = 1 << 2
	pteA  = 1 << 5
	pteD  = 1 << 6
	ptePS = 1 << 7
	pteNX = 1 << 63

	pteAddr = 0x000ffffffffff000
)

// Page-fault error code bits (SDM vol. 3, figure 4-12).
const (
	pfP = 1 << 0
	pfW = 1 << 1
	pfU = 1 << 2
	pfI = 1 << 4
)

// access is what a translation is for.
type access uint8

const (
	load access = iota
	store
	fetch
)

// A path is how a linear address was translated: the entries it used, so that
// a later look can tell that nothing changed.
type path struct {
	n     uint8
	wide  bool // 8-byte entries
	at    [5]*byte
	gpa   [5]uint64
	value [5]uint64
}

// same tells whether every entry of p still says what it said; A and D bits
// aside, which change nothing.
func (p *path) same() bool {
	for i := range p.n {
		if (loadEntry(p.at[i], p.wide)^p.value[i])&^(pteA|pteD) != 0 {
			return false
		}
	}
	return true
}

func (p *path) add(page *[4096]byte, table, off uint64) uint64 {
	b := &page[off]
	v := loadEntry(b, p.wide)
	p.at[p.n], p.gpa[p.n], p.value[p.n] = b, table+off, v
	p.n++
	return v
}

// translate walks the guest's page tables. With Outcome Fault, m.Fault is the page
// fault; with Unhandled, m.Err says that the tables are not in RAM.
func (m *Emulator) translate(lin uint64, a access, p *path) (gpa uint64, o Outcome) {
	d := &m.mode
	p.n, p.wide = 0, true
	if d.cr0&cr0PG == 0 {
		return lin & 0xffffffff, Done
	}
	var top int
	switch {
	case d.efer&eferLMA != 0 && d.cr4&cr4LA57 != 0:
		top = 5
	case d.efer&eferLMA != 0:
		top = 4
	case d.cr4&cr4PAE != 0:
		top = 3
	default:
		return m.translate32(lin, a, p)
	}
	if d.efer&eferLMA != 0 {
		if shift := 64 - uint(12+9*top); uint64(int64(lin<<shift)>>shift) != lin {
			m.Fault = vcpu.GP()
			return 0, Fault
		}
	} else {
		lin &= 0xffffffff
	}
	table := d.cr3 & pteAddr
	off := uint64(0)
	if top == 3 {
		off = d.cr3 & 0xfe0 // the four PDPTEs need only 32-byte alignment
	}
	rights := uint64(pteW | pteU)
	nx := false
	for level := top; ; level-- {
		page := m.bus.Page(table)
		if page == nil {
			return 0, m.tableOutside(table)
		}
		i := lin >> (12 + 9*(level-1)) & 0x1ff * 8
		e := p.add(page, table, off+i)
		off = 0
		if e&pteP == 0 {
			return 0, m.pageFault(lin, a, 0)
		}
		if level != 3 || top != 3 { // PAE's PDPTEs carry no rights
			rights &= e
			nx = nx || e&pteNX != 0 && d.efer&eferNXE != 0
		}
		if level == 1 || e&ptePS != 0 && (level == 2 || level == 3 && top > 3) {
			if !m.allowed(rights, nx, a) {
				return 0, m.pageFault(lin, a, pfP)
			}
			m.mark(p, a)
			span := uint64(1)<<(12+9*(level-1)) - 1
			return e&pteAddr&^span | lin&span, Done
		}
		table = e & pteAddr
	}
}

// translate32 is the two-level format with 4-byte entries.
func (m *Emulator) translate32(lin uint64, a access, p *path) (uint64, Outcome) {
	d := &m.mode
	p.wide = false
	lin &= 0xffffffff
	table := d.cr3 & 0xfffff000
	rights := uint64(pteW | pteU)
	for level := 2; ; level-- {
		page := m.bus.Page(table)
		if page == nil {
			return 0, m.tableOutside(table)
		}
		e := p.add(page, table, lin>>(12+10*(level-1))&0x3ff*4)
		if e&pteP == 0 {
			return 0, m.pageFault(lin, a, 0)
		}
		rights &= e
		if level == 1 || e&ptePS != 0 && d.cr4&cr4PSE != 0 {
			if !m.allowed(rights, false, a) {
				return 0, m.pageFault(lin, a, pfP)
			}
			m.mark(p, a)
			if level == 2 { // bits 20:13 are address bits 39:32 (PSE-36)
				return e&0xffc00000 | e>>13&0xff<<32 | lin&0x3fffff, Done
			}
			return e&0xfffff000 | lin&0xfff, Done
		}
		table = e & 0xfffff000
	}
}

// allowed checks rights (SDM vol. 3, section 4.6.1). Protection keys and
// shadow stacks are in no CPU model.
func (m *Emulator) allowed(rights uint64, nx bool, a access) bool {
	d := &m.mode
	user := d.cpl == 3
	if user && rights&pteU == 0 {
		return false
	}
	switch a {
	case fetch:
		return !nx && (user || rights&pteU == 0 || d.cr4&cr4SMEP == 0)
	case store:
		if rights&pteW == 0 && (user || d.cr0&cr0WP != 0) {
			return false
		}
	}
	if !user && rights&pteU != 0 && d.cr4&cr4SMAP != 0 {
		return m.cpu.Regs().RFLAGS&flagAC != 0 && !d.implicit
	}
	return true
}

// mark sets the accessed bits on the way, and the dirty bit for a store, as
// the processor's own walk does.
func (m *Emulator) mark(p *path, a access) {
	for i := range p.n {
		want := uint64(pteA)
		if a == store && i == p.n-1 {
			want |= pteD
		}
		if m.mode.efer&eferLMA == 0 && p.wide && i == 0 {
			continue // PAE's PDPTEs have neither
		}
		if p.value[i]&want != want {
			orEntry(p.at[i], uint32(want))
			p.value[i] |= want
			m.bus.Wrote(p.gpa[i], 4)
		}
	}
}

func (m *Emulator) pageFault(lin uint64, a access, code uint32) Outcome {
	switch a {
	case store:
		code |= pfW
	case fetch:
		if m.mode.efer&eferNXE != 0 || m.mode.cr4&cr4SMEP != 0 {
			code |= pfI
		}
	}
	if m.mode.cpl == 3 {
		code |= pfU
	}
	m.Fault = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, Error: code, CR2: lin}
	return Fault
}

func (m *Emulator) tableOutside(table uint64) Outcome {
	m.Err = errTable(table)
	return Unhandled
}

// The guest's entries are shared with its processors: they are read and
// changed whole, through the 32- or 64-bit word that they are.

func loadEntry(b *byte, wide bool) uint64 {
	if wide {
		return atomic.LoadUint64(word64(b))
	}
	return uint64(atomic.LoadUint32(word32(b)))
}

// orEntry sets bits in an entry's low half, where all that are set here lie.
func orEntry(b *byte, bits uint32) { atomic.OrUint32(word32(b), bits) }

var le = binary.LittleEndian
