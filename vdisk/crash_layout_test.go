package vdisk

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// Power cuts during resizes, compactions and moves of the BAT, mixed with requests.

// A layoutRun is random work on an image whose size changes.
type layoutRun struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	o      Options
	v      *versions
	sizes  []int64 // that the disk may have after a crash; the last is what it has
	got    []byte
	states int
}

const layoutMax = 6 * mib

func (r *layoutRun) fatal(d *crashDisk, what string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("seed %d, after event %d: %s %v", r.seed, d.events, what, args)
}

// check cuts the disk off, and once more during the replay.
func (r *layoutRun) check(d *crashDisk) {
	m := d.cut(r.rng)
	for depth := range 2 {
		dd := &crashDisk{Memory: m, durable: m.Snapshot()}
		var again *Memory
		if at := r.rng.IntN(8); depth == 0 {
			dd.onEvent = func(d *crashDisk) {
				if d.events == at {
					again = d.cut(r.rng)
				}
			}
		}
		if r.rng.IntN(16) == 0 {
			fs, err := Check(m.Snapshot(), r.o)
			for _, f := range fs {
				if f.Damage {
					r.fatal(d, "check:", f.Text)
				}
			}
			if err != nil {
				r.fatal(d, "check:", err)
			}
		}
		im, err := Open(dd, r.o)
		if err != nil {
			r.fatal(d, "open:", err)
		}
		size := im.Size()
		if !slices.Contains(r.sizes, size) {
			r.fatal(d, "size", size, "of", r.sizes)
		}
		if _, err := im.ReadAt(r.got[:size], 0); err != nil {
			r.fatal(d, "read:", err)
		}
		for s := int64(0); s < size/r.v.ss; s++ {
			g := r.got[s*r.v.ss:][:r.v.ss]
			may := r.v.may[s]
			if bytes.Equal(g, r.v.flushed(s)) || slices.ContainsFunc(may, func(w []byte) bool { return bytes.Equal(g, w) }) || torn(g, may) {
				continue
			}
			r.fatal(d, "sector", s, "of", size/r.v.ss, "is neither old nor new")
		}
		r.states++
		if again == nil {
			return
		}
		m = again
	}
}

func (r *layoutRun) size() int64 { return r.sizes[len(r.sizes)-1] }

// request does one thing that a guest would.
func (r *layoutRun) request(im *Image) error {
	v, rng, size := r.v, r.rng, r.size()
	off := rng.Int64N(size/v.ss) * v.ss
	n := min(1+rng.Int64N(20), (size-off)/v.ss) * v.ss
	if rng.IntN(5) == 0 {
		off = off / mib * mib
		n = min(mib, size-off)
	}
	switch rng.IntN(6) {
	case 0, 1, 2:
		p := make([]byte, n)
		if rng.IntN(4) > 0 {
			fill(rng, p)
		}
		v.write(off, p)
		_, err := im.WriteAt(p, off)
		return err
	case 3:
		v.write(off, make([]byte, n))
		return im.WriteZeroes(off, n)
	case 4:
		v.write(off, make([]byte, n))
		if err := im.Trim(off, n); err != nil {
			return err
		}
		_, err := im.ReadAt(v.cur[off:off+n], off)
		return err
	}
	if err := im.Flush(); err != nil {
		return err
	}
	copy(v.old, v.cur)
	clear(v.may)
	return nil
}

// resize makes the disk have one of two sizes until it is done.
func (r *layoutRun) resize(im *Image, size int64) error {
	was := r.size()
	r.sizes = []int64{was, size}
	if err := im.ResizeAndDiscard(context.Background(), size); err != nil {
		return err
	}
	r.sizes = []int64{size}
	if size < was { // what is gone reads as zero when it comes back
		clear(r.v.cur[size:])
		clear(r.v.old[size:])
		for s := range r.v.may {
			if s >= size/r.v.ss {
				delete(r.v.may, s)
			}
		}
	}
	return nil
}

func layoutCrashes(t *testing.T, seed uint64) (states int) {
	rng := rand.New(rand.NewPCG(seed, 70))
	ss := []int{512, 4096}[seed%2]
	kind := []string{"dynamic", "child", "fixed"}[seed/2%3]
	r := &layoutRun{
		t: t, seed: seed, rng: rng, o: Options{MetaPages: 2}, sizes: []int64{3*mib - 8192}, got: make([]byte, layoutMax),
		v: &versions{ss: int64(ss), may: map[int64][][]byte{}, cur: make([]byte, layoutMax), old: make([]byte, layoutMax)},
	}
	base := NewMemory()
	create := CreateOptions{Size: r.size(), BlockSize: mib, LogicalSector: ss, Fixed: kind == "fixed"}
	if kind == "child" {
		parent := NewMemory()
		if err := Create(parent, CreateOptions{Size: 4 * mib, BlockSize: mib, LogicalSector: ss}); err != nil {
			t.Fatal(err)
		}
		p, err := Open(parent, Options{})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 4*mib) // more of it than the child shows
		fill(rng, data)
		if _, err := p.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		create.Parent = p
		if err := Create(base, create); err != nil {
			t.Fatal(err)
		}
		p.Close()
		copy(r.v.cur, data[:r.size()])
		copy(r.v.old, data[:r.size()])
		r.o.Parent = func([]ParentPath) (Backing, error) { return parent, nil }
	} else if err := Create(base, create); err != nil {
		t.Fatal(err)
	}
	d := &crashDisk{Memory: base, durable: base.Snapshot()}
	im, err := Open(d, r.o)
	if err != nil {
		t.Fatal(err)
	}
	d.onEvent = func(d *crashDisk) {
		if rng.IntN(5) == 0 {
			r.check(d)
		}
	}
	for i := range 50 {
		var err error
		switch op := rng.IntN(14); {
		case op < 2:
			err = r.resize(im, mib/2+rng.Int64N((layoutMax-mib/2)/4096)*4096)
		case op == 2:
			_, err = im.Compact(context.Background(), func(c Compaction) {
				if rng.IntN(3) == 0 {
					if err := r.request(im); err != nil {
						r.fatal(d, "during a compaction:", err)
					}
				}
			})
		case op == 3:
			err = im.step(func() error {
				off, c, err := im.space.alloc(mib)
				if err != nil {
					return err
				}
				return im.moveBAT(context.Background(), off, mib, c)
			})
		case op < 6:
			err = im.step(func() error {
				n, move := im.j.length, im.moveLog
				if md, _ := findRegion(im.regions, regionMetadata); op == 5 {
					n, move = int64(md.Length), im.moveMetadata
				}
				off, _, err := im.space.alloc(n)
				if err == nil {
					err = im.begin(false)
				}
				if err == nil {
					err = move(off)
				}
				return err
			})
		default:
			err = r.request(im)
		}
		if err != nil {
			r.fatal(d, "operation", i, err)
		}
		if rng.IntN(10) == 0 {
			if _, err := im.ReadAt(r.got[:r.size()], 0); err != nil || !bytes.Equal(r.got[:r.size()], r.v.cur[:r.size()]) {
				r.fatal(d, "the disk does not read as it was written", err)
			}
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return r.states
}

func TestEveryCrashOfAReshapeLeavesOldOrNew(t *testing.T) {
	t.Parallel()
	states, seeds := 0, uint64(6)
	if *crashOperations > 2 {
		seeds = 300
	}
	for seed := range seeds {
		states += layoutCrashes(t, seed)
	}
	t.Logf("%d crash states opened and compared", states)
	if states < 300 {
		t.Errorf("only %d crash states were visited", states)
	}
}
