package vdisk

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// A patient is an image to be damaged, with what it held.
type patient struct {
	*Memory
	o    Options
	bat  int64
	md   int64
	end  int64 // of the file
	log  int64
	want []byte
	im   *Image // closed: for where things are
}

const (
	patientSize   = 6*mib + 64*512
	patientBlocks = 7
)

// newPatient makes an image of 7 blocks of 1 MiB, the last of which is cut short,
// with a log of 1 MiB at 1 MiB. Blocks 0, 1 and 3 have data; in a differencing one
// block 1 is partially present, and block 4 only the parent's.
func newPatient(t testing.TB, child bool) *patient {
	t.Helper()
	p := &patient{Memory: NewMemory(), want: make([]byte, patientSize), log: mib}
	rng := rand.New(rand.NewPCG(12, 6))
	c := CreateOptions{Size: patientSize, BlockSize: mib}
	if child {
		base := NewMemory()
		if err := Create(base, c); err != nil {
			t.Fatal(err)
		}
		im, err := Open(base, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 2, 4} {
			fill(rng, p.want[n*mib:][:mib])
			im.WriteAt(p.want[n*mib:][:mib], int64(n*mib))
		}
		if err := im.Flush(); err != nil {
			t.Fatal(err)
		}
		c.Parent, c.ParentPaths = im, []ParentPath{{keyRelative, `.\base.vhdx`}}
		if err := Create(p.Memory, c); err != nil {
			t.Fatal(err)
		}
		im.Close()
		p.o.Parent = func([]ParentPath) (Backing, error) { return base.Snapshot(), nil }
	} else if err := Create(p.Memory, c); err != nil {
		t.Fatal(err)
	}
	im, err := Open(p.Memory, p.o)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 3} {
		q := p.want[n*mib:][:mib]
		off := int64(n * mib)
		if n == 1 && child {
			q, off = q[256*kib:512*kib], off+256*kib
		}
		fill(rng, q)
		if _, err := im.WriteAt(q, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	p.im, p.bat = im, im.batOff
	md, _ := findRegion(im.regions, regionMetadata)
	p.md = int64(md.Offset)
	p.end, _ = p.Size()
	return p
}

func (p *patient) word(off int64) uint64 {
	var b [8]byte
	p.ReadAt(b[:], off)
	return le.Uint64(b[:])
}

func (p *patient) put(off int64, v uint64) { p.WriteAt(le.AppendUint64(nil, v), off) }

// batAt is where block n's entry lies.
func (p *patient) batAt(n uint64) int64 { return p.bat + 8*int64(p.im.g.batIndex(n)) }

func (p *patient) bitmapAt() int64 { return p.bat + 8*int64(p.im.g.bitmapIndex(0)) }

func (p *patient) grow(n int64) { p.Truncate(p.end + n) }

// seal makes a header's or region table's checksum right again.
func (p *patient) seal(off int64, n int) {
	b := make([]byte, n)
	p.ReadAt(b, off)
	le.PutUint32(b[4:], checksum(b, 4))
	p.WriteAt(b, off)
}

// dirty is the same image with a log that was not retired: it changes block 2, and
// holds three entries.
func (p *patient) dirty(t testing.TB) {
	t.Helper()
	im, err := Open(p.Memory, p.o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		off := 5*mib + i*mib
		for j := range 64 * 512 {
			p.want[off+j] = byte(i + 1)
		}
		if _, err := im.WriteAt(p.want[off:off+64*512], int64(off)); err != nil {
			t.Fatal(err)
		}
		if err := im.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	now := p.Memory.Snapshot()
	// The crash comes before the tables changed in place.
	now.WriteAt(make([]byte, 16), p.batAt(5))
	im.Close()
	p.Memory = now
	p.end, _ = p.Size()
}

// damages is one way each to harm an image: what check calls it, and whether
// repair mends it.
var damages = []struct {
	name  string
	child bool
	harm  func(t testing.TB, p *patient)
	want  Flaw
	// mends: an opening for writing works afterwards, and check finds nothing
	// but notes.
	mends bool
	// lost are the blocks that could not be read before, or not as they were.
	lost []int
}{
	{"header copy", false, func(_ testing.TB, p *patient) { p.put(headerOffset1+8, 99) }, flawHeaderCopy, true, nil},
	{"both headers", false, func(_ testing.TB, p *patient) { p.put(headerOffset1+8, 99); p.put(headerOffset2+8, 99) }, ErrHeaders, false, nil},
	{"header's reserved bytes", false, func(_ testing.TB, p *patient) {
		p.put(headerOffset1+200, 1)
		p.seal(headerOffset1, headerSize)
	}, flawReserved, true, nil},
	{"region table 1", false, func(_ testing.TB, p *patient) { p.put(regionOffset1+8, 99) }, flawRegionCopy, true, nil},
	{"region table 2", true, func(_ testing.TB, p *patient) { p.put(regionOffset2+8, 99) }, flawRegionCopy, true, nil},
	{"both region tables", false, func(_ testing.TB, p *patient) { p.put(regionOffset1+8, 99); p.put(regionOffset2+8, 99) }, ErrRegionTable, false, nil},
	{"region tables that differ", false, func(_ testing.TB, p *patient) {
		p.put(regionOffset2+16+16, uint64(p.end))
		p.seal(regionOffset2, regionTableSize)
	}, flawRegionsDiffer, true, nil},
	{"region tables that differ, the first wrong", false, func(_ testing.TB, p *patient) {
		p.put(regionOffset1+16+32+16, uint64(p.bat+mib)) // the metadata
		p.seal(regionOffset1, regionTableSize)
	}, flawRegionsDiffer, true, nil},
	{"not closed", false, func(t testing.TB, p *patient) { p.dirty(t) }, flawLogInUse, true, nil},
	{"torn log", false, func(t testing.TB, p *patient) {
		p.dirty(t)
		s := p.sequence(t)
		n := s.entries[len(s.entries)-1]
		b := make([]byte, logSector)
		p.ReadAt(b, p.log+n.at)
		le.PutUint64(b[16:], n.seq+1)
		p.WriteAt(b, p.log+s.head)
	}, flawLogTorn, true, nil},
	{"log with a gap", false, func(t testing.TB, p *patient) {
		p.dirty(t)
		s := p.sequence(t)
		n := s.entries[len(s.entries)-1]
		b := make([]byte, n.size)
		(&logEntry{Sequence: n.seq + 2, Tail: uint32(s.head + n.size), GUID: p.header().LogGUID}).encode(b[:logSector])
		p.WriteAt(b[:logSector], p.log+s.head+n.size)
		// Not the newest of a sequence of its own: its tail is not there.
		(&logEntry{Sequence: n.seq + 2, Tail: uint32(s.head), GUID: p.header().LogGUID}).encode(b[:logSector])
		p.WriteAt(b[:logSector], p.log+s.head+n.size)
	}, flawLogGap, true, nil},
	{"log without entries", false, func(_ testing.TB, p *patient) {
		h := p.header()
		h.LogGUID = NewGUID()
		for _, off := range []int64{headerOffset1, headerOffset2} {
			h.Sequence++
			p.WriteAt(h.encode(), off)
		}
	}, ErrLog, true, nil},
	{"blocks in one place", false, func(_ testing.TB, p *patient) { p.put(p.batAt(2), p.word(p.batAt(0))) }, ErrOverlap, true, nil},
	{"block in the metadata", false, func(_ testing.TB, p *patient) { p.put(p.batAt(2), uint64(entry(present, p.md))) }, ErrOverlap, true, nil},
	{"block in the BAT", false, func(_ testing.TB, p *patient) { p.put(p.batAt(2), uint64(entry(present, p.bat))) }, ErrOverlap, true, nil},
	{"block in the BAT of a child", true, func(_ testing.TB, p *patient) { p.put(p.batAt(2), uint64(entry(present, p.bat))) }, ErrOverlap, true, nil},
	{"block in the log", true, func(_ testing.TB, p *patient) { p.put(p.batAt(2), uint64(entry(present, p.log))) }, ErrOverlap, true, nil},
	{"log far away", false, func(_ testing.TB, p *patient) { p.changeHeaders(func(h *header) { h.LogOffset = 1 << 52 }) }, ErrLogPlace, true, nil},
	{"log right behind the end", true, func(_ testing.TB, p *patient) { p.changeHeaders(func(h *header) { h.LogOffset = uint64(p.end) }) }, ErrLogPlace, true, nil},
	{"log of 4 GiB at the end", false, func(_ testing.TB, p *patient) {
		p.changeHeaders(func(h *header) { h.LogOffset, h.LogLength = uint64(p.end), 4<<30-mib })
	}, ErrLogPlace, true, nil},
	{"no log", true, func(_ testing.TB, p *patient) {
		p.changeHeaders(func(h *header) { h.LogOffset, h.LogLength = 1<<60, 0 })
	}, ErrNoLog, true, nil},
	{"log in the metadata", false, func(_ testing.TB, p *patient) { p.changeHeaders(func(h *header) { h.LogOffset = uint64(p.md) }) }, ErrOverlap, true, nil},
	{"block on a bitmap", true, func(_ testing.TB, p *patient) {
		p.put(p.batAt(2), uint64(entry(present, batEntry(p.word(p.bitmapAt())).offset())))
	}, ErrOverlap, true, nil},
	{"block among the headers", false, func(_ testing.TB, p *patient) { p.put(p.batAt(1), uint64(entry(present, 0))) }, ErrBlockPlace, true, []int{1}},
	{"block beyond the end", false, func(_ testing.TB, p *patient) { p.put(p.batAt(1), uint64(entry(present, 1<<40))) }, ErrBlockBeyondEnd, true, []int{1}},
	{"truncated within a block", false, func(_ testing.TB, p *patient) {
		p.Truncate(batEntry(p.word(p.batAt(3))).offset() + 512*kib)
	}, ErrBlockCut, true, []int{3}},
	{"truncated within the last block", false, func(t testing.TB, p *patient) { p.Truncate(p.end - 3*mib) }, ErrBlockBeyondEnd, true, []int{0, 1, 3}},
	{"reserved state", false, func(_ testing.TB, p *patient) { p.put(p.batAt(1), p.word(p.batAt(1))&^7|4) }, ErrBlockState, true, nil},
	{"reserved state without a place", true, func(_ testing.TB, p *patient) { p.put(p.batAt(6), 5) }, ErrBlockState, true, nil},
	{"partial without a parent", false, func(_ testing.TB, p *patient) { p.put(p.batAt(1), p.word(p.batAt(1))|7) }, ErrBlockState, true, nil},
	{"reserved bits", false, func(_ testing.TB, p *patient) { p.put(p.batAt(1), p.word(p.batAt(1))|1<<9) }, flawReserved, true, nil},
	{"leak", false, func(_ testing.TB, p *patient) { p.grow(4 * mib) }, flawLeak, true, nil},
	{"leak in the midst", false, func(_ testing.TB, p *patient) { p.put(p.batAt(0), 0) }, flawLeak, true, []int{0}},
	{"no bitmap", true, func(_ testing.TB, p *patient) { p.put(p.bitmapAt(), 0) }, ErrBitmapMissing, true, nil},
	{"bitmap beyond the end", true, func(_ testing.TB, p *patient) { p.put(p.bitmapAt(), uint64(entry(present, p.end+mib))) }, ErrBitmapPlace, true, nil},
	{"bitmap in a reserved state", true, func(_ testing.TB, p *patient) { p.put(p.bitmapAt(), p.word(p.bitmapAt())&^7|3) }, ErrBitmapState, true, nil},
	{"bitmap without a parent", false, func(_ testing.TB, p *patient) {
		p.grow(mib)
		p.put(p.bitmapAt(), uint64(entry(present, p.end)))
	}, flawEntryBeyond, true, nil},
	{"bitmap without bits", true, func(_ testing.TB, p *patient) {
		off := batEntry(p.word(p.bitmapAt())).offset()
		p.WriteAt(make([]byte, mib), off)
	}, flawBitmapEmpty, true, []int{1}},
	{"bitmap with all bits", true, func(_ testing.TB, p *patient) {
		off := batEntry(p.word(p.bitmapAt())).offset()
		p.WriteAt(bytes.Repeat([]byte{255}, 256), off+256)
	}, flawBitmapFull, true, []int{1}},
	{"bitmap that nobody uses", true, func(_ testing.TB, p *patient) { p.put(p.batAt(1), 0) }, flawBitmapUnused, true, []int{1}},
	{"bits beyond the disk", true, func(_ testing.TB, p *patient) {
		p.put(batEntry(p.word(p.bitmapAt())).offset()+7*256, 1)
	}, flawBitsBeyond, true, nil},
	{"bits in the part that the last block does not have", true, func(_ testing.TB, p *patient) {
		// Block 6 has 64 sectors on the disk.
		off := batEntry(p.word(p.bitmapAt())).offset()
		p.grow(mib)
		p.put(p.batAt(6), uint64(entry(partial, p.end)))
		p.put(off+6*256, 1)
		p.put(off+6*256+8, 1)
	}, flawBitsBeyond, true, nil},
	{"entry behind the disk's last", true, func(_ testing.TB, p *patient) { p.put(p.batAt(patientBlocks), uint64(entry(zeroed, 0))) }, flawEntryBeyond, true, nil},
	{"entry behind the table's last", false, func(_ testing.TB, p *patient) { p.put(p.bat+mib-8, 2) }, flawEntryBeyond, true, nil},
	{"metadata's reserved bits", false, func(_ testing.TB, p *patient) { p.put(p.md+32+24, flagRequired|1<<7) }, flawReserved, false, nil},
	{"no metadata", false, func(_ testing.TB, p *patient) { p.put(p.md, 0) }, ErrMetadata, false, nil},
	{"no parent", true, func(_ testing.TB, p *patient) { p.o.Parent = nil }, ErrParentMissing, false, nil},
	{"no VHDX", false, func(_ testing.TB, p *patient) { p.put(0, 0) }, ErrNotVHDX, false, nil},
}

func (p *patient) header() header {
	var b [2][headerSize]byte
	p.ReadAt(b[0][:], headerOffset1)
	p.ReadAt(b[1][:], headerOffset2)
	h, _, _ := currentHeader(b[0][:], b[1][:])
	return h
}

func (p *patient) sequence(t testing.TB) sequence {
	t.Helper()
	h := p.header()
	s, err := (&logReader{p.Memory, int64(h.LogOffset), int64(h.LogLength)}).findSequence(h.LogGUID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hasFlaw(fs []Finding, f Flaw) bool {
	return slices.ContainsFunc(fs, func(g Finding) bool { return g.Name == f })
}

func TestCheckNamesEveryDamage(t *testing.T) {
	for _, child := range []bool{false, true} {
		p := newPatient(t, child)
		if fs, err := Check(p.Snapshot(), p.o); err != nil || len(fs) > 0 {
			t.Errorf("an image without damage: found %v, %v", fs, err)
		}
	}
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			p := newPatient(t, d.child)
			d.harm(t, p)
			before := p.Snapshot()
			fs, err := Check(p.Memory, p.o)
			if err != nil {
				t.Fatal(err)
			}
			if !hasFlaw(fs, d.want) {
				t.Errorf("%s was not found, but %v", d.want, fs)
			}
			size, _ := p.Size()
			for _, f := range fs {
				k, ok := flaws[f.Name]
				if !ok || f.Severity != k.severity || f.Damage != (f.Severity == Damaged) || f.Do == "" || f.Text == "" {
					t.Errorf("a finding that does not say what it is: %+v", f)
				}
				if f.Offset < 0 || f.Offset > size {
					t.Errorf("finding %v points outside the file of %#x bytes", f, size)
				}
			}
			if !sameBytes(before, p.Memory) {
				t.Error("check changed the image")
			}
		})
	}
}

func sameBytes(a, b *Memory) bool {
	an, _ := a.Size()
	bn, _ := b.Size()
	if an != bn {
		return false
	}
	x, y := make([]byte, mib), make([]byte, mib)
	for off := int64(0); off < an; off += mib {
		n, _ := a.ReadAt(x, off)
		m, _ := b.ReadAt(y, off)
		if !bytes.Equal(x[:n], y[:m]) {
			return false
		}
	}
	return true
}
