package vdisk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// A model is what a disk holds, sector by sector.
type model struct{ data []byte }

// fill makes p's contents unlike any other's.
func fill(rng *rand.Rand, p []byte) {
	for len(p) >= 8 {
		le.PutUint64(p, rng.Uint64())
		p = p[8:]
	}
}

func randomOps(t *testing.T, im *Image, m *model, rng *rand.Rand, n int) {
	t.Helper()
	ss := int64(im.SectorSize())
	sectors := int64(len(m.data)) / ss
	for i := range n {
		off := rng.Int64N(sectors) * ss
		k := min(1+rng.Int64N(64), sectors-off/ss) * ss
		if rng.IntN(8) == 0 { // whole blocks now and then
			bs := int64(im.BlockSize())
			off = off / bs * bs
			k = min(bs, int64(len(m.data))-off)
		}
		var err error
		switch op := rng.IntN(10); {
		case op < 5:
			p := make([]byte, k)
			fill(rng, p)
			_, err = im.WriteAt(p, off)
			copy(m.data[off:], p)
		case op < 6:
			err = im.WriteZeroes(off, k)
			clear(m.data[off : off+k])
		case op < 7:
			if err = im.Trim(off, k); err == nil {
				// What a trim leaves is not defined: take it as it is.
				_, err = im.ReadAt(m.data[off:off+k], off)
			}
		case op < 8:
			err = im.Flush()
		default:
			p := make([]byte, k)
			if _, err = im.ReadAt(p, off); err == nil && !bytes.Equal(p, m.data[off:off+k]) {
				t.Fatalf("operation %d: %d bytes at %d differ from what was written", i, k, off)
			}
		}
		if err != nil {
			t.Fatalf("operation %d: %v", i, err)
		}
	}
}

func compare(t *testing.T, im *Image, m *model) {
	t.Helper()
	p := make([]byte, len(m.data))
	if _, err := im.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, m.data) {
		for i := range p {
			if p[i] != m.data[i] {
				t.Fatalf("byte %#x differs", i)
			}
		}
	}
}

func TestImageHoldsWhatWasWritten(t *testing.T) {
	for _, c := range []CreateOptions{
		{Size: 9 * mib, BlockSize: mib},
		{Size: 9*mib + 512*5, BlockSize: 2 * mib},
		{Size: 9 * mib, BlockSize: mib, LogicalSector: 4096},
		{Size: 5 * mib, BlockSize: mib, Fixed: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			b := NewMemory()
			if err := Create(b, c); err != nil {
				t.Fatal(err)
			}
			m := &model{make([]byte, c.Size)}
			rng := rand.New(rand.NewPCG(1, 2))
			for range 5 {
				im, err := Open(b, Options{MetaPages: 2})
				if err != nil {
					t.Fatal(err)
				}
				compare(t, im, m)
				randomOps(t, im, m, rng, 200)
				compare(t, im, m)
				if err := im.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestChildHoldsWhatItsParentDoesNot(t *testing.T) {
	for _, ss := range []int{512, 4096} {
		pb, cb := NewMemory(), NewMemory()
		if err := Create(pb, CreateOptions{Size: 6 * mib, BlockSize: mib, LogicalSector: ss}); err != nil {
			t.Fatal(err)
		}
		parent, err := Open(pb, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{make([]byte, 6*mib)}
		rng := rand.New(rand.NewPCG(3, uint64(ss)))
		randomOps(t, parent, m, rng, 100)
		if err := Create(cb, CreateOptions{Parent: parent, BlockSize: 2 * mib, ParentPaths: []ParentPath{{keyRelative, `.\p.vhdx`}}}); err != nil {
			t.Fatal(err)
		}
		if err := parent.Close(); err != nil {
			t.Fatal(err)
		}
		o := Options{Parent: func([]ParentPath) (Backing, error) { return pb, nil }, MetaPages: 3}
		before := append([]byte(nil), m.data...)
		for range 4 {
			im, err := Open(cb, o)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, im, m)
			randomOps(t, im, m, rng, 200)
			compare(t, im, m)
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
		}
		parent, err = Open(pb, Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, parent, &model{before})
	}
}

// The newest durable entry's tail, and all behind it, must outlive the writing of
// the next entry: torn, it must leave something to replay.
func TestLogKeepsWhatItsNewestEntryNeeds(t *testing.T) {
	for _, length := range []int64{mib, 2 * mib} {
		d := &crashDisk{Memory: NewMemory(), durable: NewMemory()}
		d.Truncate(headerSectionSize + length)
		j := &journal{b: d, off: headerSectionSize, length: length, guid: NewGUID()}
		rng := rand.New(rand.NewPCG(5, 5))
		if err := j.append(nil, 0); err != nil {
			t.Fatal(err)
		}
		done := uint64(1)
		d.onEvent = func(d *crashDisk) {
			l := logReader{d.cut(rng), j.off, length}
			s, err := l.findSequence(j.guid)
			if err != nil {
				t.Fatalf("after entry %d: %v", done, err)
			}
			if n := s.entries[len(s.entries)-1].seq; n < done {
				t.Fatalf("entry %d is durable, but %d would be the newest in a replay", done, n)
			}
		}
		for range 40 {
			w := make([]logWrite, 1+rng.IntN(j.maxPages()))
			if rng.IntN(2) == 0 {
				w = w[:1]
				w = append(w, make([]logWrite, j.maxPages()-1)...)
			}
			for i := range w {
				w[i] = logWrite{Offset: int64(i) * logSector, Data: make([]byte, logSector)}
				fill(rng, w[i].Data)
			}
			if err := j.append(w, 0); err != nil {
				t.Fatal(err)
			}
			done++
		}
	}
}
