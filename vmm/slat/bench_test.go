package slat

import "testing"

func BenchmarkMap2M(b *testing.B) {
	_, tt := tracked(b, NPT, Off)
	b.ReportAllocs()
	for i := range uint64(b.N) {
		// Two host pages in turn, so that each call changes the entry.
		if err := tt.Map(0, 8<<30+i%2<<21, 2<<20, PermRWX, WriteBack); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteFault(b *testing.B) {
	_, tt := tracked(b, NPT, WriteFaults)
	d := NewBitmap(tt.Limit())
	for gpa := uint64(0); gpa < 64<<20; gpa += 2 << 20 {
		tt.WriteFault(gpa, 512)
	}
	tt.CollectDirty(d)
	b.ReportAllocs()
	const pages = 64 << 20 / PageSize
	for i := range uint64(b.N) {
		if i%pages == 0 {
			b.StopTimer()
			tt.CollectDirty(d)
			b.StartTimer()
		}
		tt.WriteFault(i%pages*PageSize, 1)
	}
}

// BenchmarkCollect is the cost a page of collecting and closing.
func BenchmarkCollect(b *testing.B) {
	_, tt := tracked(b, NPT, WriteFaults)
	d := NewBitmap(tt.Limit())
	b.ReportAllocs()
	const pages = 64 << 20 / PageSize
	for range b.N/pages + 1 {
		b.StopTimer()
		for gpa := uint64(0); gpa < 64<<20; gpa += 2 << 20 {
			tt.WriteFault(gpa, 512)
		}
		b.StartTimer()
		tt.CollectDirty(d)
	}
}

// BenchmarkDirtyPages is of a large machine that has written a hundred pages.
func BenchmarkDirtyPages(b *testing.B) {
	tt, err := New(NPT, &machine{}, Options{Limit: 256 << 30, Page2M: true})
	if err != nil {
		b.Fatal(err)
	}
	tt.StartTracking(WriteFaults)
	for gpa := uint64(0); gpa < tt.Limit(); gpa += tt.Limit() / 100 {
		tt.MarkDirty(gpa, 1)
	}
	for b.Loop() {
		tt.DirtyPages()
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	_, tt := tracked(t, NPT, WriteFaults)
	d := NewBitmap(tt.Limit())
	for gpa := uint64(0); gpa < 64<<20; gpa += 2 << 20 {
		tt.WriteFault(gpa, 512)
	}
	if n := testing.AllocsPerRun(10, func() {
		tt.CollectDirty(d)
		for gpa := uint64(0); gpa < 64<<20; gpa += PageSize {
			tt.WriteFault(gpa, 4)
			tt.Lookup(gpa)
		}
		tt.MarkDirty(0, 1<<20)
	}); n != 0 {
		t.Errorf("%v allocations in faults and collection", n)
	}
	hpa := uint64(8 << 30)
	if n := testing.AllocsPerRun(10, func() {
		hpa ^= 1 << 21
		tt.Map(0, hpa, 2<<20, PermRWX, WriteBack)
	}); n != 0 {
		t.Errorf("%v allocations in Map", n)
	}
}
