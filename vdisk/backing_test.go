package vdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileHoldsAnImage(t *testing.T) {
	dir := t.TempDir()
	for _, direct := range []bool{false, true} {
		path := filepath.Join(dir, map[bool]string{false: "a.vhdx", true: "direct.vhdx"}[direct])
		b, err := OpenFile(path, FileOptions{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := Create(b, CreateOptions{Size: 5 * mib, BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		b.Close()
		m := &model{make([]byte, 5*mib)}
		rng := rand.New(rand.NewPCG(8, 8))
		for range 2 {
			im, err := OpenPath(path, Options{}, FileOptions{Direct: direct})
			if direct && err != nil && strings.Contains(err.Error(), "direct I/O") {
				t.Skipf("the file system of %s knows no direct I/O", dir)
			}
			if err != nil {
				t.Fatal(err)
			}
			compare(t, im, m)
			randomOps(t, im, m, rng, 60)
			compare(t, im, m)
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.vhdx")
	b, err := OpenFile(path, FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second writer was answered %v", err)
	}
	if _, err := OpenFile(path, FileOptions{ReadOnly: true}); !errors.Is(err, ErrInUse) {
		t.Errorf("a reader beside a writer was answered %v", err)
	}
	b.Close()
	for range 2 { // readers go together
		r, err := OpenFile(path, FileOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
	}
}

func TestParentsAreFoundFromTheirChild(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "base"), 0o755)
	root, mid, top := filepath.Join(dir, "base", "root.vhdx"), filepath.Join(dir, "mid.vhdx"), filepath.Join(dir, "top.vhdx")
	make1 := func(path, parent, rel string) {
		t.Helper()
		o := CreateOptions{Size: 2 * mib, BlockSize: mib}
		if parent != "" {
			p, err := OpenPath(parent, Options{ReadOnly: true}, FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			o.Parent, o.ParentPaths = p, []ParentPath{{keyRelative, rel}}
		}
		b, err := OpenFile(path, FileOptions{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := Create(b, o); err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	make1(root, "", "")
	make1(mid, root, `.\base\root.vhdx`)
	make1(top, mid, `mid.vhdx`)
	im, err := OpenPath(top, Options{}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	im.Close()
	// Now root's parent is mid, and mid's is root.
	if err := errors.Join(os.Rename(top, root), os.Symlink(mid, filepath.Join(dir, "base", "mid.vhdx"))); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPath(mid, Options{}, FileOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a circle of parents was answered %v", err)
	}
	os.Remove(root)
	if _, err := OpenPath(mid, Options{}, FileOptions{}); err == nil || !strings.Contains(err.Error(), "root.vhdx") {
		t.Errorf("a missing parent was answered %v", err)
	}
}

func TestSectionOfADeviceKeepsItsBounds(t *testing.T) {
	dev := NewMemory()
	junk := bytes.Repeat([]byte("old!"), mib/4)
	for i := range int64(24) {
		dev.WriteAt(junk, i*mib)
	}
	for _, fixed := range []bool{false, true} {
		s, err := NewSection(dev, 4*mib, 16*mib)
		if err != nil {
			t.Fatal(err)
		}
		if err := Create(s, CreateOptions{Size: 9 * mib, BlockSize: mib, Fixed: fixed}); err != nil {
			t.Fatal(err)
		}
		m := &model{make([]byte, 9*mib)}
		rng := rand.New(rand.NewPCG(9, 9))
		for range 3 {
			im, err := Open(s, Options{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, im, m)
			randomOps(t, im, m, rng, 60)
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, mib)
		for _, at := range []int64{0, 3, 20, 23} {
			if dev.ReadAt(b, at*mib); !bytes.Equal(b, junk) {
				t.Fatalf("MiB %d, outside the section, was written", at)
			}
		}
	}
	s, _ := NewSection(dev, 4*mib, 5*mib)
	if err := Create(s, CreateOptions{Size: 9 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt(make([]byte, 9*mib), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a full section was answered %v", err)
	}
}

func TestAfterAFailedWriteNothingMoreIsWritten(t *testing.T) {
	bad := errors.New("the medium failed")
	for at := range 12 {
		m := NewMemory()
		if err := Create(m, CreateOptions{Size: 4 * mib, BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		n, failed := 0, false
		f := &Faulty{m, func(op Op, off, _ int64) error {
			if op == OpRead {
				return nil
			}
			if n++; n > at && op != OpTrim {
				failed = true
				return bad
			}
			return nil
		}}
		im, err := Open(f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := bytes.Repeat([]byte{1}, 4096)
		_, err = im.WriteAt(p, 0)
		if err == nil {
			err = im.Flush()
		}
		if failed && !errors.Is(err, bad) {
			t.Errorf("failure at %d: answered %v", at, err)
		}
		before := failed // and not by what closing does of its own
		if err := im.Close(); before && n == at+1 && err != nil {
			t.Errorf("failure at %d: close wrote after it: %v", at, err)
		}
		im, err = Open(m, Options{})
		if err != nil {
			t.Fatalf("failure at %d: %v", at, err)
		}
		im.ReadAt(p, 0)
		if p[0] != p[4095] || p[0] > 1 {
			t.Errorf("failure at %d: torn without a reason", at)
		}
	}
}

func TestFreeSpaceIsFoundAgain(t *testing.T) {
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: 8 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	var size int64
	for i := range 4 {
		im, err := Open(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := im.WriteAt(make([]byte, 8*mib), 0); err != nil {
			t.Fatal(err)
		}
		if err := im.Trim(0, 4*mib); err != nil {
			t.Fatal(err)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		if s, _ := m.Size(); i == 0 {
			size = s
		} else if s > size {
			t.Fatalf("opening %d: the file grew from %d to %d bytes", i, size, s)
		}
	}
}

// Other tools leave files that end anywhere. The rest of the last MiB may become a
// block's, and then the file must reach to its end at once.
func TestFileThatEndsWithinAMiB(t *testing.T) {
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: 2 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	size, _ := m.Size()
	m.Truncate(size + 100*kib)
	im, err := Open(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := im.Flush(); err != nil {
		t.Fatal(err)
	}
	crashed := m.Snapshot()
	if fs, err := Check(crashed.Snapshot(), Options{}); err != nil || len(fs) != 1 || fs[0].Damage {
		t.Errorf("check says %v, %v", fs, err)
	}
	for _, b := range []*Memory{m, crashed} {
		if b == m {
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Open(b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	}
}

func TestOverlappingBlocksAreRefusedForWriting(t *testing.T) {
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: 4 * mib, BlockSize: mib, Fixed: true}); err != nil {
		t.Fatal(err)
	}
	im, _ := Open(m, Options{ReadOnly: true})
	var e [8]byte
	m.ReadAt(e[:], im.batOff)
	for _, c := range []struct {
		entry uint64
		what  string
	}{
		{le.Uint64(e[:]), "overlaps"},
		{uint64(entry(present, im.batOff)), "overlaps"},
		{uint64(entry(present, 0)), "headers"},
		{uint64(entry(present, 1<<40)), "beyond"},
		{5, "reserved state 5"},
		{uint64(entry(partial, 1<<40)), "without a parent"},
	} {
		var b [8]byte
		le.PutUint64(b[:], c.entry)
		s := m.Snapshot()
		s.WriteAt(b[:], im.batOff+8)
		if _, err := Open(s, Options{}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.what) {
			t.Errorf("entry %#x: answered %v", c.entry, err)
		}
		if _, err := Open(s, Options{ReadOnly: true}); err != nil {
			t.Errorf("entry %#x: refused even read-only: %v", c.entry, err)
		}
	}
}
