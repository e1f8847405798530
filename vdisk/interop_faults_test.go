package vdisk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What other tools are known to do wrong, each as this package does it right and as
// they do it. A tool of another version is not held to it: measure, and add it here.

// knows skips unless a tool is of the version whose faults are written down.
func knows(t *testing.T, name, pkg, version string, args ...string) {
	t.Helper()
	out, _ := tool(t, name, pkg, args...)
	if !strings.Contains(out, version) {
		first, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
		t.Skipf("the faults of %s were measured with %s; this is %s", name, version, first)
	}
}

func knowsQEMU(t *testing.T) { knows(t, "qemu-img", "qemu-utils", "version 7.2.", "--version") }
func knows7Zip(t *testing.T) { knows(t, "7zz", "7zip", "26.02") }
func knowsVHDI(t *testing.T) { knows(t, "vhdiinfo", "libvhdi-utils", "20210425", "-V") }

// file writes a patient to a directory of its own, beside its base if it has one.
func (p *patient) file(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	save(t, p.Memory, filepath.Join(dir, "a.vhdx"))
	if p.o.Parent != nil {
		b, err := p.o.Parent(nil)
		if err != nil {
			t.Fatal(err)
		}
		save(t, b.(*Memory), filepath.Join(dir, "base.vhdx"))
	}
	return filepath.Join(dir, "a.vhdx")
}

func save(t *testing.T, m *Memory, name string) {
	t.Helper()
	size, _ := m.Size()
	b := make([]byte, size)
	if _, err := m.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// weRead is what this package reads from a file.
func weRead(t *testing.T, name string) []byte {
	t.Helper()
	im, err := OpenPath(name, Options{ReadOnly: true}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	b := make([]byte, im.Size())
	if _, err := im.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// qemuReads is what qemu-img makes of a file, its log replayed first if repair.
func qemuReads(t *testing.T, name string, repair bool) ([]byte, error) {
	t.Helper()
	if repair {
		if out, err := tool(t, "qemu-img", "qemu-utils", "check", "-r", "all", name); err != nil {
			t.Logf("qemu-img check: %v\n%s", err, out)
			return nil, err
		}
	}
	raw := name + ".raw"
	if out, err := tool(t, "qemu-img", "qemu-utils", "convert", "-f", "vhdx", "-O", "raw", name, raw); err != nil {
		t.Logf("qemu-img convert: %v\n%s", err, out)
		return nil, err
	}
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b[:min(len(b), patientSize)], nil
}

// sevenZipReads is what 7-Zip extracts, with what it prints.
func sevenZipReads(t *testing.T, name string) ([]byte, string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	out, err := tool(t, "7zz", "7zip", "x", "-y", "-tVHDX", "-o"+dir, name)
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 1 {
		return nil, out, err
	}
	b, rerr := os.ReadFile(files[0])
	if rerr != nil {
		t.Fatal(rerr)
	}
	return b, out, err
}

// putLog gives a patient a log in use with these entries, at these offsets in it.
func (p *patient) putLog(guid GUID, at []int64, es ...logEntry) {
	for i, e := range es {
		e.GUID = guid
		e.Flushed, e.Last = uint64(p.end), uint64(p.end)
		b := make([]byte, e.size())
		e.encode(b)
		if over := at[i] + int64(len(b)) - mib; over > 0 { // it wraps
			p.WriteAt(b[int64(len(b))-over:], p.log)
			b = b[:int64(len(b))-over]
		}
		p.WriteAt(b, p.log+at[i])
	}
	h := p.header()
	h.LogGUID = guid
	for _, off := range []int64{headerOffset1, headerOffset2} {
		h.Sequence++
		p.WriteAt(h.encode(), off)
	}
	p.end, _ = p.Size()
}

// page is the page of the file at off, changed.
func (p *patient) page(off int64, change func(b []byte)) logWrite {
	b := make([]byte, logSector)
	p.ReadAt(b, off&^(logSector-1))
	change(b)
	return logWrite{Offset: off &^ (logSector - 1), Data: b}
}

// moved is a BAT in which block 5 has the place of block 3, which has none then; and
// what the disk reads with it.
func (p *patient) moved() (w logWrite, want []byte) {
	w = p.page(p.bat, func(b []byte) {
		copy(b[5*8:6*8], b[3*8:4*8])
		clear(b[3*8 : 4*8])
	})
	want = bytes.Clone(p.want)
	copy(want[5*mib:6*mib], p.want[3*mib:4*mib])
	clear(want[3*mib : 4*mib])
	return w, want
}

// A logFault is a log that QEMU replays wrongly.
type logFault struct {
	name string
	make func(p *patient) (want []byte)
	// theirs is what QEMU makes of it after check -r all, from what is right and
	// what is in the file without the log; nil: it refuses the file.
	theirs func(right, old []byte) []byte
	// corrupt: there is nothing to replay, so the file must be refused.
	corrupt bool
}

func taken(old bool) func(right, old []byte) []byte {
	return func(r, o []byte) []byte {
		if old {
			return o
		}
		return r
	}
}

// cleared is what is right, with the page that some entries clear.
func cleared(right, _ []byte) []byte {
	b := bytes.Clone(right)
	clear(b[:logSector])
	return b
}

// clearing is an entry's write that a replay must not do: it clears a page of block 0.
func (p *patient) clearing() logWrite {
	return logWrite{Offset: batEntry(p.word(p.batAt(0))).offset(), Data: make([]byte, logSector)}
}

// filler is a write that changes nothing.
func (p *patient) filler(n int64) logWrite {
	return logWrite{Offset: p.bat + n*logSector, Zeroes: logSector}
}

var logFaults = []logFault{
	{name: "126 descriptors: no fault", theirs: taken(false), make: func(p *patient) []byte { return p.longEntry(126) }},
	{name: "127 descriptors", theirs: nil, make: func(p *patient) []byte { return p.longEntry(127) }},
	{name: "wrapped: leading entries are dropped", theirs: taken(true), make: func(p *patient) []byte {
		w, want := p.moved()
		p.putLog(NewGUID(), []int64{mib - 8192, 0}, logEntry{Sequence: 1, Tail: mib - 8192, Writes: []logWrite{w}},
			logEntry{Sequence: 2, Tail: mib - 8192, Writes: []logWrite{p.filler(4)}})
		return want
	}},
	{name: "entries before the tail are replayed", theirs: cleared, make: func(p *patient) []byte {
		w, want := p.moved()
		p.putLog(NewGUID(), []int64{0, 8192}, logEntry{Sequence: 1, Writes: []logWrite{p.clearing()}},
			logEntry{Sequence: 2, Tail: 8192, Writes: []logWrite{w}})
		return want
	}},
	{name: "a stale second entry is replayed", theirs: cleared, make: func(p *patient) []byte {
		w, want := p.moved()
		p.putLog(NewGUID(), []int64{0, 8192}, logEntry{Sequence: 5, Writes: []logWrite{w}}, logEntry{Sequence: 3, Writes: []logWrite{p.clearing()}})
		return want
	}},
	{name: "an entry behind a gap is replayed", theirs: cleared, make: func(p *patient) []byte {
		w, want := p.moved()
		p.putLog(NewGUID(), []int64{0, 8192}, logEntry{Sequence: 5, Writes: []logWrite{w}}, logEntry{Sequence: 7, Writes: []logWrite{p.clearing()}})
		return want
	}},
	{name: "a broken tail is taken for a clean file", theirs: taken(true), corrupt: true, make: func(p *patient) []byte {
		w, want := p.moved()
		p.putLog(NewGUID(), []int64{0, 8192}, logEntry{Sequence: 1, Writes: []logWrite{w}}, logEntry{Sequence: 2, Writes: []logWrite{p.filler(4)}})
		p.put(p.log+logSector+100, 12345)
		return want
	}},
	{name: "a log without entries is taken for a clean file", theirs: taken(true), corrupt: true, make: func(p *patient) []byte {
		p.putLog(NewGUID(), nil)
		return p.want
	}},
}

// longEntry is a log of one entry with n descriptors.
func (p *patient) longEntry(n int) []byte {
	w, want := p.moved()
	ws := []logWrite{w}
	for i := range int64(n - 1) {
		ws = append(ws, p.filler(1+i))
	}
	p.putLog(NewGUID(), []int64{0}, logEntry{Sequence: 1, Writes: ws})
	return want
}

func TestFaultsOfQEMUsReplay(t *testing.T) {
	knowsQEMU(t)
	for _, c := range logFaults {
		t.Run(c.name, func(t *testing.T) {
			p := newPatient(t, false)
			right := c.make(p)
			name := p.file(t)
			im, err := OpenPath(name, Options{ReadOnly: true}, FileOptions{})
			if c.corrupt {
				if !errors.Is(err, ErrLog) {
					t.Errorf("we answer %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if err == nil {
				im.Close()
				if !bytes.Equal(weRead(t, name), right) {
					t.Error("we do not replay it right")
				}
			}
			got, err := qemuReads(t, name, true)
			switch {
			case c.theirs == nil:
				if err == nil {
					t.Error("QEMU opens it: the fault is gone")
				}
			case err != nil:
				t.Errorf("QEMU: %v", err)
			case !bytes.Equal(got, c.theirs(right, p.want)):
				t.Errorf("QEMU does not do what it is known for (right: %v, unchanged: %v)", bytes.Equal(got, right), bytes.Equal(got, p.want))
			}
		})
	}
}

func TestFaultsOfQEMU(t *testing.T) {
	knowsQEMU(t)
	refused := func(what string, p *patient) {
		t.Helper()
		name := p.file(t)
		if !bytes.Equal(weRead(t, name), p.want) {
			t.Errorf("%s: we do not read it right", what)
		}
		if _, err := qemuReads(t, name, false); err == nil {
			t.Errorf("%s: QEMU reads it: the fault is gone", what)
		}
	}
	refused("a differencing image", newPatient(t, true))
	p := newPatient(t, false)
	p.put(regionOffset1+8, 99)
	refused("a bad region table 1", p)
	p = newPatient(t, false)
	p.dirty(t)
	refused("a log in use, read-only", p)
	p = &patient{Memory: NewMemory(), want: make([]byte, 4*mib)}
	if err := Create(p.Memory, CreateOptions{Size: 4 * mib, BlockSize: mib, LogicalSector: 4096}); err != nil {
		t.Fatal(err)
	}
	refused("sectors of 4096 bytes", p)

	p = newPatient(t, false)
	p.put(p.batAt(2), p.word(p.batAt(0)))
	name := p.file(t)
	if fs, err := CheckPath(name); err != nil || !hasFlaw(fs, ErrOverlap) {
		t.Errorf("two blocks in one place: we find %v, %v", fs, err)
	}
	if out, err := tool(t, "qemu-img", "qemu-utils", "check", name); err != nil {
		t.Errorf("two blocks in one place: QEMU sees it: the fault is gone: %s", out)
	}
}

func TestFaultsOf7Zip(t *testing.T) {
	knows7Zip(t)
	// It sees a log in use, and does not replay it.
	p := newPatient(t, false)
	p.dirty(t)
	name := p.file(t)
	if !bytes.Equal(weRead(t, name), p.want) {
		t.Error("we do not replay the log")
	}
	if b, out, err := sevenZipReads(t, name); err == nil || !strings.Contains(out, "LOG was not replayed") || bytes.Equal(b, p.want) {
		t.Errorf("a log in use: 7-Zip does not do what it is known for: %v\n%s", err, out)
	}
	p = newPatient(t, false)
	p.put(regionOffset1+8, 99)
	name = p.file(t)
	if !bytes.Equal(weRead(t, name), p.want) {
		t.Error("a bad region table 1: we do not read it right")
	}
	if b, out, err := sevenZipReads(t, name); err == nil || b != nil {
		t.Errorf("a bad region table 1: 7-Zip reads it: the fault is gone: %s", out)
	}
	// What it does see.
	p = newPatient(t, false)
	p.put(p.batAt(2), p.word(p.batAt(0)))
	if _, out, err := sevenZipReads(t, p.file(t)); err == nil || !strings.Contains(out, "BAT overlap") {
		t.Errorf("two blocks in one place: 7-Zip says %v\n%s", err, out)
	}
}

// vhdiReads is what libvhdi reads, through its file system.
func vhdiReads(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("libvhdi gives data out only through FUSE, which is not usable here: %v", err)
	}
	f.Close()
	if os.Getuid() != 0 {
		t.Skip("libvhdi gives data out only through FUSE, and only root can be sure to unmount that")
	}
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(t, "vhdimount", "libvhdi-utils", name, dir); err != nil {
		t.Fatalf("vhdimount: %v\n%s", err, out)
	}
	defer func() {
		if err := syscall.Unmount(dir, 2); err != nil { // MNT_DETACH
			t.Errorf("unmounting %s: %v", dir, err)
		}
	}()
	files, _ := filepath.Glob(filepath.Join(dir, "vhdi*"))
	if len(files) == 0 {
		t.Fatal("vhdimount shows nothing")
	}
	b, err := os.ReadFile(files[len(files)-1]) // parents come first
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFaultsOfLibvhdi(t *testing.T) {
	knowsVHDI(t)
	t.Run("a log in use is passed over silently", func(t *testing.T) {
		p := newPatient(t, false)
		old := bytes.Clone(p.want)
		p.dirty(t)
		name := p.file(t)
		if !bytes.Equal(weRead(t, name), p.want) {
			t.Error("we do not replay the log")
		}
		if got := vhdiReads(t, name); !bytes.Equal(got, old) {
			t.Errorf("libvhdi does not do what it is known for (right: %v)", bytes.Equal(got, p.want))
		}
	})
	t.Run("a bad region table 1 is refused", func(t *testing.T) {
		p := newPatient(t, false)
		p.put(regionOffset1+8, 99)
		name := p.file(t)
		if !bytes.Equal(weRead(t, name), p.want) {
			t.Error("we do not read it right")
		}
		if out, err := tool(t, "vhdiinfo", "libvhdi-utils", name); err == nil {
			t.Errorf("libvhdi opens it: the fault is gone: %s", out)
		}
	})
	t.Run("zero blocks of a child read as the parent's", func(t *testing.T) {
		base, child, want := childOnDisk(t, 512, func(im *Image, want []byte) error {
			clear(want[mib : 3*mib])
			copy(want[5*mib:], "so that there is a sector bitmap")
			_, err := im.WriteAt(want[5*mib:5*mib+512], 5*mib)
			return errors.Join(err, im.WriteZeroes(mib, mib), im.Trim(2*mib, mib))
		})
		if !bytes.Equal(weRead(t, child), want) {
			t.Error("we do not read it right")
		}
		wrong := bytes.Clone(want)
		copy(wrong[mib:3*mib], weRead(t, base)[mib:3*mib])
		if got := vhdiReads(t, child); !bytes.Equal(got, wrong) {
			t.Errorf("libvhdi does not do what it is known for (right: %v)", bytes.Equal(got, want))
		}
	})
	t.Run("a child without sector bitmaps takes the file's first bytes for one", func(t *testing.T) {
		_, child, want := childOnDisk(t, 512, func(*Image, []byte) error { return nil })
		if !bytes.Equal(weRead(t, child), want) {
			t.Error("we do not read it right")
		}
		wrong := bytes.Clone(want)
		for i, c := range []byte("vhdxfile") {
			for b := range 8 {
				if c>>b&1 != 0 {
					clear(wrong[(8*i+b)*512:][:512])
				}
			}
		}
		if got := vhdiReads(t, child); !bytes.Equal(got, wrong) {
			t.Errorf("libvhdi does not do what it is known for (right: %v)", bytes.Equal(got, want))
		}
	})
	t.Run("sectors of 4096 bytes: no fault", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "a.vhdx")
		want := ours(t, name, CreateOptions{Size: 4 * mib, BlockSize: mib, LogicalSector: 4096}, false)
		if !bytes.Equal(vhdiReads(t, name), want) {
			t.Error("libvhdi does not read what we wrote")
		}
	})
}

// childOnDisk makes a base of 6 MiB, all data, and a child of it that change changes.
func childOnDisk(t *testing.T, sector int, change func(im *Image, want []byte) error) (base, child string, want []byte) {
	t.Helper()
	dir := t.TempDir()
	base, child = filepath.Join(dir, "base.vhdx"), filepath.Join(dir, "child.vhdx")
	b, err := OpenFile(base, FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(b, CreateOptions{Size: 6 * mib, BlockSize: mib, LogicalSector: sector}); err != nil {
		t.Fatal(err)
	}
	want = make([]byte, 6*mib)
	fill(rand.New(rand.NewPCG(3, 15)), want)
	for _, c := range []struct {
		name   string
		change func(im *Image) error
	}{
		{base, func(im *Image) error { _, err := im.WriteAt(want, 0); return err }},
		{child, func(im *Image) error { return change(im, want) }},
	} {
		b.Close()
		if c.name == child {
			if err := SnapshotPath(base, child, SnapshotOptions{BlockSize: mib}); err != nil {
				t.Fatal(err)
			}
		}
		im, err := OpenPath(c.name, Options{}, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.change(im), im.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return base, child, want
}

// Differencing images, with blocks in every state and chains of three, read the same
// in 7-Zip.
func TestSevenZipReadsOurChildren(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		rng := rand.New(rand.NewPCG(uint64(sector), 15))
		_, child, want := childOnDisk(t, sector, func(im *Image, want []byte) error {
			randomOps(t, im, &model{want}, rng, 60)
			err := errors.Join(im.WriteZeroes(3*mib, mib), im.Trim(4*mib, mib))
			clear(want[3*mib : 5*mib])
			return err
		})
		top := filepath.Join(filepath.Dir(child), "top.vhdx")
		if err := SnapshotPath(child, top, SnapshotOptions{BlockSize: 2 * mib}); err != nil {
			t.Fatal(err)
		}
		read := func(name, when string) {
			t.Helper()
			if !bytes.Equal(weRead(t, name), want) {
				t.Errorf("sectors of %d bytes, %s: we read %s wrongly", sector, when, filepath.Base(name))
			}
			if got, out, err := sevenZipReads(t, name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("sectors of %d bytes, %s: 7-Zip reads %d bytes of %s, not what was written: %v\n%s", sector, when, len(got), filepath.Base(name), err, out)
			}
		}
		read(child, "a child")
		im, err := OpenPath(top, Options{}, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		randomOps(t, im, &model{want}, rng, 40)
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		read(top, "a grandchild")
		if _, err := CommitPath(context.Background(), top, CommitOptions{}); err != nil {
			t.Fatal(err)
		}
		read(child, "after a commit")
		read(top, "after a commit")
	}
}

// What we repair, other readers take for sound.
func TestOtherReadersTakeWhatWeRepaired(t *testing.T) {
	for _, d := range damages {
		if !d.mends || d.child {
			continue
		}
		p := newPatient(t, false)
		d.harm(t, p)
		if _, err := Repair(p.Memory, RepairOptions{}); err != nil {
			t.Fatal(err)
		}
		name := p.file(t)
		want := weRead(t, name)
		if got, out, err := sevenZipReads(t, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: 7-Zip reads %d bytes, not what we do: %v\n%s", d.name, len(got), err, out)
		}
		if got, err := qemuReads(t, name, false); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: QEMU does not read what we do: %v", d.name, err)
		}
	}
}
