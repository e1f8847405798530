package vdisk

import (
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// counted counts what is read of a Memory.
type counted struct {
	*Memory
	read *atomic.Int64
}

func (c counted) ReadAt(p []byte, off int64) (int, error) {
	c.read.Add(int64(len(p)))
	return c.Memory.ReadAt(p, off)
}

// far puts block 3's data that far into the file.
func (p *patient) far(off int64) {
	b, at := make([]byte, mib), batEntry(p.word(p.batAt(3))).offset()
	p.ReadAt(b, at)
	p.WriteAt(b, off)
	p.Trim(at, mib)
	p.put(p.batAt(3), uint64(entry(present, off)))
}

func TestHolesAreNotRead(t *testing.T) {
	const most = 32 * mib
	for _, dry := range []bool{true, false} {
		p := newPatient(t, false)
		p.far(16 << 40)
		var read atomic.Int64
		fixes, err := Repair(counted{p.Memory, &read}, RepairOptions{DryRun: dry})
		if err != nil || len(fixes) > 0 {
			t.Errorf("repair of a sparse image (dry run: %v): %v, %v", dry, fixes, err)
		}
		if n := read.Load(); n > most {
			t.Errorf("repair (dry run: %v) read %d MiB of an image that holds %d blocks", dry, n/mib, patientBlocks)
		}
		read.Store(0)
		fs, err := Check(counted{p.Memory, &read}, p.o)
		if err != nil || !hasFlaw(fs, flawLeak) {
			t.Errorf("check of a sparse image: %v, %v", fs, err)
		}
		if n := read.Load(); n > most {
			t.Errorf("check read %d MiB", n/mib)
		}
	}
	p := newPatient(t, false)
	p.far(64 << 30)
	p.WriteAt([]byte{1}, 40<<30)
	fixes, err := Repair(p.Memory, RepairOptions{})
	if err != nil || len(fixes) != 1 || fixes[0].Name != flawLeak {
		t.Errorf("one byte in a gap that belongs to nothing: %v, %v", fixes, err)
	}
	if !readsZero(p.Memory, 16*mib, 64<<30-16*mib) {
		t.Error("the gap still holds something")
	}
}

// Whatever a backing is wrapped in, nothing that is not zero may be passed over.
func TestNoDataIsPassedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	file, err := OpenFile(path, FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const size, at = 1 << 30, 700*mib + 12345
	for name, b := range map[string]Backing{
		"memory": NewMemory(), "file": file, "faulty": &Faulty{NewMemory(), func(Op, int64, int64) error { return nil }},
	} {
		if _, err := b.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if err := b.Truncate(size); err != nil {
			t.Fatal(err)
		}
		scratch, err := newScratch(b)
		if err != nil {
			t.Fatal(err)
		}
		section, err := NewSection(b, 512*mib, 256*mib)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			how  string
			b    Backing
			off  int64
			want int64 // the latest that may be told
		}{
			{"plain", b, 0, at}, {"from within the page", b, at, at}, {"behind it", b, at + mib, size}, {"behind the end", b, size + mib, size},
			{"unclosed", unclosed{b}, 0, at}, {"scratch", scratch, 0, at}, {"section", section, 0, at - 512*mib}, {"section's end", section, 200 * mib, 256 * mib},
		} {
			got, err := nextData(c.b, c.off)
			if err != nil || got > c.want {
				t.Errorf("%s, %s: data behind %#x is said to be at %#x (%v), and is at %#x", name, c.how, c.off, got, err, c.want)
			}
			if got < min(c.off, c.want) {
				t.Errorf("%s, %s: data behind %#x is said to be at %#x, before that", name, c.how, c.off, got)
			}
		}
		if readsZero(b, 0, size) || !readsZero(b, 0, 700*mib) || readsZero(section, 0, 256*mib) {
			t.Errorf("%s: readsZero does not find the byte that is not", name)
		}
		if scratch.WriteAt([]byte{1}, 100*mib); readsZero(scratch, 0, 200*mib) {
			t.Errorf("%s: a rehearsal's own write is passed over", name)
		}
	}
}

// The table of the largest disk has 512 MiB, of which a new one holds nothing.
func TestATableOfNothingIsNotRead(t *testing.T) {
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: maxDisk, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	var read atomic.Int64
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"check", func() error { _, err := Check(counted{m, &read}, Options{}); return err }},
		{"opening", func() error {
			im, err := Open(counted{m, &read}, Options{})
			if err != nil {
				return err
			}
			if _, err := im.WriteAt(make([]byte, 512), 33<<40); err != nil {
				return err
			}
			m = m.Snapshot() // its log is in use
			return im.Close()
		}},
		{"reading, and the log", func() error {
			im, err := Open(counted{m, &read}, Options{ReadOnly: true})
			if err != nil {
				return err
			}
			return im.Close()
		}},
		{"repair", func() error { _, err := Repair(counted{m, &read}, RepairOptions{}); return err }},
	} {
		read.Store(0)
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
		if n := read.Load(); n > 16*mib {
			t.Errorf("%s read %d MiB of a table without entries", step.what, n/mib)
		}
	}
}

// What is passed over reads as zero, through everything that lies over a backing.
func TestWhatIsPassedOverReadsAsZero(t *testing.T) {
	const size = 2 * mib
	rng := rand.New(rand.NewPCG(7, 8))
	f, err := OpenFile(filepath.Join(t.TempDir(), "f"), FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := NewMemory()
	for _, b := range []Backing{f, m} {
		b.Truncate(size)
		for range 12 {
			p := make([]byte, 1+rng.IntN(20000))
			fill(rng, p)
			b.WriteAt(p, rng.Int64N(size-20000))
		}
		b.Trim(size/2, 64*kib)
	}
	section, err := NewSection(m, 64*kib, mib)
	if err != nil {
		t.Fatal(err)
	}
	rehearsal, _ := newScratch(f)
	rehearsal.WriteAt([]byte{1}, size/2+5000)
	replayed := &overlay{Backing: m, size: size + mib, pages: map[int64][]byte{}}
	for _, at := range []int64{size/2 + 8192, size + 64*kib} {
		replayed.pages[at] = make([]byte, logSector)
		replayed.pages[at][17] = 1
	}
	for name, b := range map[string]Backing{"file": f, "memory": m, "section": section, "rehearsal": rehearsal, "log in memory": replayed, "unclosed": &unclosed{rehearsal}} {
		passed := int64(0)
		for range 300 {
			end, _ := b.Size()
			off := rng.Int64N(end)
			end = off + 1 + rng.Int64N(end-off)
			at, err := nextData(b, off)
			if at = min(at, end); err != nil || at < off {
				t.Fatalf("%s: data from %d on at %d, %v", name, off, at, err)
			}
			p := make([]byte, end-off)
			b.ReadAt(p, off)
			if !allZero(p[:at-off]) {
				t.Fatalf("%s: what lies from %d to %d is passed over", name, off, at)
			}
			passed += at - off
			if got, want := readsZero(b, off, end-off), allZero(p); got != want {
				t.Fatalf("%s: from %d to %d all is zero: %v, said to be %v", name, off, end, want, got)
			}
		}
		if passed == 0 {
			t.Errorf("%s passes nothing over", name)
		}
	}
}

// Who copies a disk is told where its data may be: in a block's place that is a hole,
// in zeroed blocks and in what nobody wrote below there is none.
func TestADiskTellsWhereItsDataIs(t *testing.T) {
	const bs, size = 2 * mib, 40*mib - 4096
	rng := rand.New(rand.NewPCG(9, 9))
	write := func(im *Image, m *model) {
		for range 8 {
			p := make([]byte, 4096*(1+rng.Int64N(8)))
			fill(rng, p)
			off := rng.Int64N(size/4096-8) * 4096
			copy(m.data[off:], p)
			if _, err := im.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range rng.Perm(size / bs)[:4] {
			clear(m.data[n*bs:][:bs])
			if err := im.WriteZeroes(int64(n)*bs, bs); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, fixed := range []bool{false, true} {
		base, m := NewMemory(), &model{make([]byte, size)}
		if err := Create(base, CreateOptions{Size: size - bs, BlockSize: bs, Fixed: fixed}); err != nil {
			t.Fatal(err)
		}
		im, err := Open(base, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := im.Resize(t.Context(), size); err != nil {
			t.Fatal(err)
		}
		write(im, m)
		for _, child := range []bool{false, true} {
			if child {
				if err := im.Close(); err != nil {
					t.Fatal(err)
				}
				parent, err := Open(base, Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				b := NewMemory()
				if err := Create(b, CreateOptions{Parent: parent, BlockSize: bs / 2}); err != nil {
					t.Fatal(err)
				}
				parent.Close()
				if im, err = Open(b, Options{Parent: func([]ParentPath) (Backing, error) { return base.Snapshot(), nil }}); err != nil {
					t.Fatal(err)
				}
				if err := im.Resize(t.Context(), size+bs); err != nil {
					t.Fatal(err)
				}
				m.data = append(m.data, make([]byte, bs)...)
				write(im, m)
			}
			passed := int64(0)
			for off := int64(0); off < im.Size(); {
				at, err := im.NextData(off)
				if err != nil || at < off || at > im.Size() {
					t.Fatalf("data from %d on at %d, %v", off, at, err)
				}
				if !allZero(m.data[off:at]) {
					t.Fatalf("from %d to %d there is data", off, at)
				}
				passed += at - off
				off = at + 4096
			}
			if passed < im.Size()/4 {
				t.Errorf("fixed %v, child %v: of %d bytes, %d are passed over", fixed, child, im.Size(), passed)
			}
		}
		im.Close()
	}
}
