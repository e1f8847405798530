package vdisk

import (
	"strings"
	"testing"
)

func TestCheckFindsWhatIsWrong(t *testing.T) {
	clean := NewMemory()
	if err := Create(clean, CreateOptions{Size: 4 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(clean.Snapshot(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	bat := im.batOff
	child := NewMemory()
	if err := Create(child, CreateOptions{Parent: im, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	cim, err := Open(child.Snapshot(), Options{Parent: func([]ParentPath) (Backing, error) { return clean.Snapshot(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	cbat := cim.batOff
	word := func(m *Memory, off int64, v uint64) *Memory {
		var b [8]byte
		le.PutUint64(b[:], v)
		m.WriteAt(b[:], off)
		return m
	}
	longer := func(m *Memory, n int64) *Memory {
		size, _ := m.Size()
		m.Truncate(size + n)
		return m
	}
	end, _ := clean.Size()
	cend, _ := child.Size()
	torn := dirtyImage(t)
	tornAt := int64(mib + 6*4096) // behind three entries of two sectors
	var sector [8192]byte
	torn.ReadAt(sector[:], mib+4*4096)
	le.PutUint64(sector[16:], 4)
	torn.WriteAt(sector[:4096], tornAt)
	for _, c := range []struct {
		name   string
		m      *Memory
		damage bool
		want   string // "" for no findings
	}{
		{"clean", clean.Snapshot(), false, ""},
		{"clean child", child.Snapshot(), false, ""},
		{"header 1", word(clean.Snapshot(), headerOffset1+8, 99), false, "header 1"},
		{"region table 1", word(clean.Snapshot(), regionOffset1+8, 99), true, "region table 1"},
		{"region table 2", word(clean.Snapshot(), regionOffset2+8, 99), true, "region table 2"},
		{"not closed", dirtyImage(t), false, "was not closed"},
		{"torn log", torn, false, "entry 4"},
		{"overlap", word(word(longer(clean.Snapshot(), 4*mib), bat, uint64(entry(present, end))), bat+8, uint64(entry(present, end))), true, "overlaps"},
		{"leak", longer(clean.Snapshot(), 4*mib), false, "4 MiB of the file belong to nothing"},
		{"reserved state", word(clean.Snapshot(), bat, 4), true, "reserved state 4"},
		{"beyond the end", word(clean.Snapshot(), bat, uint64(entry(present, 1<<40))), true, "beyond"},
		{"no bitmap", word(longer(child.Snapshot(), mib), cbat, uint64(entry(partial, cend))), true, "no sector bitmap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.m.Snapshot()
			fs, err := Check(c.m, Options{Parent: func([]ParentPath) (Backing, error) { return clean.Snapshot(), nil }})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if len(fs) > 0 {
					t.Errorf("found %v", fs)
				}
			} else {
				ok := false
				for _, f := range fs {
					ok = ok || f.Damage == c.damage && strings.Contains(f.Text, c.want)
				}
				if !ok {
					t.Errorf("%q was not found, but %v", c.want, fs)
				}
			}
			same := len(before.pages) == len(c.m.pages)
			for at, p := range before.pages {
				same = same && *p.data == *c.m.pages[at].data
			}
			if !same {
				t.Error("the image was changed")
			}
		})
	}
	t.Run("bad linkage", func(t *testing.T) {
		other := NewMemory()
		if err := Create(other, CreateOptions{Size: 4 * mib, BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		fs, err := Check(child.Snapshot(), Options{Parent: func([]ParentPath) (Backing, error) { return other, nil }})
		if err != nil || len(fs) != 1 || !fs[0].Damage || !strings.Contains(fs[0].Text, "was changed after") {
			t.Errorf("found %v, %v", fs, err)
		}
	})
}
