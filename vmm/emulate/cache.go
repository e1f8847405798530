package emulate

import "fmt"

const (
	maxLen    = 15 // of an instruction (SDM vol. 2, section 2.3.11)
	cacheSize = 64
)

// An entry is an instruction decoded earlier. It holds as long as the page
// tables still lead to the same bytes and these are still the same: then the
// guest could not tell this from a fresh walk.
type entry struct {
	lin   uint64
	cr3   uint64
	key   uint32 // mode bits that translation and decoding depend on
	valid bool
	path  path
	code  []byte // in guest RAM
	in    insn
}

// key folds what of the mode matters.
func (d *mode) key() uint32 {
	return uint32(d.bits) | uint32(d.cpl)<<8 | uint32(d.cr0>>31&1)<<10 |
		uint32(d.cr4&(cr4PSE|cr4PAE|cr4LA57))<<11 | uint32(d.cr4>>20&1)<<24 | uint32(d.efer>>10&3)<<25
}

// fetch finds the instruction at RIP, decoded.
func (m *Emulator) fetch() (*entry, Outcome) {
	d := &m.mode
	rip := m.cpu.Regs().RIP
	lin := rip
	if d.bits != 64 {
		lin = (d.cs.Base + rip) & 0xffffffff
	}
	e := &m.cache[(lin^lin>>6)%cacheSize]
	key := d.key()
	if e.valid && e.lin == lin && e.cr3 == d.cr3 && e.key == key && e.path.same() && equal(e.code, &e.in.bytes) {
		m.count.Hits++
		return e, Done
	}
	m.count.Misses++
	e.valid = false
	page, o := m.codePage(lin, &e.path)
	if o != Done {
		return nil, o
	}
	code := page[lin&0xfff:]
	e.in.reset(code[:min(len(code), maxLen)])
	wrong := m.decode(&e.in)
	if wrong == nil {
		e.lin, e.cr3, e.key, e.valid = lin, d.cr3, key, true
		e.code = code[:e.in.len]
		e.in.nbytes = e.in.len
		return e, Done
	}
	if len(code) >= maxLen {
		return m.slow(e)
	}
	// The instruction may cross the page: take both parts, and do not keep it.
	m.odd.in.reset(code)
	next, o := m.codePage(lin+uint64(len(code)), &m.odd.path)
	switch {
	case o == Done:
		n := copy(m.odd.in.bytes[len(code):], next[:])
		m.odd.in.nbytes += uint8(n)
		if m.decode(&m.odd.in) == nil {
			return &m.odd, Done
		}
	case wrong == errCut: // another processor has changed the tables since: as the fetch would end now
		return nil, o
	}
	return m.slow(&m.odd)
}

// equal compares code with the bytes decoded.
func equal(code []byte, b *[maxLen]byte) bool {
	for i, c := range code {
		if c != b[i] {
			return false
		}
	}
	return true
}

func (m *Emulator) codePage(lin uint64, p *path) (*[4096]byte, Outcome) {
	gpa, o := m.translate(lin, fetch, p)
	if o != Done {
		return nil, o
	}
	page := m.bus.Page(gpa &^ 0xfff)
	if page == nil {
		m.Err = fmt.Errorf("emulate: the guest executes at RIP %#x from guest-physical address %#x, which is not RAM", m.cpu.Regs().RIP, gpa)
		return nil, Unhandled
	}
	return page, Done
}

func errTable(gpa uint64) error {
	return fmt.Errorf("emulate: the guest has a page table at %#x, which is not RAM", gpa)
}
