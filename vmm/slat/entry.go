package slat

import "sync/atomic"

// A Format is one vendor's layout of an entry.
type Format uint8

const (
	EPT Format = iota // SDM vol. 3, section 29.3.2
	NPT               // APM vol. 2, section 5.3.3; 15.25.5: every access is a user access
	numFormats
)

// Perm is what a guest may do with a page.
type Perm uint8

const (
	PermRead  Perm = 1 << iota // always set in a mapping: neither format has pages without
	PermWrite                  //
	PermExec
	PermRW  = PermRead | PermWrite
	PermRX  = PermRead | PermExec
	PermRWX = PermRead | PermWrite | PermExec
)

// Bits that both formats have in the same place. EPT calls present "read".
const (
	present  = 1 << 0
	writable = 1 << 1
	large    = 1 << 7  // not at level 1, where NPT has its PAT bit; it is never set there
	mayWrite = 1 << 11 // ours, ignored by both: mapped with PermWrite, whatever writable says now
	mayExec  = 1 << 10 // likewise with PermExec; EPT ignores it without mode-based execution, which is off
	address  = 0x000f_ffff_ffff_f000
)

// A format is what differs.
type format struct {
	name     string
	link     uint64 // an entry that points to a table, but for the address
	page     uint64 // set in every page's entry
	exec     uint64 // set if the page is executable
	noExec   uint64 // set if not
	accessed uint64
	dirty    uint64
	kind     [2]uint64 // by Kind
	kindMask uint64
}

var formats = [numFormats]format{
	EPT: {
		name:     "EPT",
		link:     0x7 | 1<<8,           // read, write, execute; accessed
		page:     present | 1<<8,       // read; accessed
		exec:     1 << 2,               //
		accessed: 1 << 8,               // ignored unless EPTP bit 6 is set
		dirty:    1 << 9,               // likewise
		kind:     [2]uint64{6 << 3, 0}, // memory type WB, UC; the guest's PAT refines it
		kindMask: 7 << 3,
	},
	NPT: {
		name:     "NPT",
		link:     0x7 | 1<<5,                // present, write, user; accessed
		page:     present | 1<<2 | 1<<5,     // present, user; accessed
		noExec:   1 << 63,                   //
		accessed: 1 << 5,                    //
		dirty:    1 << 6,                    //
		kind:     [2]uint64{0, 1<<3 | 1<<4}, // PWT and PCD: PAT entries 0 (WB) and 3 (UC) of the host's PAT
		kindMask: 1<<3 | 1<<4,
	},
}

// table is an entry that points to a table. All permissions are set: only those
// of the page's own entry count.
func (f *format) table(phys uint64) uint64 { return f.link | phys }

// leaf is a page's entry. It says accessed and dirty, which spares the hardware
// from setting the bits.
func (f *format) leaf(hpa uint64, level int, p Perm, k Kind) uint64 {
	e := f.page | hpa | f.kind[k]
	if level > 1 {
		e |= large
	}
	if p&PermWrite != 0 {
		e |= writable | mayWrite | f.dirty
	}
	if p&PermExec != 0 {
		e |= mayExec | f.exec
	} else {
		e |= f.noExec
	}
	return e
}

// part is the i-th of the 512 smaller pages that a large one consists of.
func (f *format) part(e uint64, level int, i uint64) uint64 {
	e += i << shift(level-1) // the address is aligned to the large page: no carry
	if level-1 == 1 {
		e &^= large
		if e&mayExec != 0 {
			e = e&^f.noExec | f.exec
		}
	}
	return e
}

// whole is the large page at level that 512 entries amount to, if they do: all
// present, alike but for accessed and dirty, and one after the other in memory.
func (f *format) whole(es *[perTable]uint64, level int) (uint64, bool) {
	ad := f.accessed | f.dirty
	first := atomic.LoadUint64(&es[0])
	if first&present == 0 || first&address&(span(level)-1) != 0 || level > 2 && first&large == 0 {
		return 0, false
	}
	got := first
	for i := range es {
		e := atomic.LoadUint64(&es[i])
		if (e^(first+uint64(i)<<shift(level-1)))&^ad != 0 {
			return 0, false
		}
		got |= e & ad
	}
	return got | large, true
}

func (f *format) perm(e uint64) Perm {
	p := PermRead
	if e&mayWrite != 0 {
		p |= PermWrite
	}
	if e&mayExec != 0 {
		p |= PermExec
	}
	return p
}

func (f *format) executable(e uint64) bool { return e&f.exec == f.exec && e&f.noExec == 0 }

func (f *format) kindOf(e uint64) Kind {
	if e&f.kindMask == f.kind[Uncached] {
		return Uncached
	}
	return WriteBack
}
