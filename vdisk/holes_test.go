package vdisk

import (
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
