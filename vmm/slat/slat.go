// Package slat keeps second-level page tables: the translation from guest-physical
// to host-physical addresses that the processor walks while a guest runs. One
// implementation serves both vendors' entry formats, EPT (SDM vol. 3, section
// 29.3) and nested paging (APM vol. 2, sections 5.3 and 15.25).
//
// # Who may do what when
//
// Every method may be called from any goroutine at any time. Entries change by
// atomic operations, because the hardware and other VCPUs' faults change them
// too; whatever adds or removes tables holds Tables.mu. WriteFault takes the
// mutex only to split a large page.
//
// # Translations that processors still hold
//
// Whenever a permission or a translation is taken away, Generation grows, once for
// the whole call. A VCPU that enters with an older generation drops its cached
// translations first. One that is inside the guest meanwhile still holds old ones:
// whoever relies on the change calls vcpu.Space.Sync after it. Write tracking
// depends on that: pages may be read for sending only after CollectDirty and
// then Sync.
//
// Tables that fell out of use are kept until Reclaim, which also needs that Sync.
package slat

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

const (
	PageSize = 1 << 12

	topLevel  = 4
	perTable  = 512
	tableSize = 4096
)

// shift is the lowest address bit that an entry of this level translates.
func shift(level int) uint { return uint(12 + 9*(level-1)) }

// span is how many bytes an entry of this level covers.
func span(level int) uint64 { return 1 << shift(level) }

func index(gpa uint64, level int) uint64 { return gpa >> shift(level) & (perTable - 1) }

// A Kind of memory, as the guest's accesses are cached.
type Kind uint8

const (
	WriteBack Kind = iota // RAM
	Uncached              // a device's registers given to the guest
)

// Options describe what the hardware can do and what the VM needs.
type Options struct {
	Limit          uint64 // guest-physical addresses below it may be mapped
	Page2M, Page1G bool   // large pages the hardware takes
	AD             bool   // the hardware sets accessed and dirty bits
	SmallCode      bool   // no large page may be executable: see ExecFault
}

// Tables is the page-table tree of one VM.
type Tables struct {
	f    *format
	opt  Options
	mem  mem.Allocator
	root *table

	generation atomic.Uint64
	tracking   atomic.Uint32 // a Mode
	dirty      atomic.Pointer[dirtyMap]
	count      counters

	mu      sync.Mutex // guards the shape of the tree, and:
	retired []*table
	closed  bool
}

// A table is one page of entries, and Go's way to the tables below it.
type table struct {
	e     *[perTable]uint64 // in block; the hardware reads and writes it too
	child *[perTable]atomic.Pointer[table]
	block mem.Block
}

// Stats counts since New, but for Tables, which is what there is now.
type Stats struct {
	Tables  uint64 // pages of table, retired ones included
	Faults  uint64 // WriteFault calls that opened something
	Opened  uint64 // pages they opened
	Raced   uint64 // WriteFault calls that found the page open already
	Splits  uint64
	Merges  uint64
	Flushes uint64 // times Generation grew
}

type counters struct {
	tables, faults, opened, raced, splits, merges atomic.Uint64
}

// New makes an empty tree.
func New(f Format, a mem.Allocator, opt Options) (*Tables, error) {
	if f >= numFormats {
		return nil, fmt.Errorf("slat: no entry format %d", f)
	}
	if opt.Limit == 0 || opt.Limit > span(topLevel+1) || opt.Limit%PageSize != 0 {
		return nil, fmt.Errorf("slat: limit %#x is not a multiple of 4 KiB between 4 KiB and 256 TiB", opt.Limit)
	}
	t := &Tables{f: &formats[f], opt: opt, mem: a}
	var err error
	if t.root, err = t.newTable(topLevel); err != nil {
		return nil, err
	}
	return t, nil
}

// For makes an empty tree in the format and with the features of backend b.
func For(b vcpu.Backend, a mem.Allocator, limit uint64) (*Tables, error) {
	c := b.Capabilities()
	f := NPT
	if b.Name() == "vmx" {
		f = EPT
	}
	return New(f, a, Options{Limit: limit, Page2M: c.Page2M, Page1G: c.Page1G, AD: c.AccessedDirty, SmallCode: c.SmallCode})
}

// Root is the physical address of the top-level table.
func (t *Tables) Root() uint64 { return t.root.block.Phys }

// Generation grows whenever cached translations must be dropped.
func (t *Tables) Generation() uint64 { return t.generation.Load() }

// Limit is the first address that can not be mapped.
func (t *Tables) Limit() uint64 { return t.opt.Limit }

// Stats tells what happened so far.
func (t *Tables) Stats() Stats {
	return Stats{
		Tables: t.count.tables.Load(), Faults: t.count.faults.Load(), Opened: t.count.opened.Load(),
		Raced: t.count.raced.Load(), Splits: t.count.splits.Load(), Merges: t.count.merges.Load(),
		Flushes: t.generation.Load(),
	}
}

// Reclaim gives tables that fell out of use back to the allocator.
//
// Preconditions: since the calls that retired them (Map over a mapping, Unmap,
// StopTracking), Space.Sync has returned, and every WriteFault that was in progress
// then has returned. A VM all of whose VCPUs are stopped meets both.
func (t *Tables) Reclaim() { t.Retired()() }

// Retired takes the tables that fell out of use, under the conditions of Reclaim, and
// returns what gives them back, which takes a while and may be called at any time.
func (t *Tables) Retired() (free func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	retired := t.retired
	t.retired = nil
	return func() {
		for _, tab := range retired {
			t.free(tab)
		}
	}
}

// Close frees everything. No VCPU may use the tables any more.
func (t *Tables) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("slat: closed twice")
	}
	t.closed = true
	for _, tab := range t.retired {
		t.free(tab)
	}
	t.retired = nil
	t.freeAll(t.root)
	t.root.e, t.root.child = nil, nil
	return nil
}

func (t *Tables) newTable(level int) (*table, error) {
	b, err := t.mem.Alloc(tableSize, tableSize)
	if err != nil {
		return nil, fmt.Errorf("slat: no memory for a page table: %w", err)
	}
	tab := &table{e: entriesOf(b.Data), block: b}
	if level > 1 {
		tab.child = new([perTable]atomic.Pointer[table])
	}
	t.count.tables.Add(1)
	return tab, nil
}

func (t *Tables) free(tab *table) {
	t.mem.Free(tab.block)
	t.count.tables.Add(^uint64(0))
}

func (t *Tables) freeAll(tab *table) {
	if tab.child != nil {
		for i := range tab.child {
			if c := tab.child[i].Load(); c != nil {
				t.freeAll(c)
			}
		}
	}
	t.free(tab)
}

// retire puts tab and all below it aside; hardware may still be walking them.
func (t *Tables) retire(tab *table) {
	if tab.child != nil {
		for i := range tab.child {
			if c := tab.child[i].Load(); c != nil {
				t.retire(c)
			}
		}
	}
	t.retired = append(t.retired, tab)
}

// A slot is where a walk ended: an entry, and the table it stands in.
type slot struct {
	tab   *table
	i     uint64
	level int
}

func (s slot) p() *uint64             { return &s.tab.e[s.i] }
func (s slot) load() uint64           { return atomic.LoadUint64(s.p()) }
func (s slot) store(v uint64)         { atomic.StoreUint64(s.p(), v) }
func (s slot) cas(old, v uint64) bool { return atomic.CompareAndSwapUint64(s.p(), old, v) }

// walk goes down from the root to the entry that translates gpa or says that
// nothing does. It needs no lock: a table that is taken out of the tree meanwhile
// stays readable until Reclaim, and changes to it are harmless.
func (t *Tables) walk(gpa uint64) (slot, uint64) {
again:
	tab := t.root
	at := uint(12 + 9*(topLevel-1)) // shift(level)
	for level := topLevel; level > 1; level-- {
		i := gpa >> (at & 63) % perTable
		at -= 9
		e := atomic.LoadUint64(&tab.e[i])
		if e&(present|large) != present {
			return slot{tab, i, level}, e
		}
		if tab = tab.child[i].Load(); tab == nil {
			goto again // merged between the two loads
		}
	}
	i := gpa / PageSize % perTable
	return slot{tab, i, 1}, atomic.LoadUint64(&tab.e[i])
}

// split replaces a large page by a table of the next smaller ones that translate
// the same. t.mu is held.
func (t *Tables) split(s slot) error {
	c, err := t.newTable(s.level - 1)
	if err != nil {
		return err
	}
	for {
		e := s.load()
		if e&present == 0 || e&large == 0 {
			panic(fmt.Sprintf("slat: split of entry %#x at level %d, which is no large page", e, s.level))
		}
		for i := range c.e {
			n := t.f.part(e, s.level, uint64(i))
			if s.level == 2 && n&mayWrite != 0 && t.Tracking() > WriteFaults {
				n = n&^t.f.dirty | writable // watched by the dirty bit from here on
			}
			c.e[i] = n
		}
		s.tab.child[s.i].Store(c) // before the entry: walkers follow the entry first
		if s.cas(e, t.f.table(c.block.Phys)) {
			break // else the hardware has set a bit of e meanwhile
		}
	}
	t.count.splits.Add(1)
	return nil
}

// merge replaces a table by one large page if its entries amount to that, and
// tells whether it did. t.mu is held, and no VCPU's faults change the entries:
// the caller has made every page that may be writable so.
func (t *Tables) merge(s slot) bool {
	c := s.tab.child[s.i].Load()
	if c == nil || !t.mayUse(s.level) {
		return false
	}
	e, ok := t.f.whole(c.e, s.level)
	if !ok {
		return false
	}
	s.store(t.withoutLargeCode(e, s.level))
	s.tab.child[s.i].Store(nil)
	t.retired = append(t.retired, c)
	t.count.merges.Add(1)
	return true
}

func (t *Tables) mayUse(level int) bool {
	return level == 1 || level == 2 && t.opt.Page2M || level == 3 && t.opt.Page1G
}

func (t *Tables) flush() { t.generation.Add(1) }

// check refuses ranges that no caller should have made up.
func (t *Tables) check(what string, gpa, size uint64) error {
	if size == 0 || (gpa|size)%PageSize != 0 || gpa > t.opt.Limit || size > t.opt.Limit-gpa {
		return fmt.Errorf("slat: %s %#x+%#x: not whole pages below %#x", what, gpa, size, t.opt.Limit)
	}
	if t.closed {
		return fmt.Errorf("slat: %s %#x+%#x: the tables are closed", what, gpa, size)
	}
	return nil
}
