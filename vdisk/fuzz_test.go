package vdisk

import (
	"errors"
	"reflect"
	"testing"
)

// Every parser takes any bytes without a panic, and what it accepts it writes back
// alike.

// Inputs hold only what the parser looks at, and the test adds the rest: a fuzzer that
// has to carry 4 KiB about spends its time on making them shorter.

func FuzzHeader(f *testing.F) {
	const used = 80
	h := header{Sequence: 7, FileWriteGUID: GUID{1}, LogLength: mib, LogOffset: mib}
	f.Add(h.encode()[:used], h.encode()[:used], true, false)
	f.Add([]byte{}, []byte("head"), false, false)
	f.Add(h.encode()[:used], h.encode()[:used], true, true)
	f.Fuzz(func(t *testing.T, x, y []byte, sum, short bool) {
		a, b := make([]byte, headerSize), make([]byte, headerSize)
		copy(a, x)
		copy(b, y)
		if sum {
			le.PutUint32(a[4:], checksum(a, 4))
			le.PutUint32(b[4:], checksum(b, 4))
		}
		if short {
			b = b[:min(len(y), len(b))]
		}
		got, which, err := currentHeader(a, b)
		if err != nil {
			named(t, err)
			return
		}
		if got.LogOffset%mib != 0 || got.LogOffset > maxFileEnd || which < 0 || which > 1 {
			t.Errorf("accepted %+v", got)
		}
		if again, _, _, ok := decodeHeader(got.encode()); !ok || again != got {
			t.Errorf("%+v became %+v", got, again)
		}
	})
}

func named(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
		t.Errorf("an error without a name: %v", err)
	}
}

func FuzzRegions(f *testing.F) {
	f.Add(encodeRegions([]region{{regionBAT, mib, mib, true}, {regionMetadata, 2 * mib, mib, true}})[:128])
	f.Add(encodeRegions([]region{{regionBAT, mib, mib, true}, {NewGUID(), mib, mib, false}})[:128])
	f.Fuzz(func(t *testing.T, p []byte) {
		b := make([]byte, regionTableSize)
		copy(b, p)
		le.PutUint32(b[4:], checksum(b, 4))
		rs, err := decodeRegions(b, 0)
		if err != nil {
			named(t, err)
			return
		}
		again, err := decodeRegions(encodeRegions(rs), 0)
		if err != nil || !reflect.DeepEqual(rs, again) {
			t.Errorf("%v became %v, %v", rs, again, err)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	p := params{BlockSize: mib, DiskSize: tib, LogicalSector: 512, PhysicalSector: 4096}
	f.Add(encodeMetadata(p.items())[:metadataTableSize+128])
	f.Add([]byte("metadata\x00\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, p []byte) {
		b := make([]byte, mib)
		copy(b, p)
		items, err := decodeMetadataTable(b, mib, 0)
		if err != nil {
			named(t, err)
			return
		}
		for i := range items {
			items[i].Data = b[items[i].Offset:][:items[i].Length]
		}
		got, _, err := parseParams(items, 0)
		if err != nil {
			named(t, err)
			return
		}
		if g := got.geometry(); g.blocks*uint64(got.BlockSize) < got.DiskSize || g.batIndex(g.blocks-1) >= g.entries {
			t.Errorf("%+v has geometry %+v", got, g)
		}
	})
}

func FuzzBAT(f *testing.F) {
	f.Add(uint64(6|3<<20), uint64(3), true)
	f.Add(uint64(7|3<<20), uint64(0), false)
	f.Add(^uint64(0), uint64(1), true)
	f.Fuzz(func(t *testing.T, e, index uint64, parent bool) {
		p := params{BlockSize: mib, DiskSize: tib, LogicalSector: 512, HasParent: parent}
		im := &Image{p: p, g: p.geometry()}
		index %= im.g.entries
		u := &usage{}
		const size = 1 << 30
		if err := im.scanEntry(u, index, batEntry(e), size); err != nil {
			named(t, err)
		} else if u.end > size+maxBlock {
			t.Errorf("entry %#x takes space up to %#x", e, u.end)
		}
		if len(u.bits) > 1<<20 {
			t.Errorf("entry %#x took %d words to note", e, len(u.bits))
		}
	})
}

func FuzzLogEntry(f *testing.F) {
	const most = 3 * logSector // as many sectors of descriptors as there can be
	g := GUID{1}
	e := logEntry{Sequence: 1 << 33, GUID: g, Writes: []logWrite{{Offset: mib, Data: make([]byte, logSector)}, {Offset: 2 * mib, Zeroes: mib}}}
	b := make([]byte, e.size())
	e.encode(b)
	f.Add(b[:128], uint8(2), true)
	f.Add(b[:128], uint8(1), false)
	f.Add(b[:64], uint8(0), false)
	f.Fuzz(func(t *testing.T, p []byte, sectors uint8, data bool) {
		p = p[:min(len(p), most)]
		head := (len(p) + logSector - 1) / logSector
		b := make([]byte, (max(1, head, int(sectors%64)))*logSector)
		copy(b, p)
		le.PutUint32(b[8:], uint32(len(b)))
		for at := max(1, head) * logSector; data && at < len(b); at += logSector {
			copy(b[at:], "data")
			copy(b[at+4:at+8], b[20:24])
			copy(b[at+logSector-4:at+logSector], b[16:20])
		}
		le.PutUint32(b[4:], checksum(b, 4))
		e, ok := decodeLogEntry(b, g, true)
		if !ok {
			return
		}
		c := make([]byte, e.size())
		if len(c) != len(b) {
			t.Fatalf("an entry of %d bytes became one of %d", len(b), len(c))
		}
		e.encode(c)
		if again, ok := decodeLogEntry(c, g, true); !ok || !reflect.DeepEqual(e, again) {
			t.Errorf("%+v became %+v", e, again)
		}
	})
}

func FuzzLocator(f *testing.F) {
	l := locator{keyLinkage: NewGUID().String(), keyRelative: `..\p.vhdx`}
	b, _ := l.encode()
	f.Add(b)
	f.Add(b[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLocator(b, 0)
		if err != nil {
			named(t, err)
			return
		}
		if c, err := l.encode(); err == nil {
			if again, err := decodeLocator(c, 0); err != nil || !reflect.DeepEqual(l, again) {
				t.Errorf("%v became %v, %v", l, again, err)
			}
		}
	})
}

// FuzzOpen changes bytes of an image with a log in use, mends the checksums, and
// opens it: whatever it finds, it says so.
func FuzzOpen(f *testing.F) {
	base := dirtyImage(f)
	f.Add(uint32(0), []byte{}, uint32(0))
	f.Add(uint32(headerOffset1+68), []byte{0xff, 0xff, 0xff, 0xff}, uint32(0))
	f.Add(uint32(regionOffset1+8), []byte{0xff, 7}, uint32(0))
	f.Add(uint32(mib+16), []byte{0xff, 7}, uint32(3*mib))
	f.Add(uint32(2*mib+10), []byte{0xff, 7}, uint32(0))
	f.Add(uint32(3*mib), []byte{7, 0, 0x30}, uint32(0))
	f.Fuzz(func(t *testing.T, at uint32, p []byte, size uint32) {
		m := base.Snapshot()
		end, _ := m.Size()
		if int64(at)+int64(len(p)) <= end {
			m.WriteAt(p, int64(at))
		}
		mend(m)
		if size != 0 && int64(size) < end {
			m.Truncate(int64(size))
		}
		for _, ro := range []bool{true, false} {
			im, err := Open(m.Snapshot(), Options{ReadOnly: ro})
			if err != nil {
				named(t, err)
				continue
			}
			b := make([]byte, min(im.Size(), mib)/4096*4096)
			im.ReadAt(b, 0)
			if !ro {
				im.WriteAt(b, 0)
				im.Trim(0, int64(len(b)))
				im.Close()
			}
		}
	})
}

// dirtyImage has blocks, and a log that must be replayed.
func dirtyImage(t testing.TB) *Memory {
	t.Helper()
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: 4 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		if _, err := im.WriteAt(make([]byte, 4096), i*mib); err != nil {
			t.Fatal(err)
		}
		if err := im.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return m.Snapshot()
}

// mend sets the checksums of headers, region tables and the first log entry.
func mend(m *Memory) {
	for _, c := range []struct{ off, n int64 }{
		{headerOffset1, headerSize}, {headerOffset2, headerSize},
		{regionOffset1, regionTableSize}, {regionOffset2, regionTableSize},
		{mib, 4096}, {mib + 4096, 8192}, {mib + 3*4096, 8192}, {mib + 5*4096, 8192},
	} {
		b := make([]byte, c.n)
		m.ReadAt(b, c.off)
		le.PutUint32(b[4:], checksum(b, 4))
		m.WriteAt(b, c.off)
	}
}

func TestTruncatedFilesAreRefusedByName(t *testing.T) {
	base := dirtyImage(t)
	end, _ := base.Size()
	for _, size := range []int64{0, 1, 100, 64 * kib, 192 * kib, mib - 1, mib, mib + 4096, 2 * mib, 3 * mib, 3*mib + 5, end - 1} {
		for _, ro := range []bool{true, false} {
			m := base.Snapshot()
			m.Truncate(size)
			im, err := Open(m, Options{ReadOnly: ro})
			if err == nil {
				t.Errorf("a file cut from %d to %d bytes was opened: %d", end, size, im.Size())
				continue
			}
			named(t, err)
		}
	}
}
