package vdisk

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
)

// sparse makes an image whose disk is filled and then holed, so that its file has
// gaps, and blocks that hold only zeroes.
func sparse(t *testing.T, im *Image, m *model, rng *rand.Rand) {
	t.Helper()
	bs := int64(im.BlockSize())
	fill(rng, m.data)
	if _, err := im.WriteAt(m.data, 0); err != nil {
		t.Fatal(err)
	}
	for n := int64(0); n < int64(len(m.data))/bs; n++ {
		p := m.data[n*bs:][:bs]
		var err error
		switch n % 4 {
		case 0:
			clear(p)
			err = im.Trim(n*bs, bs)
		case 1:
			clear(p)
			_, err = im.WriteAt(p, n*bs)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompactionShortensTheFileAndKeepsTheDisk(t *testing.T) {
	ctx := context.Background()
	parent := NewMemory()
	if err := Create(parent, CreateOptions{Size: 16 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	o := Options{MetaPages: 2, Parent: func([]ParentPath) (Backing, error) { return parent.Snapshot(), nil }}
	for name, c := range map[string]CreateOptions{
		"512":   {Size: 16 * mib, BlockSize: mib},
		"4096":  {Size: 16 * mib, BlockSize: 2 * mib, LogicalSector: 4096},
		"child": {Size: 16 * mib, BlockSize: mib},
		"fixed": {Size: 16 * mib, BlockSize: mib, Fixed: true},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "child" {
				p, err := Open(parent.Snapshot(), Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				c.Parent = p
			}
			b := NewMemory()
			if err := Create(b, c); err != nil {
				t.Fatal(err)
			}
			im, err := Open(b, o)
			if err != nil {
				t.Fatal(err)
			}
			m := &model{make([]byte, c.Size)}
			rng := rand.New(rand.NewPCG(11, 1))
			sparse(t, im, m, rng)
			before, _ := b.Size()
			calls := 0
			got, err := im.Compact(ctx, func(c Compaction) { calls++ })
			if err != nil {
				t.Fatal(err)
			}
			after, _ := b.Size()
			if got.After != after || calls == 0 {
				t.Errorf("the file has %d bytes after %d calls, but %+v", after, calls, got)
			}
			if !c.Fixed && (got.Moved == 0 || got.Freed == 0 || after >= before) {
				t.Errorf("%d bytes became %d: %+v", before, after, got)
			}
			compare(t, im, m)
			i, err := im.Info()
			if err != nil {
				t.Fatal(err)
			}
			used := int64(4+2)*mib + int64(i.Allocated)*int64(i.BlockSize)
			if after > used {
				t.Errorf("%d bytes for a need of %d", after, used)
			}
			randomOps(t, im, m, rng, 50)
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			clean(t, b, o)
			if im, err = Open(b, o); err != nil {
				t.Fatal(err)
			}
			compare(t, im, m)
			im.Close()
		})
	}
}

// Everything that can have another place gets one: payload, a sector bitmap, the BAT,
// the metadata, the log.
func TestCompactionMovesAllThatCanHaveAnotherPlace(t *testing.T) {
	ctx := context.Background()
	parent, b := NewMemory(), NewMemory()
	if err := Create(parent, CreateOptions{Size: 8 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	p, err := Open(parent, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(b, CreateOptions{Parent: p, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	p.Close()
	o := Options{Parent: func([]ParentPath) (Backing, error) { return parent.Snapshot(), nil }}
	im, err := Open(b, o)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, 8*mib)}
	rng := rand.New(rand.NewPCG(12, 1))
	data := make([]byte, 4*mib)
	fill(rng, data)
	copy(m.data, data)
	for _, err := range []error{
		second(im.WriteAt(data, 0)), // whole blocks: no bitmap
		im.Flush(),
		second(im.WriteAt(data[:4096], 6*mib)), // the bitmap, and a partial block
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	copy(m.data[6*mib:], data[:4096])
	off, c, err := im.space.alloc(mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.moveBAT(ctx, off, mib, c); err != nil { // to the file's end
		t.Fatal(err)
	}
	md, _ := findRegion(im.regions, regionMetadata)
	var ends [2]int64
	for i := range ends {
		if ends[i], _, err = im.space.alloc(mib); err != nil {
			t.Fatal(err)
		}
	}
	for i, move := range []func(int64) error{im.moveMetadata, im.moveLog} {
		if err := im.step(func() error { return move(ends[i]) }); err != nil {
			t.Fatal(err)
		}
	}
	log := im.j.off
	if now, _ := findRegion(im.regions, regionMetadata); now.Offset <= md.Offset || log <= int64(now.Offset) || log <= off {
		t.Fatalf("the metadata is at %#x, the log at %#x: neither moved to the end", now.Offset, log)
	}
	compare(t, im, m)
	if err := im.Trim(0, 3*mib); err != nil {
		t.Fatal(err)
	}
	clear(m.data[:3*mib])
	bitmap, err := im.bitmapOf(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Compact(ctx, nil); err != nil {
		t.Fatal(err)
	}
	now, err := im.bitmapOf(0)
	if err != nil || now >= bitmap || im.batOff >= off {
		t.Errorf("the bitmap was at %#x and is at %#x, the BAT was at %#x and is at %#x: %v", bitmap, now, off, im.batOff, err)
	}
	if n, _ := b.Size(); n != 7*mib { // headers, log, metadata, BAT, two blocks, bitmap
		t.Errorf("the file has %d bytes", n)
	}
	compare(t, im, m)
	randomOps(t, im, m, rng, 50)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, b, o)
}

func second[T any](_ T, err error) error { return err }

// A vectoredMemory takes many buffers at once, as files do.
type vectoredMemory struct{ *Memory }

func (m vectoredMemory) readv(bufs [][]byte, off int64) error {
	for _, p := range bufs {
		if _, err := m.ReadAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

func (m vectoredMemory) writev(bufs [][]byte, off int64) error {
	for _, p := range bufs {
		m.WriteAt(p, off)
		off += int64(len(p))
	}
	return nil
}

// What is written to a block while it moves is there when it has moved, in one piece
// or in many.
func TestWritesDuringCompactionAreKept(t *testing.T) {
	b := vectoredMemory{NewMemory()}
	const size = 24 * mib
	if err := Create(b, CreateOptions{Size: size, BlockSize: 4 * mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(b, Options{MetaPages: 2})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, size)}
	sparse(t, im, m, rand.New(rand.NewPCG(13, 1)))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(14, uint64(w)))
			p := make([]byte, 4096)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				at := (rng.Int64N(size/4096/3)*3 + int64(w)) * 4096 // its own sectors
				var err error
				switch rng.IntN(8) {
				case 0:
					err = im.WriteZeroes(at, 4096)
					clear(m.data[at : at+4096])
				case 1:
					err = im.Flush()
				case 2, 3, 4:
					fill(rng, p)
					err = im.transfer([][]byte{p[:1024], p[1024:]}, at, true)
					copy(m.data[at:], p)
				default:
					fill(rng, p)
					_, err = im.WriteAt(p, at)
					copy(m.data[at:], p)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for range 8 {
		if _, err := im.Compact(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		// Something to do again: the first two blocks are made anew.
		if err := im.ResizeAndDiscard(context.Background(), size); err != nil {
			t.Fatal(err)
		}
		hole(t, im)
	}
	close(stop)
	wg.Wait()
	compare(t, im, m)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, b.Memory, Options{})
}

// hole moves everything away from the file's start, as far as it goes, so that a
// compaction has something to do.
func hole(t *testing.T, im *Image) {
	t.Helper()
	bs := int64(im.BlockSize())
	off, _, err := im.space.alloc(8 * bs) // behind all blocks, or in a gap
	if err != nil {
		t.Fatal(err)
	}
	im.space.putBack(off, 8*bs)
	buf := make([]byte, mib)
	for n := range im.g.blocks {
		if err := im.step(func() error {
			l := &im.blocks[n%uint64(len(im.blocks))]
			l.Lock()
			e, err := im.entry(n)
			if err != nil || e.state() != present {
				l.Unlock()
				return err
			}
			to, _, err := im.space.alloc(bs)
			if err != nil {
				l.Unlock()
				return err
			}
			m := &blockMove{from: e.offset(), to: to, n: bs}
			im.moving.Store(m)
			for m.copied < bs {
				if err := im.copyPiece(m, holdsOld, buf); err != nil {
					t.Error(err)
				}
				l.Unlock()
				l.Lock()
			}
			defer l.Unlock()
			im.moving.Store(nil)
			im.space.giveBack(e.offset(), bs)
			return im.meta.setWord(im.batOff+8*int64(im.g.batIndex(n)), uint64(entry(present, to)), true)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestACompactionThatIsInterruptedLeavesTheImageWhole(t *testing.T) {
	b := NewMemory()
	const size = 16 * mib
	if err := Create(b, CreateOptions{Size: size, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, size)}
	sparse(t, im, m, rand.New(rand.NewPCG(15, 1)))
	for after := 1; ; after++ {
		ctx, cancel := context.WithCancel(context.Background())
		moves := 0
		c, err := im.Compact(ctx, func(c Compaction) {
			if c.Moved > 0 {
				if moves++; moves == after {
					cancel()
				}
			}
		})
		cancel()
		compare(t, im, m)
		if err == nil {
			if after == 1 {
				t.Error("it was never interrupted")
			}
			break
		}
		if !errors.Is(err, context.Canceled) || c.Moved == 0 {
			t.Fatal(c, err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, b, Options{})
	if _, err := im.Compact(context.Background(), nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// A partition can not become shorter: what is free in it is trimmed.
func TestCompactionOfAPartitionTrimsItsEnd(t *testing.T) {
	b := NewMemory()
	const length = 64 * mib
	b.Truncate(length)
	s, err := NewSection(b, 0, length)
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(s, CreateOptions{Size: 16 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, 16*mib)}
	sparse(t, im, m, rand.New(rand.NewPCG(16, 1)))
	c, err := im.Compact(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(4+8) * mib; c.After != want || c.Before <= want {
		t.Errorf("%+v, not %d", c, want)
	}
	rest := make([]byte, length-c.After)
	if _, err := s.ReadAt(rest, c.After); err != nil || !allZero(rest) {
		t.Error("the rest of the partition was not trimmed:", err)
	}
	compare(t, im, m)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOthersReadWhatWasCompacted(t *testing.T) {
	for _, c := range []CreateOptions{
		{Size: 16 * mib, BlockSize: 2 * mib},
		{Size: 8 * mib, BlockSize: mib, LogicalSector: 4096},
	} {
		v := filepath.Join(t.TempDir(), "a.vhdx")
		m := &model{ours(t, v, c, false)}
		im, err := OpenPath(v, Options{}, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(17, 1))
		sparse(t, im, m, rng)
		if _, err := im.Compact(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		randomOps(t, im, m, rng, 20)
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		othersRead(t, v, m.data, c.LogicalSector)
	}
}

// Freed space is reused without zeroing it once it is known to read as zero.
func TestFreedSpaceKeepsItsContentClass(t *testing.T) {
	b := NewMemory()
	if err := Create(b, CreateOptions{Size: 4 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	p := bytes.Repeat([]byte{1}, mib)
	classes := func() (cs []content) {
		for at := int64(0); ; {
			m, n, c, any := im.space.free.next(at)
			if !any {
				return cs
			}
			cs, at = append(cs, c), m+n
		}
	}
	expect := func(what string, want ...content) {
		t.Helper()
		if got := classes(); len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%s: free space holds %v, not %v", what, got, want)
		}
	}
	for _, err := range []error{second(im.WriteAt(p, 0)), second(im.WriteAt(p, mib)), im.Trim(0, mib)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("before the trim is durable")
	im.Flush()
	expect("trimmed", holdsHoles)
	im.Flush()
	expect("flushed after it", holdsZeroes)
	off, c, err := im.space.alloc(mib)
	if err != nil || c != holdsZeroes {
		t.Fatal(c, err)
	}
	im.space.putBack(off, mib)
	expect("written to, perhaps", holdsOld)
	clear(p)
	if _, err := im.WriteAt(p, 2*mib); err != nil { // reuses it
		t.Fatal(err)
	}
	expect("reused")
	if _, err := im.Compact(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, mib)
	if _, err := im.ReadAt(got, 2*mib); err != nil || !allZero(got) {
		t.Error("a block of zeroes that lost its place:", err)
	}
}
