package vdisk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// region is where entry i of both region tables lies; the first is the BAT's.
func (p *patient) changeRegions(change func(table []byte)) {
	for _, off := range []int64{regionOffset1, regionOffset2} {
		b := make([]byte, regionTableSize)
		p.ReadAt(b, off)
		change(b)
		p.WriteAt(b, off)
		p.seal(off, regionTableSize)
	}
}

func (p *patient) changeHeaders(change func(h *header)) {
	h := p.header()
	change(&h)
	p.WriteAt(h.encode(), headerOffset1)
	h.Sequence++
	p.WriteAt(h.encode(), headerOffset2)
}

// metaItem is where a metadata item's table entry and value lie in the file.
func (p *patient) metaItem(id GUID) (entry, value int64) {
	b := make([]byte, metadataTableSize)
	p.ReadAt(b, p.md)
	for i := range int(le.Uint16(b[10:])) {
		if e := b[32+32*i:]; GUID(e[:16]) == id {
			return p.md + 32 + 32*int64(i), p.md + int64(le.Uint32(e[16:]))
		}
	}
	return 0, 0
}

func (p *patient) put32(off int64, v uint32) { p.WriteAt(le.AppendUint32(nil, v), off) }
func (p *patient) put16(off int64, v uint16) { p.WriteAt(le.AppendUint16(nil, v), off) }

// Files that no reader may accept: each gets its own name, whichever way it is opened.
var badInput = []struct {
	name  string
	child bool
	make  func(t *testing.T, p *patient)
	want  Flaw
}{
	{"no bytes at all", false, func(_ *testing.T, p *patient) { p.Truncate(0) }, ErrTruncated},
	{"cut within the headers", false, func(_ *testing.T, p *patient) { p.Truncate(headerOffset2) }, ErrTruncated},
	{"cut behind the headers", false, func(_ *testing.T, p *patient) { p.Truncate(mib) }, ErrTruncated},
	{"cut within the metadata", false, func(_ *testing.T, p *patient) { p.Truncate(p.md) }, ErrTruncated},
	{"cut within the BAT", true, func(_ *testing.T, p *patient) { p.Truncate(p.bat) }, ErrTruncated},
	{"cut within a log in use", false, func(t *testing.T, p *patient) { p.dirty(t); p.Truncate(p.log + 512*kib) }, ErrTruncated},
	{"shorter than its log says", false, func(t *testing.T, p *patient) { p.dirty(t); p.Truncate(p.end - 70*mib) }, ErrTruncated},
	{"raw data", false, func(_ *testing.T, p *patient) { p.WriteAt(bytes.Repeat([]byte{0xaa}, mib), 0) }, ErrNotVHDX},

	{"log of 4 GiB", false, func(_ *testing.T, p *patient) {
		p.changeHeaders(func(h *header) { h.LogLength, h.LogGUID = 4<<30-mib, NewGUID() })
	}, ErrTruncated},
	{"log at the end of all offsets", false, func(_ *testing.T, p *patient) {
		p.changeHeaders(func(h *header) { h.LogOffset = 1<<64 - mib })
	}, ErrLogPlace},
	{"log among the headers", false, func(_ *testing.T, p *patient) { p.changeHeaders(func(h *header) { h.LogOffset = 0 }) }, ErrLogPlace},
	{"log in use without a length", false, func(_ *testing.T, p *patient) {
		p.changeHeaders(func(h *header) { h.LogLength, h.LogGUID = 0, NewGUID() })
	}, ErrLogPlace},
	{"log off its alignment", false, func(_ *testing.T, p *patient) { p.changeHeaders(func(h *header) { h.LogOffset += 4096 }) }, ErrLogPlace},
	{"log that makes the file 2^60 bytes", false, func(_ *testing.T, p *patient) {
		g := NewGUID()
		e := logEntry{Sequence: 1, GUID: g, Last: 1 << 60}
		b := make([]byte, e.size())
		e.encode(b)
		p.WriteAt(b, p.log)
		p.changeHeaders(func(h *header) { h.LogGUID = g })
	}, ErrAbsurdSize},
	{"log that writes at 2^60", false, func(_ *testing.T, p *patient) {
		p.putLog(NewGUID(), []int64{0}, logEntry{Sequence: 1, Writes: []logWrite{{Offset: 1 << 60, Data: make([]byte, logSector)}}})
	}, ErrAbsurdSize},
	{"3000 regions", false, func(_ *testing.T, p *patient) { p.changeRegions(func(b []byte) { le.PutUint32(b[8:], 3000) }) }, ErrAbsurdSize},
	{"region of 4 GiB", false, func(_ *testing.T, p *patient) { p.changeRegions(func(b []byte) { le.PutUint32(b[16+24:], 4<<30-mib) }) }, ErrTruncated},
	{"region at 2^63", false, func(_ *testing.T, p *patient) { p.changeRegions(func(b []byte) { le.PutUint64(b[16+16:], 1<<63) }) }, ErrRegions},
	{"no BAT region", false, func(_ *testing.T, p *patient) {
		p.changeRegions(func(b []byte) { b[16] ^= 1; le.PutUint32(b[16+28:], 0) })
	}, ErrRegions},
	{"unknown required region", false, func(_ *testing.T, p *patient) { p.changeRegions(func(b []byte) { b[16] ^= 1 }) }, ErrUnknownRequired},
	{"65535 metadata items", false, func(_ *testing.T, p *patient) { p.put16(p.md+10, 0xffff) }, ErrAbsurdSize},
	{"metadata item of 2 MiB", false, func(_ *testing.T, p *patient) { e, _ := p.metaItem(itemPage83); p.put32(e+20, 2*mib) }, ErrAbsurdSize},
	{"metadata item outside its region", false, func(_ *testing.T, p *patient) { e, _ := p.metaItem(itemPage83); p.put32(e+16, 1<<31) }, ErrMetadata},
	{"unknown required item", false, func(_ *testing.T, p *patient) { e, _ := p.metaItem(itemPage83); p.put(e, 1) }, ErrUnknownRequired},
	{"disk of 65 TiB", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemDiskSize); p.put(v, 65*tib) }, ErrAbsurdSize},
	{"disk of 2^64-512", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemDiskSize); p.put(v, 1<<64-512) }, ErrAbsurdSize},
	{"disk of nothing", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemDiskSize); p.put(v, 0) }, ErrAbsurdSize},
	{"disk of 64 TiB with a BAT of 1 MiB", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemDiskSize); p.put(v, 64*tib) }, ErrAbsurdSize},
	{"blocks of 3 MiB", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemFileParameters); p.put32(v, 3*mib) }, ErrAbsurdSize},
	{"blocks of 512 MiB", true, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemFileParameters); p.put32(v, 512*mib) }, ErrAbsurdSize},
	{"sectors of 513 bytes", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemLogicalSector); p.put32(v, 513) }, ErrAbsurdSize},
	{"a locator of 65535 entries", true, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemParentLocator); p.put16(v+18, 0xffff) }, ErrLocator},
	{"a locator that points outside itself", true, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemParentLocator); p.put32(v+20, 1<<31) }, ErrLocator},
	{"a locator of another type", true, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemParentLocator); p.put(v, 1) }, ErrLocator},
	{"a parent without a locator", false, func(_ *testing.T, p *patient) { _, v := p.metaItem(itemFileParameters); p.put32(v+4, 2) }, ErrLocator},

	{"BAT over the metadata", false, func(_ *testing.T, p *patient) {
		p.changeRegions(func(b []byte) { le.PutUint64(b[16+16:], uint64(p.md)) })
	}, ErrOverlap},
	{"BAT over the log", false, func(_ *testing.T, p *patient) {
		p.changeRegions(func(b []byte) { le.PutUint64(b[16+16:], uint64(p.log)) })
	}, ErrOverlap},
	{"BAT among the headers", false, func(_ *testing.T, p *patient) { p.changeRegions(func(b []byte) { le.PutUint64(b[16+16:], 0) }) }, ErrRegions},
	{"metadata items over each other", false, func(_ *testing.T, p *patient) {
		e, _ := p.metaItem(itemPage83)
		_, v := p.metaItem(itemDiskSize)
		p.put32(e+16, uint32(v-p.md))
	}, ErrOverlap},
}

func TestBadInputIsNamed(t *testing.T) {
	for _, c := range badInput {
		t.Run(c.name, func(t *testing.T) {
			p := newPatient(t, c.child)
			c.make(t, p)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for _, ro := range []bool{true, false} {
				o := p.o
				o.ReadOnly = ro
				im, err := Open(p.Memory.Snapshot(), o)
				if err == nil {
					im.Close()
					t.Fatalf("read-only %v: it was opened", ro)
				}
				if !errors.Is(err, c.want) || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
					t.Errorf("read-only %v: answered %v, which is not %s", ro, err, c.want)
				}
			}
			fs, err := Check(p.Memory.Snapshot(), p.o)
			if err != nil || !hasFlaw(fs, c.want) {
				t.Errorf("check says %v, %v", fs, err)
			}
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 256*mib {
				t.Errorf("it took %d MiB of memory to refuse it", n/mib)
			}
		})
	}
}

// However short a file has become, what can be read of it is right, and what can not
// is an error with a name.
func TestTruncatedFilesReadRightOrNotAtAll(t *testing.T) {
	for _, child := range []bool{false, true} {
		p := newPatient(t, child)
		buf := make([]byte, 64*kib)
		for size := p.end - 4096; size >= 0; size -= 52 * kib {
			m := p.Memory.Snapshot()
			m.Truncate(size)
			o := p.o
			o.ReadOnly = true
			im, err := Open(m, o)
			if err != nil {
				if !errors.Is(err, ErrTruncated) {
					t.Fatalf("%#x of %#x bytes: %v", size, p.end, err)
				}
				continue
			}
			for off := int64(0); off < patientSize; off += int64(len(buf)) {
				b := buf[:min(int64(len(buf)), patientSize-off)]
				if _, err := im.ReadAt(b, off); err != nil {
					if !errors.Is(err, ErrTruncated) {
						t.Fatalf("%#x of %#x bytes, %#x: %v", size, p.end, off, err)
					}
				} else if !bytes.Equal(b, p.want[off:off+int64(len(b))]) {
					t.Fatalf("%#x of %#x bytes: %#x reads wrong, without an error", size, p.end, off)
				}
			}
			im.Close()
		}
	}
}

func TestCircularParentsAreNamed(t *testing.T) {
	// In memory nothing but the length of the chain tells: an image that is its
	// own parent, by a linkage that fits.
	p := newPatient(t, true)
	p.o.Parent = nil
	im, err := Open(p.Memory, Options{orphan: true})
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := im.locator()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.relink(l, im.hdr.DataWriteGUID, GUID{}), im.Close()); err != nil {
		t.Fatal(err)
	}
	self := func([]ParentPath) (Backing, error) { return p.Memory.Snapshot(), nil }
	if _, err := Open(p.Memory.Snapshot(), Options{ReadOnly: true, Parent: self}); !errors.Is(err, ErrCircularParents) {
		t.Errorf("an image that is its own parent: %v", err)
	}

	// In files the first that comes again is seen.
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "b.vhdx")
	save(t, p.Memory, a)
	if err := SnapshotPath(a, b, SnapshotOptions{}); !errors.Is(err, ErrParentMissing) {
		t.Errorf("a snapshot over an image whose parent is missing: %v", err)
	}
	if err := os.Symlink("a.vhdx", filepath.Join(dir, "base.vhdx")); err != nil {
		t.Fatal(err)
	}
	for _, ro := range []bool{true, false} {
		if _, err := OpenPath(a, Options{ReadOnly: ro}, FileOptions{}); !errors.Is(err, ErrCircularParents) {
			t.Errorf("a file that is its own parent: %v", err)
		}
	}
	if fs, err := CheckPath(a); err != nil || !hasFlaw(fs, ErrCircularParents) {
		t.Errorf("check of it says %v, %v", fs, err)
	}
	if _, err := CommitPath(t.Context(), a, CommitOptions{}); !errors.Is(err, ErrCircularParents) {
		t.Errorf("commit of it says %v", err)
	}
}
