package vdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// resizeModel does to m what a resize does to a disk.
func (m *model) resize(n int64) {
	if n <= int64(len(m.data)) {
		m.data = m.data[:n:n]
	} else {
		m.data = append(m.data, make([]byte, n-int64(len(m.data)))...)
	}
}

func clean(t *testing.T, b *Memory, o Options) {
	t.Helper()
	fs, err := Check(b.Snapshot(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Damage {
			t.Errorf("check: %+v", f)
		}
	}
}

func TestResizeKeepsWhatIsThereAndGainsZeroes(t *testing.T) {
	ctx := context.Background()
	for _, c := range []CreateOptions{
		{Size: 5*mib + 512*7, BlockSize: mib},
		{Size: 5 * mib, BlockSize: 2 * mib, LogicalSector: 4096},
		{Size: 3*mib + 4096, BlockSize: mib, Fixed: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			b := NewMemory()
			if err := Create(b, c); err != nil {
				t.Fatal(err)
			}
			m := &model{make([]byte, c.Size)}
			rng := rand.New(rand.NewPCG(3, 2))
			for range 4 {
				im, err := Open(b, Options{MetaPages: 2})
				if err != nil {
					t.Fatal(err)
				}
				for range 6 {
					randomOps(t, im, m, rng, 40)
					size := (1 + rng.Int64N(12*mib/4096)) * 4096
					if size < int64(len(m.data)) {
						lost := !allZero(m.data[size:])
						err := im.Resize(ctx, size)
						if lost != errors.Is(err, ErrHoldsData) || !lost && err != nil {
							t.Fatalf("to %d bytes, data behind: %v: %v", size, lost, err)
						}
						if lost {
							compare(t, im, m)
							if err := im.ResizeAndDiscard(ctx, size); err != nil {
								t.Fatal(err)
							}
						}
					} else if err := im.Resize(ctx, size); err != nil {
						t.Fatal(err)
					}
					m.resize(size)
					compare(t, im, m)
					if _, err := im.WriteAt(make([]byte, im.SectorSize()), size); !errors.Is(err, ErrBeyondEnd) {
						t.Errorf("a write behind the end: %v", err)
					}
				}
				if err := im.Close(); err != nil {
					t.Fatal(err)
				}
				clean(t, b, Options{})
				used := int64(0)
				if ro, err := Open(b.Snapshot(), Options{ReadOnly: true}); err != nil {
					t.Fatal(err)
				} else {
					compare(t, ro, m)
					i, _ := ro.Info()
					used = int64(i.Allocated) * int64(i.BlockSize)
				}
				if n, _ := b.Size(); !c.Fixed && n > used+20*mib {
					t.Errorf("the file has %d bytes for %d of blocks", n, used)
				}
			}
		})
	}
}

func TestAChildGrowsAndItsParentDoesNotShineThrough(t *testing.T) {
	ctx := context.Background()
	parent := NewMemory()
	if err := Create(parent, CreateOptions{Size: 8 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	p, err := Open(parent, Options{})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 8*mib)
	fill(rand.New(rand.NewPCG(4, 4)), data)
	if _, err := p.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	b := NewMemory()
	const old = 2*mib + 64*kib
	if err := Create(b, CreateOptions{Size: old, Parent: p, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	p.Close()
	o := Options{Parent: func([]ParentPath) (Backing, error) { return parent.Snapshot(), nil }}
	im, err := Open(b, o)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{bytes.Clone(data[:old])}
	for _, size := range []int64{4*mib + 512, 20 * mib} {
		if err := im.Resize(ctx, size); err != nil {
			t.Fatal(err)
		}
		m.resize(size)
		compare(t, im, m)
		randomOps(t, im, m, rand.New(rand.NewPCG(5, 5)), 100)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, b, o)
}

// What a child gave up stays away when it grows again: its own data, and what its
// parent holds there; and its sector bitmaps give their places back.
func TestAChildShrinksAndItsParentDoesNotShineThrough(t *testing.T) {
	ctx := context.Background()
	const size, chunk = 9 << 30, 4 << 30 // sectors of 512 bytes
	parent := NewMemory()
	if err := Create(parent, CreateOptions{Size: size, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	p, err := Open(parent, Options{})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, mib)
	fill(rand.New(rand.NewPCG(4, 4)), data)
	places := []int64{0, mib, 2 * mib, chunk - mib, chunk, chunk + 3*mib, 2 * chunk}
	for _, off := range places {
		if _, err := p.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	b := NewMemory()
	if err := Create(b, CreateOptions{Parent: p, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	p.Close()
	o := Options{Parent: func([]ParentPath) (Backing, error) { return parent.Snapshot(), nil }}
	im, err := Open(b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{mib, chunk, 2 * chunk} { // partially present; and one whole
		if _, err := im.WriteAt(data[:8*kib], off+8*kib); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := im.WriteAt(data, chunk+mib); err != nil {
		t.Fatal(err)
	}
	const end = mib + 12*kib // in the midst of what was written
	for _, n := range []int64{2*chunk + 64*kib, chunk + 3*mib, chunk - mib, 2 * mib, end} {
		if err := im.Resize(ctx, n); !errors.Is(err, ErrHoldsData) {
			t.Fatalf("made %d bytes long where the parent has data: %v", n, err)
		}
		if err := im.ResizeAndDiscard(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	if n := im.space.inUse(); n > 16*mib {
		t.Errorf("the file is %d bytes long, with %d of disk", n, im.Size())
	}
	fs, err := Check(b.Snapshot(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Severity != Noted {
			t.Errorf("check: %v", f)
		}
	}
	if err := im.Resize(ctx, size); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, mib)
	for _, off := range append(places, chunk+mib) {
		want := make([]byte, mib)
		if off < end {
			copy(want, data[:min(mib, end-off)])
			if off == mib {
				copy(want[8*kib:12*kib], data)
			}
		}
		if _, err := im.ReadAt(got, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("grown again, the disk at %d holds what it should not", off)
		}
	}
	// A block there that is written to in part is zero beside it.
	if _, err := im.WriteAt(data[:4096], chunk+4096); err != nil {
		t.Fatal(err)
	}
	if _, err := im.ReadAt(got, chunk); err != nil {
		t.Fatal(err)
	}
	if !allZero(got[:4096]) || !allZero(got[8192:]) || !bytes.Equal(got[4096:8192], data[:4096]) {
		t.Error("beside what was written, the block is not zero")
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, b, o)
}

// The BAT of 1 MiB blocks needs a larger region than the one it had.
func TestAGrowthMovesTheBATWhenItMust(t *testing.T) {
	ctx := context.Background()
	b := NewMemory()
	if err := Create(b, CreateOptions{Size: 3 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, 3*mib)}
	rng := rand.New(rand.NewPCG(6, 6))
	randomOps(t, im, m, rng, 50)
	before := im.batOff
	for _, size := range []int64{100 << 30, 200 << 30, 390 << 30} {
		if err := im.Resize(ctx, size); err != nil {
			t.Fatal(err)
		}
		if at := im.batOff; (at != before) != (size == 200<<30) {
			t.Errorf("at %d GiB the BAT went from %#x to %#x", size>>30, before, at)
		}
		before = im.batOff
		randomOps(t, im, m, rng, 50)
		p := make([]byte, 4096)
		fill(rng, p)
		q := make([]byte, 4096)
		if _, err := im.WriteAt(p, size-4096); err != nil {
			t.Fatal(err)
		}
		if _, err := im.ReadAt(q, size-4096); err != nil || !bytes.Equal(p, q) {
			t.Errorf("the last sectors of %d GiB: %v", size>>30, err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, b, Options{})
	if im, err = Open(b, Options{}); err != nil {
		t.Fatal(err)
	}
	compare(t, im, m)
	im.Close()
}

func TestAResizeThatCanNotBeLeavesTheDiskAsItWas(t *testing.T) {
	ctx := context.Background()
	b := NewMemory()
	if err := Create(b, CreateOptions{Size: 3 * mib, BlockSize: mib, Fixed: true}); err != nil {
		t.Fatal(err)
	}
	n, _ := b.Size()
	b.Truncate(n + 2*mib)
	s, err := NewSection(b, 0, n+2*mib)
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, 3*mib)}
	randomOps(t, im, m, rand.New(rand.NewPCG(7, 7)), 50)
	if err := im.Resize(ctx, 6*mib); !errors.Is(err, ErrNoSpace) {
		t.Errorf("3 MiB more in 2: %v", err)
	}
	for _, size := range []int64{0, -1, 1000, maxDisk + mib} {
		if err := im.Resize(ctx, size); err == nil {
			t.Errorf("a disk of %d bytes", size)
		}
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := im.ResizeAndDiscard(done, 3*mib); err != nil {
		t.Error("the size it has:", err)
	}
	if err := im.Resize(done, 2*mib); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if im.Size() != 3*mib {
		t.Errorf("%d bytes", im.Size())
	}
	compare(t, im, m)
	if err := im.Resize(ctx, 5*mib); err != nil {
		t.Errorf("2 MiB more in 2: %v", err)
	}
	m.resize(5 * mib)
	compare(t, im, m)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if err := im.Resize(ctx, mib); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Requests go on while the disk grows and shrinks; those behind the end are told so.
func TestRequestsGoOnDuringResizes(t *testing.T) {
	ctx := context.Background()
	for _, fixed := range []bool{false, true} {
		b := NewMemory()
		if err := Create(b, CreateOptions{Size: 8 * mib, BlockSize: mib, Fixed: fixed}); err != nil {
			t.Fatal(err)
		}
		im, err := Open(b, Options{MetaPages: 2})
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var refused atomic.Int64
		final := make([][]byte, 4)
		for w := range final { // each has a block that is always there
			final[w] = make([]byte, mib)
			wg.Add(1)
			go func() {
				defer wg.Done()
				rng := rand.New(rand.NewPCG(8, uint64(w)))
				p := make([]byte, 8192)
				for {
					select {
					case <-stop:
						return
					default:
					}
					fill(rng, p)
					in := rng.Int64N(mib/4096-1) * 4096
					if _, err := im.WriteAt(p, int64(w)*mib+in); err != nil {
						t.Error(err)
						return
					}
					copy(final[w][in:], p)
					at := 4*mib + rng.Int64N(16*mib/4096)*4096
					if _, err := im.WriteAt(p, at); errors.Is(err, ErrBeyondEnd) {
						refused.Add(1)
					} else if err != nil {
						t.Error(err)
						return
					}
					if rng.IntN(20) == 0 {
						if err := errors.Join(im.Flush(), im.Extents(0, func(Extent) error { return nil })); err != nil {
							t.Error(err)
							return
						}
					}
				}
			}()
		}
		rng := rand.New(rand.NewPCG(9, 9))
		for i := 0; i < 30 || refused.Load() == 0 && i < 100_000; i++ {
			if err := im.ResizeAndDiscard(ctx, 4*mib+rng.Int64N(16*mib/4096)*4096); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		wg.Wait()
		if refused.Load() == 0 {
			t.Error("no request met the end")
		}
		got := make([]byte, mib)
		for w := range final {
			if _, err := im.ReadAt(got, int64(w)*mib); err != nil || !bytes.Equal(got, final[w]) {
				t.Errorf("block %d is not what was written to it: %v", w, err)
			}
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		clean(t, b, Options{})
	}
}

func TestOthersReadWhatWasResized(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]CreateOptions{
		"dynamic": {Size: 3*mib + 512*5, BlockSize: 2 * mib},
		"fixed":   {Size: 4 * mib, BlockSize: mib, Fixed: true},
		"4K":      {Size: 4 * mib, BlockSize: mib, LogicalSector: 4096},
		"moved":   {Size: 4 * mib, BlockSize: mib},
	} {
		t.Run(name, func(t *testing.T) {
			v := filepath.Join(t.TempDir(), "a.vhdx")
			m := &model{ours(t, v, c, false)}
			im, err := OpenPath(v, Options{}, FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			sizes := []int64{9 * mib, 5 * mib}
			if name == "moved" {
				sizes = []int64{200 << 30, 5 * mib}
			}
			for _, size := range sizes {
				if err := im.ResizeAndDiscard(ctx, size); err != nil {
					t.Fatal(err)
				}
			}
			m.resize(5 * mib)
			randomOps(t, im, m, rand.New(rand.NewPCG(10, 10)), 50)
			compare(t, im, m)
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			othersRead(t, v, m.data, c.LogicalSector)
		})
	}
}

// Where neither a child nor its parents hold anything there is nothing to read: 6 TiB would take hours.
func TestAChildShrinksThroughWhatNobodyHolds(t *testing.T) {
	const size, block = 6 << 40, 32 * mib
	for _, parentSize := range []int64{size, 1 << 40} {
		parent := NewMemory()
		if err := Create(parent, CreateOptions{Size: parentSize, BlockSize: 256 * mib}); err != nil {
			t.Fatal(err)
		}
		p, err := Open(parent, Options{})
		if err != nil {
			t.Fatal(err)
		}
		const at = 900<<30 + block + 20*mib + 512 // in the midst of a block, behind others
		if _, err := p.WriteAt(make([]byte, 512), at-mib); err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteAt([]byte{511: 1}, at); err != nil {
			t.Fatal(err)
		}
		b := NewMemory()
		if err := Create(b, CreateOptions{Parent: p, BlockSize: block}); err != nil {
			t.Fatal(err)
		}
		p.Close()
		im, err := Open(b, Options{Parent: func([]ParentPath) (Backing, error) { return parent.Snapshot(), nil }})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int64{size, 2 << 40, 1 << 40, 900<<30 + 2*block, at + 512} {
			if err := im.Resize(t.Context(), n); err != nil {
				t.Fatalf("parent of %d TiB: made %d bytes long where nobody has data: %v", parentSize>>40, n, err)
			}
		}
		for _, n := range []int64{at, at - 512, 900 << 30, mib} {
			if err := im.Resize(t.Context(), n); !errors.Is(err, ErrHoldsData) {
				t.Errorf("parent of %d TiB: made %d bytes long where the parent has data: %v", parentSize>>40, n, err)
			}
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
