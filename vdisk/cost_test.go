package vdisk

import "testing"

// What requests cost in calls of the backing: nothing more than a raw file where a
// block has its place, two writes and no flush more where a flush commits new places.
func TestRequestsCostTheCallsTheyMust(t *testing.T) {
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: 64 << 30, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	calls := map[Op]int{}
	im, err := Open(&Faulty{Backing: m, Fault: func(op Op, _, _ int64) error { calls[op]++; return nil }}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	p := make([]byte, 4*kib)
	write := func(blocks ...int64) {
		for _, b := range blocks {
			if _, err := im.WriteAt(p, b*mib); err != nil {
				t.Fatal(err)
			}
		}
	}
	flush := func() {
		if err := im.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	const perPage = logSector / 8 // BAT entries
	for _, c := range []struct {
		what            string
		do              func()
		writes, flushes int
	}{
		{"the first write of an opening: two headers, one of them flushed", func() { write(0) }, 3, 1},
		{"a write to a block that has its place", func() { write(0) }, 1, 0},
		{"the first flush: the entry and a header, each flushed, the other header, the BAT's page", flush, 4, 2},
		{"a write in place and a flush", func() { write(0); flush() }, 1, 1},
		{"a flush of nothing", flush, 0, 1},
		{"a write that allocates", func() { write(1) }, 1, 0},
		{"its flush: the entry, flushed, and the BAT's page", flush, 2, 1},
		{"writes that change four pages side by side, in any order, and a flush", func() { write(3*perPage, perPage, 2, 2*perPage); flush() }, 6, 1},
	} {
		clear(calls)
		c.do()
		if w, f := calls[OpWrite], calls[OpFlush]; w != c.writes || f != c.flushes {
			t.Errorf("%s: %d writes and %d flushes instead of %d and %d", c.what, w, f, c.writes, c.flushes)
		}
	}
	clear(calls)
	for range 100 {
		write(0, 1, 2)
	}
	if calls[OpRead] != 0 || calls[OpTruncate] != 0 || calls[OpTrim] != 0 {
		t.Errorf("writes in place called for more: %v", calls)
	}
}
