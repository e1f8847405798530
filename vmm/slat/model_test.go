package slat

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"godwit/vmm/mem"
)

// A machine is the hardware's side of the tables: it finds them by physical address
// only, and complains about what a processor would complain about.
type machine struct {
	mu   sync.Mutex
	sim  mem.Simulated
	page map[uint64]*[perTable]uint64
	fail bool // no memory

	smallCode bool // a fetch must not find a large page
}

func (m *machine) Alloc(size, align uint64) (mem.Block, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail {
		return mem.Block{}, fmt.Errorf("out of memory, as the test wants it")
	}
	b, err := m.sim.Alloc(size, align)
	if m.page == nil {
		m.page = map[uint64]*[perTable]uint64{}
	}
	m.page[b.Phys] = entriesOf(b.Data)
	return b, err
}

func (m *machine) Free(b mem.Block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range b.Data {
		b.Data[i] = 0xff // whoever still walks it will not like it
	}
	delete(m.page, b.Phys)
	m.sim.Free(b)
}

func (m *machine) table(phys uint64) *[perTable]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.page[phys]
}

// access is one access of a guest: the host address it reaches, and whether it is
// allowed. Like hardware it sets A and D.
func (m *machine) access(t testing.TB, f Format, root, gpa uint64, write, exec bool) (hpa uint64, mapped, ok bool) {
	w, x := true, true
	for level := topLevel; ; level-- {
		tab := m.table(root)
		if tab == nil {
			t.Errorf("gpa %#x: the walk leads to %#x, which is no table", gpa, root)
			return 0, false, false
		}
		p := &tab[index(gpa, level)]
	again:
		e := atomic.LoadUint64(p)
		if e&7 == 0 {
			return 0, false, false
		}
		if e>>52&0x7ff != 0 || f == EPT && e>>63 != 0 {
			t.Errorf("gpa %#x level %d: entry %#x has bits above the address", gpa, level, e)
		}
		leaf := level == 1 || e&large != 0
		if level == topLevel && leaf {
			t.Errorf("gpa %#x: entry %#x is large at the top level", gpa, e)
			return 0, false, false
		}
		switch f {
		case EPT: // SDM vol. 3, section 29.3.3.1: misconfigurations
			if mt := e >> 3 & 7; e&3 == 2 || leaf && (mt == 2 || mt == 3 || mt == 7) || !leaf && e>>3&0x1f != 0 {
				t.Errorf("gpa %#x level %d: entry %#x is an EPT misconfiguration", gpa, level, e)
			}
			x = x && e&4 != 0
		case NPT:
			if e&1 == 0 || e&4 == 0 {
				t.Errorf("gpa %#x level %d: entry %#x is not present or not for user accesses", gpa, level, e)
			}
			x = x && e>>63 == 0
		}
		w = w && e&2 != 0
		if leaf {
			if e&address&(span(level)-1) != 0 {
				t.Errorf("gpa %#x level %d: entry %#x is misaligned", gpa, level, e)
			}
			if write && !w || exec && !x {
				return 0, true, false
			}
			if exec && level > 1 && m.smallCode {
				t.Errorf("gpa %#x: code in a large page, entry %#x at level %d", gpa, e, level)
			}
			if d := formats[f].dirty; write && e&d == 0 && !atomic.CompareAndSwapUint64(p, e, e|d) {
				goto again
			}
			return e&address | gpa&(span(level)-1), true, true
		}
		root = e & address
	}
}

// A model says what should be mapped: page by page, without cleverness.
type model struct {
	page  []modelPage
	dirty map[uint64]bool // lower bound: what has surely been written
}

type modelPage struct {
	hpa  uint64
	perm Perm // 0: not mapped
	kind Kind
}

func (mo *model) set(gpa, size uint64, f func(i uint64, p *modelPage)) {
	for i := uint64(0); i < size/PageSize; i++ {
		f(i, &mo.page[gpa/PageSize+i])
	}
}

func (mo *model) check(t *testing.T, tt *Tables, m *machine, f Format, gfn uint64) {
	t.Helper()
	gpa := gfn*PageSize + 0x123
	want := mo.page[gfn]
	got, ok := tt.Lookup(gpa)
	hpa, mapped, _ := m.access(t, f, tt.Root(), gpa, false, false)
	_, _, exec := m.access(t, f, tt.Root(), gpa, false, true)
	if got.Code != exec {
		t.Fatalf("gpa %#x: Lookup says executable %v, the hardware %v", gpa, got.Code, exec)
	}
	if m.smallCode && mapped && !exec && gfn%64 == 0 { // seldom, so that large pages stay
		again, err := tt.ExecFault(gpa)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, exec = m.access(t, f, tt.Root(), gpa, false, true); exec != again {
			t.Fatalf("gpa %#x: a fetch is said to be possible: %v; it is: %v", gpa, again, exec)
		}
		got, _ = tt.Lookup(gpa)
	}
	switch {
	case ok != (want.perm != 0) || mapped != ok:
		t.Fatalf("gpa %#x: Lookup says mapped %v, the hardware %v, the model %v", gpa, ok, mapped, want.perm != 0)
	case ok && (got.HPA != want.hpa+0x123 || hpa != got.HPA || got.Perm != want.perm || got.Kind != want.kind):
		t.Fatalf("gpa %#x: Lookup %+v, the hardware reaches %#x, the model %+v", gpa, got, hpa, want)
	case ok && exec != (want.perm&PermExec != 0) && !(m.smallCode && !exec && got.Size > PageSize):
		t.Fatalf("gpa %#x: the hardware may execute: %v, the model %+v", gpa, exec, want)
	case ok && tt.Tracking() == Off && got.Writable != (want.perm&PermWrite != 0):
		t.Fatalf("gpa %#x: writable %v without tracking, the model %+v", gpa, got.Writable, want)
	}
}

func TestRandomOperationsMatchAModel(t *testing.T) {
	for _, f := range []Format{EPT, NPT} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s/%d", formats[f].name, seed), func(t *testing.T) {
				testModel(t, f, seed, 300)
			})
		}
	}
}

func testModel(t *testing.T, f Format, seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	limit := uint64(64 << 20)
	if seed%3 == 2 {
		limit = 3 << 30
	}
	m := &machine{smallCode: seed > 3}
	tt, err := New(f, m, Options{Limit: limit, Page2M: seed%4 != 3, Page1G: seed%2 == 0, AD: true, SmallCode: m.smallCode})
	if err != nil {
		t.Fatal(err)
	}
	mo := model{page: make([]modelPage, limit/PageSize), dirty: map[uint64]bool{}}
	got := NewBitmap(limit)
	unit := func() uint64 {
		return []uint64{1 << 12, 1 << 12, 1 << 21, 1 << 21, 1 << 30}[rnd.IntN(5)]
	}
	interval := func() (gpa, size uint64) {
		u := min(unit(), limit/4)
		gpa = rnd.Uint64N(limit/u) * u
		return gpa, min((1+rnd.Uint64N(4))*u, limit-gpa)
	}
	perms := []Perm{PermRead, PermRW, PermRWX, PermRWX, PermRX}
	for step := range steps {
		gpa, size := interval()
		gen := tt.Generation()
		taken := false // a translation or permission was taken away
		switch op := rnd.IntN(12); op {
		case 0, 1, 2, 3:
			hpa := (1 + rnd.Uint64N(1<<10)) * unit()
			p, k := perms[rnd.IntN(len(perms))], Kind(rnd.IntN(8)/7)
			if err := tt.Map(gpa, hpa, size, p, k); err != nil {
				t.Fatal(err)
			}
			mo.set(gpa, size, func(i uint64, q *modelPage) {
				n := modelPage{hpa + i*PageSize, p, k}
				taken = taken || q.perm != 0 && *q != n
				*q = n
			})
		case 4:
			if err := tt.Unmap(gpa, size); err != nil {
				t.Fatal(err)
			}
			mo.set(gpa, size, func(_ uint64, q *modelPage) {
				taken = taken || q.perm != 0
				*q = modelPage{}
			})
		case 5:
			p := perms[rnd.IntN(len(perms))]
			if err := tt.Protect(gpa, size, p); err != nil {
				t.Fatal(err)
			}
			mo.set(gpa, size, func(_ uint64, q *modelPage) {
				if q.perm != 0 {
					taken = taken || q.perm != p
					q.perm = p
				}
			})
		case 6, 7, 8: // the guest writes
			for range 20 {
				gfn := (gpa + rnd.Uint64N(size)) / PageSize
				_, _, ok := m.access(t, f, tt.Root(), gfn*PageSize, true, false)
				if !ok {
					what, n := tt.WriteFault(gfn*PageSize, 1<<rnd.IntN(10))
					want := NotMapped
					if q := mo.page[gfn]; q.perm&PermWrite != 0 {
						want = Opened
					} else if q.perm != 0 {
						want = ReadOnly
					}
					if what != want || (n > 0) != (want == Opened) {
						t.Fatalf("write fault at %#x: %d, %d pages; want %d", gfn*PageSize, what, n, want)
					}
					_, _, ok = m.access(t, f, tt.Root(), gfn*PageSize, true, false)
				}
				if want := mo.page[gfn].perm&PermWrite != 0; ok != want {
					t.Fatalf("write to gfn %#x allowed: %v, want %v", gfn, ok, want)
				}
				if ok && tt.Tracking() != Off {
					mo.dirty[gfn] = true
					if tt.Tracking() == PageLog {
						tt.Log([]uint64{gfn * PageSize})
					}
				}
			}
		case 9:
			if tt.Tracking() == Off {
				if err := tt.StartTracking(Mode(1 + rnd.IntN(3))); err != nil {
					t.Fatal(err)
				}
				clear(mo.dirty)
				clear(got)
			} else {
				tt.StopTracking()
			}
		case 10:
			n := tt.CollectDirty(got)
			if tt.Tracking() == Off {
				break
			}
			if n < len(mo.dirty) {
				t.Fatalf("step %d: collected %d pages of %d written", step, n, len(mo.dirty))
			}
			for gfn := range mo.dirty {
				if !got.Test(gfn) {
					t.Fatalf("step %d: gfn %#x was written and not collected (mode %d)", step, gfn, tt.Tracking())
				}
			}
			clear(got)
			clear(mo.dirty)
			if tt.CollectDirty(got) != 0 {
				t.Fatal("a second collection found more")
			}
		case 11:
			tt.Reclaim()
		}
		if taken && tt.Generation() != gen+1 {
			t.Fatalf("step %d: generation %d after %d", step, tt.Generation(), gen)
		}
		for range 40 {
			mo.check(t, tt, m, f, (gpa+rnd.Uint64N(size))/PageSize)
			mo.check(t, tt, m, f, rnd.Uint64N(limit)/PageSize)
		}
	}
	for gfn := range mo.page {
		mo.check(t, tt, m, f, uint64(gfn))
	}
	if n := m.sim.Live(); n != tt.Stats().Tables*tableSize {
		t.Errorf("%d bytes live, %d tables counted", n, tt.Stats().Tables)
	}
	if err := tt.Close(); err != nil || m.sim.Live() != 0 {
		t.Errorf("after Close: %v, %d bytes live", err, m.sim.Live())
	}
}
