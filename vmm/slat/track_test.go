package slat

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func tracked(t testing.TB, f Format, mode Mode) (*machine, *Tables) {
	t.Helper()
	m := &machine{}
	tt, err := New(f, m, Options{Limit: 1 << 30, Page2M: true, AD: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := tt.Map(0, 8<<30, 64<<20, PermRWX, WriteBack); err != nil {
		t.Fatal(err)
	}
	if mode != Off {
		if err := tt.StartTracking(mode); err != nil {
			t.Fatal(err)
		}
	}
	return m, tt
}

func TestRAMIsMappedInLargePages(t *testing.T) {
	_, tt := tracked(t, NPT, Off)
	if s := tt.Stats(); s.Tables != 3 || s.Splits != 0 {
		t.Errorf("64 MiB took %d tables, want 3: %+v", s.Tables, s)
	}
	if m, ok := tt.Lookup(5 << 20); !ok || m.Size != 2<<20 || m.HPA != 8<<30+5<<20 {
		t.Errorf("Lookup: %+v, %v", m, ok)
	}
}

func TestSequentialWriterFaultsOnceAGroup(t *testing.T) {
	for _, group := range []int{1, 4, 16, 64, 512} {
		m, tt := tracked(t, EPT, WriteFaults)
		const pages = 2048
		faults := 0
		for gfn := uint64(0); gfn < pages; gfn++ {
			if _, _, ok := m.access(t, EPT, tt.Root(), gfn*PageSize, true, false); !ok {
				if what, n := tt.WriteFault(gfn*PageSize, group); what != Opened || n != group {
					t.Fatalf("group %d: fault gave %d, %d pages", group, what, n)
				}
				faults++
			}
		}
		if faults != pages/group {
			t.Errorf("group %d: %d faults for %d pages", group, faults, pages)
		}
		if s := tt.Stats(); s.Faults != uint64(faults) || s.Opened != pages || s.Splits != pages/512 {
			t.Errorf("group %d: %+v", group, s)
		}
		b := NewBitmap(tt.Limit())
		if n := tt.CollectDirty(b); n != pages || b.Count() != pages {
			t.Errorf("group %d: collected %d", group, n)
		}
	}
}

func TestOneWriteCostsAtMostAGroup(t *testing.T) {
	_, tt := tracked(t, NPT, WriteFaults)
	tt.WriteFault(100*PageSize+5, 16)
	b := NewBitmap(tt.Limit())
	tt.CollectDirty(b)
	for gfn := uint64(0); gfn < 512; gfn++ {
		if b.Test(gfn) != (gfn >= 96 && gfn < 112) {
			t.Errorf("gfn %d: dirty %v", gfn, b.Test(gfn))
		}
	}
}

func TestCollectedPagesAreWatchedAgain(t *testing.T) {
	for mode := WriteFaults; mode < numModes; mode++ {
		for _, f := range []Format{EPT, NPT} {
			m, tt := tracked(t, f, mode)
			b := NewBitmap(tt.Limit())
			for round := range 3 {
				const gpa = 7<<20 + 0x5678
				for {
					if _, _, ok := m.access(t, f, tt.Root(), gpa, true, false); ok {
						break
					}
					tt.WriteFault(gpa, 1)
				}
				if mode == PageLog {
					tt.Log([]uint64{gpa})
				}
				gen := tt.Generation()
				clear(b)
				if n := tt.CollectDirty(b); n != 1 || !b.Test(gpa/PageSize) {
					t.Errorf("mode %d round %d: %d pages, ours: %v", mode, round, n, b.Test(gpa/PageSize))
				}
				if tt.Generation() != gen+1 {
					t.Errorf("mode %d round %d: cached translations stay", mode, round)
				}
			}
		}
	}
}

func TestStopTrackingRestoresLargePages(t *testing.T) {
	m, tt := tracked(t, NPT, WriteFaults)
	for gpa := uint64(0); gpa < 64<<20; gpa += 1 << 20 {
		tt.WriteFault(gpa, 8)
	}
	before := tt.Stats()
	if before.Splits != 32 || before.Tables != 35 {
		t.Fatalf("%+v", before)
	}
	tt.StopTracking()
	for gpa := uint64(0); gpa < 64<<20; gpa += 2 << 20 {
		if l, _ := tt.Lookup(gpa); l.Size != 2<<20 || !l.Writable {
			t.Fatalf("%#x: %+v", gpa, l)
		}
	}
	if s := tt.Stats(); s.Merges != 32 || s.Flushes != before.Flushes+1 {
		t.Errorf("%+v", s)
	}
	tt.Reclaim()
	if n := m.sim.Live(); n != 3*tableSize {
		t.Errorf("%d bytes live after Reclaim", n)
	}
}

func TestWithoutMemoryAWriteOpensTheLargePage(t *testing.T) {
	for mode := WriteFaults; mode < numModes; mode++ {
		m, tt := tracked(t, NPT, mode)
		m.fail = true
		if what, n := tt.WriteFault(3<<20, 1); what != Opened || n != 512 {
			t.Fatalf("mode %d: %d, %d pages", mode, what, n)
		}
		b := NewBitmap(tt.Limit())
		if n := tt.CollectDirty(b); n != 512 || !b.Test(512) || !b.Test(1023) {
			t.Errorf("mode %d: collected %d", mode, n)
		}
		if _, _, ok := m.access(t, NPT, tt.Root(), 3<<20, true, false); ok {
			t.Errorf("mode %d: still open after collection", mode)
		}
	}
}

func TestHostWritesCount(t *testing.T) {
	_, tt := tracked(t, NPT, WriteFaults)
	tt.MarkDirty(0x1fff, 2)
	tt.MarkDirty(tt.Limit()-1, ^uint64(0)) // clipped
	tt.MarkDirty(tt.Limit(), 1)            // nothing
	b := NewBitmap(tt.Limit())
	if n := tt.CollectDirty(b); n != 3 || !b.Test(1) || !b.Test(2) || !b.Test(tt.Limit()/PageSize-1) {
		t.Errorf("%d pages", n)
	}
}

func TestWriteProtectForgets(t *testing.T) {
	m, tt := tracked(t, NPT, WriteFaults)
	tt.WriteFault(0x5000, 1)
	tt.WriteFault(0x6000, 1)
	if err := tt.WriteProtect(0x5000, PageSize); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := m.access(t, NPT, tt.Root(), 0x5000, true, false); ok {
		t.Error("still writable")
	}
	b := NewBitmap(tt.Limit())
	if n := tt.CollectDirty(b); n != 1 || !b.Test(6) {
		t.Errorf("%d pages", n)
	}
}

func TestRefusals(t *testing.T) {
	_, tt := tracked(t, NPT, WriteFaults)
	for what, err := range map[string]error{
		"tracked already":      tt.StartTracking(WriteFaults),
		"not whole pages":      tt.Map(1, 0, PageSize, PermRead, WriteBack),
		"not whole pages ":     tt.Map(0, 0, 0, PermRead, WriteBack),
		"below 0x40000000":     tt.Map(1<<30-PageSize, 0, 2*PageSize, PermRead, WriteBack),
		"below 0x40000000 ":    tt.Unmap(1<<30, PageSize),
		"below 0x40000000  ":   tt.Map(PageSize, 0, ^uint64(PageSize-1), PermRead, WriteBack),
		"no such host memory":  tt.Map(0, 1<<52, PageSize, PermRead, WriteBack),
		"no such host memory ": tt.Map(0, 12, PageSize, PermRead, WriteBack),
		"no such mapping":      tt.Map(0, 0, PageSize, PermWrite, WriteBack),
		"no such mapping ":     tt.Map(0, 0, PageSize, PermRead, 2),
		"no permissions":       tt.Protect(0, PageSize, PermExec),
	} {
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%q: %v", what, err)
		}
	}
	plain, err := New(EPT, &machine{}, Options{Limit: PageSize})
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.StartTracking(DirtyBits); err == nil {
		t.Error("dirty bits without hardware that sets them")
	}
	if err := plain.WriteProtect(0, PageSize); err == nil {
		t.Error("write-protect without tracking")
	}
}

func TestDirtyPagesAreCountedAsTheyAreCollected(t *testing.T) {
	_, tt := tracked(t, NPT, WriteFaults)
	rnd := rand.New(rand.NewPCG(11, 12))
	b := NewBitmap(tt.Limit())
	if tt.DirtyPages() != 0 {
		t.Error("some are before anything was written")
	}
	for range 50 {
		for range rnd.IntN(40) {
			tt.WriteFault(rnd.Uint64N(64<<20), 1<<rnd.IntN(10))
			tt.MarkDirty(rnd.Uint64N(tt.Limit()), rnd.Uint64N(1<<20)) // what the host writes, and the last page of all
		}
		tt.MarkDirty(tt.Limit()-1, 1)
		n := tt.DirtyPages()
		clear(b)
		if tt.CollectDirty(b); n != uint64(b.Count()) || tt.DirtyPages() != 0 {
			t.Fatalf("%d counted, %d collected, %d left", n, b.Count(), tt.DirtyPages())
		}
	}
	tt.StopTracking()
	if n := tt.DirtyPages(); n != 0 {
		t.Errorf("%d without tracking", n)
	}
}
