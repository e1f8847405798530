package slat

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// A Mode is how writes are noticed.
//
// In every mode large pages are mapped read-only at first: the first write to one
// faults and splits it to 4K, so that memory which stays clean keeps its large
// pages. What differs is how the 4K pages are watched.
type Mode uint32

const (
	Off         Mode = iota
	WriteFaults      // read-only until a fault opens them, a group at a time
	DirtyBits        // by the D bits that the hardware sets, found by a scan
	PageLog          // by D bits, found through the processor's log (PML): the backend feeds Log
	numModes
)

// StartTracking begins to record writes. Nothing counts as written yet. The pages'
// contents may be read once vcpu.Space.Sync has returned.
func (t *Tables) StartTracking(m Mode) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errors.New("slat: tracking: the tables are closed")
	case m == Off || m >= numModes:
		return fmt.Errorf("slat: tracking: no mode %d", m)
	case m != WriteFaults && !t.opt.AD:
		return errors.New("slat: tracking: this processor sets no dirty bits in second-level tables")
	case t.Tracking() != Off:
		return errors.New("slat: writes are being tracked already")
	}
	t.dirty.Store(newDirtyMap(t.opt.Limit)) // before any entry is armed: a fault on one needs it
	t.tracking.Store(uint32(m))
	t.arm(0, t.opt.Limit)
	t.flush()
	return nil
}

// Tracking tells the mode.
func (t *Tables) Tracking() Mode { return Mode(t.tracking.Load()) }

// WriteProtect forgets the writes to a range up to now: its pages are watched as
// after StartTracking. Parts of large pages at its ends are included.
func (t *Tables) WriteProtect(gpa, size uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check("write-protect", gpa, size); err != nil {
		return err
	}
	if t.Tracking() == Off {
		return errors.New("slat: write-protect: writes are not being tracked")
	}
	d := t.dirty.Load()
	for gfn := gpa / PageSize; gfn < (gpa+size)/PageSize; gfn++ {
		clearBits(&d.bits[gfn/64], 1<<(gfn%64))
	}
	if t.arm(gpa, gpa+size) {
		t.flush()
	}
	return nil
}

// armed is entry e of a page at level as tracking wants it: so that the next write
// leaves a trace.
func (t *Tables) armed(e uint64, level int) uint64 { return e &^ t.armBit(level) }

func (t *Tables) armBit(level int) uint64 {
	switch {
	case t.Tracking() == Off:
		return 0
	case level > 1 || t.Tracking() == WriteFaults:
		return writable
	default:
		return t.f.dirty
	}
}

func (t *Tables) arm(lo, hi uint64) (changed bool) {
	t.visit(lo, hi, func(s slot, _, e uint64, _ bool) (bool, error) {
		if isTable(s, e) {
			return true, nil
		}
		if clearBits(s.p(), t.armBit(s.level)) {
			changed = true
		}
		return false, nil
	})
	return changed
}

// StopTracking opens all pages and makes large ones of the 4K ones again.
func (t *Tables) StopTracking() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Tracking() == Off {
		return
	}
	t.tracking.Store(uint32(Off))
	t.visit(0, t.opt.Limit, func(s slot, _, e uint64, _ bool) (bool, error) {
		for e&mayWrite != 0 && e&writable == 0 && !isTable(s, e) {
			if s.cas(e, e|writable|t.f.dirty) {
				break
			}
			e = s.load()
		}
		return true, nil
	})
	t.dirty.Store(nil)
	before := len(t.retired)
	t.mergeAll(t.root, topLevel)
	if len(t.retired) != before {
		t.flush() // processors may have cached the way through the old tables
	}
}

func (t *Tables) mergeAll(tab *table, level int) {
	for i := range tab.child {
		c := tab.child[i].Load()
		if c == nil {
			continue
		}
		if level > 2 {
			t.mergeAll(c, level-1)
		}
		t.merge(slot{tab, uint64(i), level})
	}
}

// A Fault is what became of a write that the second-level tables refused.
type Fault uint8

const (
	NotMapped Fault = iota // nothing is mapped there: a device, or nothing
	ReadOnly               // mapped without PermWrite: ROM
	Opened                 // writable now: the guest may go on
	Raced                  // another VCPU's fault had opened it already: likewise
)

// WriteFault handles a guest's write to a page that is not writable. If tracking
// made it so, it is opened together with its neighbours: the group pages (at most
// 512) of its aligned group, all of which count as written. It returns what
// happened and how many pages were opened.
//
// The order is: open, then mark. CollectDirty takes the marks, then closes. So a
// mark may come twice for one write, but no write is without a later mark.
func (t *Tables) WriteFault(gpa uint64, group int) (Fault, int) {
	if gpa >= t.opt.Limit {
		return NotMapped, 0
	}
	for {
		s, e := t.walk(gpa)
		switch {
		case e&present == 0:
			return NotMapped, 0
		case e&mayWrite == 0:
			return ReadOnly, 0
		case e&writable != 0:
			t.count.raced.Add(1)
			return Raced, 0
		case s.level == 1:
			n := t.open(s, gpa, group)
			if n == 0 {
				continue // another VCPU was faster; see what it made of the page
			}
			t.count.faults.Add(1)
			t.count.opened.Add(uint64(n))
			return Opened, n
		}
		if n := t.openLarge(gpa); n != 0 {
			t.count.faults.Add(1)
			t.count.opened.Add(uint64(n))
			return Opened, n
		}
	}
}

// open makes the group around s writable and marks it; it counts only pages that
// were closed.
func (t *Tables) open(s slot, gpa uint64, group int) (n int) {
	if group <= 1 {
		p, open := s.p(), writable|t.f.dirty
		for {
			e := atomic.LoadUint64(p)
			if e&(present|mayWrite|writable) != present|mayWrite {
				return 0
			}
			if atomic.CompareAndSwapUint64(p, e, e|open) {
				break
			}
		}
		if d := t.dirty.Load(); d != nil {
			d.set(gpa/PageSize/64, 1<<(gpa/PageSize%64))
		}
		return 1
	}
	g := uint64(min(group, perTable))
	lo := s.i - s.i%g
	hi := min(lo+g, perTable)
	var opened [perTable / 64]uint64
	for i := lo; i < hi; i++ {
		p := &s.tab.e[i]
		for {
			e := atomic.LoadUint64(p)
			if e&(present|mayWrite|writable) != present|mayWrite {
				break
			}
			if atomic.CompareAndSwapUint64(p, e, e|writable|t.f.dirty) {
				opened[i/64] |= 1 << (i % 64)
				n++
				break
			}
		}
	}
	d := t.dirty.Load()
	if d == nil {
		return n
	}
	word := (gpa / PageSize &^ (perTable - 1)) / 64
	for i := lo / 64; i <= (hi-1)/64; i++ {
		if opened[i] != 0 {
			d.set(word+i, opened[i])
		}
	}
	return n
}

// openLarge deals with a write to a closed large page: it splits it one level and
// returns 0, or, if that was all it took, how many pages are open now. Without
// memory for a table it opens the whole page instead.
func (t *Tables) openLarge(gpa uint64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, e := t.walk(gpa)
	if t.closed || s.level == 1 || e&(present|mayWrite|writable) != present|mayWrite {
		return 0
	}
	if m := t.Tracking(); m != Off {
		if t.split(s) == nil {
			if s.level == 2 && m != WriteFaults {
				return 1 // its dirty bit will tell
			}
			return 0
		}
	}
	for !s.cas(e, e|writable|t.f.dirty) {
		e = s.load()
	}
	t.MarkDirty(gpa&^(span(s.level)-1), span(s.level))
	return int(span(s.level) / PageSize)
}

// MarkDirty records that the host itself has written to guest memory. Call it after
// the write: CollectDirty may come between.
func (t *Tables) MarkDirty(gpa, size uint64) {
	d := t.dirty.Load()
	if d == nil || size == 0 || gpa >= t.opt.Limit {
		return
	}
	d.setRange(gpa/PageSize, (gpa+min(size, t.opt.Limit-gpa)-1)/PageSize)
}

// Dirty tells whether the page at gpa counts as written now. It takes no lock.
func (t *Tables) Dirty(gpa uint64) bool {
	d := t.dirty.Load()
	if d == nil || gpa >= t.opt.Limit {
		return false
	}
	gfn := gpa / PageSize
	return atomic.LoadUint64(&d.bits[gfn/64])>>(gfn%64)&1 != 0
}

// Log records the writes that the processor's page-modification log tells of (SDM
// vol. 3, section 29.3.6).
func (t *Tables) Log(gpas []uint64) {
	d := t.dirty.Load()
	if d == nil {
		return
	}
	for _, gpa := range gpas {
		if gpa < t.opt.Limit {
			d.setRange(gpa/PageSize, gpa/PageSize)
		}
	}
}

// CollectDirty adds the pages written since tracking began or the last call to dst,
// watches them again, and returns how many there were. Their contents may be read
// once vcpu.Space.Sync has returned.
func (t *Tables) CollectDirty(dst Bitmap) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dirty.Load()
	if d == nil {
		return 0
	}
	if len(dst) < len(d.bits) {
		panic(fmt.Sprintf("slat: a bitmap of %d words where %d are needed", len(dst), len(d.bits)))
	}
	changed := false
	if t.Tracking() == DirtyBits {
		changed = t.harvest(d)
	}
	d.drain(func(w, v uint64) { // before closing: see WriteFault
		n += bits.OnesCount64(v)
		dst[w] |= v
		if t.close64(w*64, v) {
			changed = true
		}
	})
	if changed {
		t.flush()
	}
	return n
}

// close64 watches those of the 64 pages from gfn on that v names. One table or one
// large page holds them all.
func (t *Tables) close64(gfn, v uint64) (changed bool) {
	s, e := t.walk(gfn * PageSize)
	if s.level > 1 {
		return e&present != 0 && clearBits(s.p(), t.armBit(s.level))
	}
	bit := t.armBit(1)
	for ; v != 0; v &= v - 1 {
		if clearBits(&s.tab.e[s.i+uint64(bits.TrailingZeros64(v))], bit) {
			changed = true
		}
	}
	return changed
}

// harvest moves D bits of 4K pages into d.
func (t *Tables) harvest(d *dirtyMap) (changed bool) {
	t.visit(0, t.opt.Limit, func(s slot, gpa, e uint64, _ bool) (bool, error) {
		if isTable(s, e) {
			return true, nil
		}
		if s.level == 1 && e&mayWrite != 0 && clearBits(s.p(), t.f.dirty) {
			d.setRange(gpa/PageSize, gpa/PageSize)
			changed = true
		}
		return false, nil
	})
	return changed
}

// DirtyPages is how many pages count as written now. A migration asks for every half
// megabyte that it sends.
func (t *Tables) DirtyPages() uint64 {
	d := t.dirty.Load()
	if d == nil {
		return 0
	}
	return d.count()
}
