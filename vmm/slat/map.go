package slat

import (
	"fmt"
	"sync/atomic"
)

// Map lets the guest reach size bytes of host memory at hpa under the address
// gpa, in the largest pages that alignment and hardware allow. What was mapped
// there is replaced; mapping the same again changes nothing. After an error part
// of the range may be mapped.
//
// While writes are tracked, new writable pages and those they replace count as
// written.
func (t *Tables) Map(gpa, hpa, size uint64, p Perm, k Kind) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check("map", gpa, size); err != nil {
		return err
	}
	if hpa%PageSize != 0 || hpa > address || size > address+PageSize-hpa {
		return fmt.Errorf("slat: map %#x+%#x to %#x: no such host memory", gpa, size, hpa)
	}
	if p&PermRead == 0 || p&^PermRWX != 0 || k > Uncached {
		return fmt.Errorf("slat: map %#x+%#x: permissions %#x, kind %d: no such mapping", gpa, size, p, k)
	}
	replaced := false
	var err error
	for size > 0 {
		level := t.levelFor(gpa|hpa, size)
		var s slot
		if s, err = t.descend(gpa, level); err != nil {
			break
		}
		e := t.withoutLargeCode(t.f.leaf(hpa, level, p, k), level)
		old := s.load()
		if old&present == 0 || !t.sameLeaf(old, e, level) {
			s.store(t.armed(e, level))
			if level > 1 && old&present != 0 && old&large == 0 {
				t.retire(s.tab.child[s.i].Swap(nil))
			}
			replaced = replaced || old&present != 0
			if p&PermWrite != 0 || old&present != 0 {
				t.MarkDirty(gpa, span(level))
			}
		}
		gpa, hpa, size = gpa+span(level), hpa+span(level), size-span(level)
	}
	if replaced {
		t.flush()
	}
	return err
}

// levelFor is the largest page that fits addresses with these bits and size.
func (t *Tables) levelFor(bits, size uint64) int {
	for level := 3; level > 1; level-- {
		if t.mayUse(level) && bits&(span(level)-1) == 0 && size >= span(level) {
			return level
		}
	}
	return 1
}

// sameLeaf tells whether two entries at level map the same, whatever the hardware,
// write tracking or ExecFault have made of them.
func (t *Tables) sameLeaf(a, b uint64, level int) bool {
	if level > 1 && a&large == 0 {
		return false
	}
	return (a^b)&^(t.f.accessed|t.f.dirty|writable|t.f.exec|t.f.noExec) == 0
}

// descend finds the entry of gpa at level and makes the tables on the way to it.
func (t *Tables) descend(gpa uint64, level int) (slot, error) {
	s := slot{t.root, index(gpa, topLevel), topLevel}
	for s.level > level {
		e := s.load()
		switch {
		case e&present == 0:
			c, err := t.newTable(s.level - 1)
			if err != nil {
				return s, err
			}
			s.tab.child[s.i].Store(c)
			s.store(t.f.table(c.block.Phys))
		case e&large != 0:
			if err := t.split(s); err != nil {
				return s, err
			}
		}
		s = slot{s.tab.child[s.i].Load(), index(gpa, s.level-1), s.level - 1}
	}
	return s, nil
}

// Unmap takes a range away; what is not mapped there does not matter. While writes
// are tracked, it counts as written: its dirty bits may still be changing.
func (t *Tables) Unmap(gpa, size uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check("unmap", gpa, size); err != nil {
		return err
	}
	gone := false
	err := t.visit(gpa, gpa+size, func(s slot, at uint64, e uint64, covered bool) (bool, error) {
		if !covered {
			return true, t.splitIfLarge(s, e)
		}
		s.store(0)
		t.MarkDirty(at, span(s.level))
		if s.level > 1 && e&large == 0 {
			t.retire(s.tab.child[s.i].Swap(nil))
		}
		gone = true
		return false, nil
	})
	if gone {
		t.flush()
	}
	return err
}

// Protect gives all that is mapped in a range new permissions.
func (t *Tables) Protect(gpa, size uint64, p Perm) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check("protect", gpa, size); err != nil {
		return err
	}
	if p&PermRead == 0 || p&^PermRWX != 0 {
		return fmt.Errorf("slat: protect %#x+%#x: no permissions %#x", gpa, size, p)
	}
	taken := false
	err := t.visit(gpa, gpa+size, func(s slot, at uint64, e uint64, covered bool) (bool, error) {
		if isTable(s, e) {
			return true, nil
		}
		if !covered {
			return true, t.splitIfLarge(s, e)
		}
		n := t.withoutLargeCode(t.f.leaf(e&address, s.level, p, t.f.kindOf(e)), s.level)
		if t.sameLeaf(e, n, s.level) {
			return false, nil
		}
		s.store(t.armed(n, s.level))
		t.MarkDirty(at, span(s.level)) // the dirty bit that goes may have been set
		taken = true
		return false, nil
	})
	if taken {
		t.flush()
	}
	return err
}

// A Mapping is what Lookup finds.
type Mapping struct {
	HPA      uint64 // of the address asked for, not of its page
	Size     uint64 // of the page
	Perm     Perm   // as mapped
	Kind     Kind
	Writable bool // false also if tracking waits for the first write
	Code     bool // executable now; false also if ExecFault waits for the first fetch
}

// Lookup translates gpa.
func (t *Tables) Lookup(gpa uint64) (Mapping, bool) {
	if gpa >= t.opt.Limit {
		return Mapping{}, false
	}
	s, e := t.walk(gpa)
	if e&present == 0 {
		return Mapping{}, false
	}
	in := span(s.level) - 1
	return Mapping{
		HPA: e&address&^in | gpa&in, Size: in + 1,
		Perm: t.f.perm(e), Kind: t.f.kindOf(e), Writable: e&writable != 0, Code: t.f.executable(e),
	}, true
}

func isTable(s slot, e uint64) bool { return s.level > 1 && e&large == 0 }

func (t *Tables) splitIfLarge(s slot, e uint64) error {
	if isTable(s, e) {
		return nil
	}
	return t.split(s)
}

// visit calls f for every present entry that overlaps [lo, hi), tables before
// what is in them, with the address it begins at and whether the range covers it.
// For a table, or what f has turned into one, f tells whether to go down. t.mu is
// held.
func (t *Tables) visit(lo, hi uint64, f func(s slot, gpa, e uint64, covered bool) (bool, error)) error {
	return visit(t.root, topLevel, 0, lo, hi, f)
}

func visit(tab *table, level int, base, lo, hi uint64, f func(s slot, gpa, e uint64, covered bool) (bool, error)) error {
	first := uint64(0)
	if lo > base {
		first = (lo - base) >> shift(level)
	}
	for i := first; i < perTable; i++ {
		at := base + i<<shift(level)
		if at >= hi {
			break
		}
		s := slot{tab, i, level}
		e := s.load()
		if e&present == 0 {
			continue
		}
		down, err := f(s, at, e, at >= lo && at+span(level) <= hi)
		if err != nil {
			return err
		}
		if down && level > 1 {
			if c := tab.child[i].Load(); c != nil {
				if err := visit(c, level-1, at, lo, hi, f); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// clearBits takes bits out of an entry and tells whether one of them was set.
func clearBits(p *uint64, bits uint64) bool {
	for {
		e := atomic.LoadUint64(p)
		if e&bits == 0 {
			return false
		}
		if atomic.CompareAndSwapUint64(p, e, e&^bits) {
			return true
		}
	}
}
