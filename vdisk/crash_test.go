package vdisk

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
)

// A crashDisk keeps apart what is durable and what has only been written. It
// can be cut off at any moment: then any part of what was not flushed, in sectors of
// 512 bytes and in any order, is on the medium.
type crashDisk struct {
	*Memory                 // as a reader sees it now
	durable *Memory         // as of the last flush
	since   []*pendingWrite // issued after it, or before it and not completed then
	events  int
	clock   *int               // of events, shared with other disks
	sum     uint64             // how durable's contents have changed; see pendingWrite.apply
	onEvent func(d *crashDisk) // before each write, truncation and flush
	// inFlight, if set, is called while a write is on its way: a flush that
	// begins now does not cover it.
	inFlight func(d *crashDisk, off int64)
}

type pendingWrite struct {
	off      int64
	data     []byte
	truncate bool // to off
	trim     int64
	flying   bool
	seq      int // by the clock, if there is one
}

func (d *crashDisk) event() {
	d.events++
	if d.clock != nil {
		*d.clock++
	}
	if d.onEvent != nil {
		d.onEvent(d)
	}
}

func (d *crashDisk) issue(w *pendingWrite) {
	if d.clock != nil {
		w.seq = *d.clock
	}
	d.since = append(d.since, w)
}

func (d *crashDisk) WriteAt(p []byte, off int64) (int, error) {
	d.event()
	w := &pendingWrite{off: off, data: append([]byte(nil), p...)}
	d.issue(w)
	if d.inFlight != nil {
		w.flying = true
		d.inFlight(d, off)
		w.flying = false
	}
	return d.Memory.WriteAt(p, off)
}

// writeDurably is a write that may be cut off like any other, and is durable then, and
// nothing else: what was written there before does not come back.
func (d *crashDisk) writeDurably(bufs [][]byte, off int64) (bool, error) {
	p := bytes.Join(bufs, nil)
	if _, err := d.WriteAt(p, off); err != nil {
		return true, err
	}
	d.event()
	d.sum += (&pendingWrite{off: off, data: p}).apply(d.durable)
	var since []*pendingWrite
	for _, w := range d.since {
		since = append(since, w.without(off, int64(len(p)))...)
	}
	d.since = since
	return true, nil
}

// without is what is left of a write but for a range.
func (w *pendingWrite) without(off, n int64) (rest []*pendingWrite) {
	size := max(w.trim, int64(len(w.data)))
	if w.truncate || w.flying || off >= w.off+size || off+n <= w.off {
		return []*pendingWrite{w}
	}
	part := func(from, to int64) {
		if from >= to {
			return
		}
		p := *w
		p.off += from
		if w.data != nil {
			p.data = w.data[from:to]
		} else {
			p.trim = to - from
		}
		rest = append(rest, &p)
	}
	part(0, off-w.off)
	part(off+n-w.off, size)
	return rest
}

func (d *crashDisk) Truncate(n int64) error {
	d.event()
	d.issue(&pendingWrite{off: n, truncate: true})
	return d.Memory.Truncate(n)
}

func (d *crashDisk) Trim(off, n int64) (bool, error) {
	d.event()
	d.issue(&pendingWrite{off: off, trim: n})
	return d.Memory.Trim(off, n)
}

func (d *crashDisk) Flush() error {
	d.event()
	var flying []*pendingWrite
	for _, w := range d.since {
		if w.flying {
			flying = append(flying, w)
			continue
		}
		d.sum += w.apply(d.durable)
	}
	d.since = flying
	return nil
}

// apply answers by how much the sum of all sectors' contents changes.
func (w *pendingWrite) apply(m *Memory) (changed uint64) {
	off, n := w.off, max(w.trim, int64(len(w.data)))
	if w.truncate {
		n = max(0, m.size-off)
	}
	changed = -m.sum(off, n)
	switch {
	case w.truncate:
		m.Truncate(w.off)
	case w.trim > 0:
		m.Trim(w.off, w.trim)
	default:
		m.WriteAt(w.data, w.off)
	}
	return changed + m.sum(off, n)
}

// cut is the medium after a power cut now.
func (d *crashDisk) cut(rng *rand.Rand) *Memory {
	m := d.durable.Snapshot()
	mode := rng.IntN(4) // none, all, each by chance, or sectors by chance
	var todo []*pendingWrite
	for _, w := range d.since {
		switch {
		case mode == 0, mode > 1 && rng.IntN(2) == 0:
			continue
		case mode == 3 && w.data != nil:
			for i := 0; i < len(w.data); i += 512 {
				if rng.IntN(2) == 0 {
					todo = append(todo, &pendingWrite{off: w.off + int64(i), data: w.data[i:min(i+512, len(w.data))]})
				}
			}
		default:
			todo = append(todo, w)
		}
	}
	if mode > 1 {
		rng.Shuffle(len(todo), func(i, j int) {
			// Order matters only between writes to the same place; a device
			// may swap those that are not separated by a flush as well.
			todo[i], todo[j] = todo[j], todo[i]
		})
	}
	for i := range todo {
		todo[i].apply(m)
	}
	return m
}

// versions are the contents a sector may have after a crash: the newest flushed,
// and all written since.
type versions struct {
	ss  int64
	may map[int64][][]byte
	cur []byte // as written
	old []byte // as of the last flush
}

func (v *versions) write(off int64, p []byte) {
	copy(v.cur[off:], p)
	for i := int64(0); i < int64(len(p)); i += v.ss {
		s := (off + i) / v.ss
		if v.may[s] == nil {
			v.may[s] = [][]byte{bytes.Clone(v.flushed(s))}
		}
		v.may[s] = append(v.may[s], bytes.Clone(p[i:i+v.ss]))
	}
}

// hardened is what a write with FUA makes of its own.
func (v *versions) hardened(off, n int64) {
	copy(v.old[off:][:n], v.cur[off:])
	for s := off / v.ss; s < (off+n)/v.ss; s++ {
		delete(v.may, s)
	}
}

// settled is what a flush makes of them.
func (v *versions) settled() {
	copy(v.old, v.cur)
	clear(v.may)
}

func (v *versions) flushed(s int64) []byte { return v.old[s*v.ss:][:v.ss] }

func TestEveryCrashLeavesOldOrNew(t *testing.T) {
	t.Parallel()
	states := 0
	for seed := range uint64(20) {
		states += crashRun(t, seed)
	}
	t.Logf("%d crash states opened and compared", states)
	if states < 600 {
		t.Errorf("only %d crash states were visited", states)
	}
}

func crashRun(t *testing.T, seed uint64) (states int) {
	rng := rand.New(rand.NewPCG(seed, 7))
	ss := []int{512, 4096}[seed%2]
	const size = 3 * mib
	base := NewMemory()
	var parent *Memory
	// Every fifth image is on a partition with junk on it.
	place := func(b Backing) Backing { return b }
	if seed%5 == 4 {
		place = func(b Backing) Backing {
			s, err := NewSection(b, 0, sectionBytes+mib)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		for at := int64(0); at < sectionBytes; at += mib {
			base.WriteAt(lifeStamps[:], at)
		}
		base.Truncate(sectionBytes + mib)
	}
	o := Options{MetaPages: 2}
	create := CreateOptions{Size: size, BlockSize: mib, LogicalSector: ss}
	v := &versions{ss: int64(ss), may: map[int64][][]byte{}, cur: make([]byte, size), old: make([]byte, size)}
	if seed%3 == 2 {
		parent = NewMemory()
		if err := Create(parent, create); err != nil {
			t.Fatal(err)
		}
		p, err := Open(parent, Options{})
		if err != nil {
			t.Fatal(err)
		}
		fill(rng, v.cur[:2*mib])
		p.WriteAt(v.cur, 0)
		copy(v.old, v.cur)
		create.Parent = p
		if err := Create(place(base), create); err != nil {
			t.Fatal(err)
		}
		p.Close()
		o.Parent = func([]ParentPath) (Backing, error) { return parent, nil }
	} else if err := Create(place(base), create); err != nil {
		t.Fatal(err)
	}
	d := &crashDisk{Memory: base, durable: base.Snapshot()}
	got := make([]byte, size)
	check := func(d *crashDisk, what string) {
		m := d.cut(rng)
		// A crash during the replay, too: open a crashDisk on top and cut it again.
		for depth := range 2 {
			dd := &crashDisk{Memory: m, durable: m.Snapshot()}
			at := rng.IntN(8)
			var again *Memory
			if depth == 0 {
				dd.onEvent = func(d *crashDisk) {
					if d.events == at {
						again = d.cut(rng)
					}
				}
			}
			im, err := Open(place(dd), o)
			if err != nil {
				t.Fatalf("seed %d, %s: %v", seed, what, err)
			}
			if _, err := im.ReadAt(got, 0); err != nil {
				t.Fatalf("seed %d, %s: %v", seed, what, err)
			}
			for s := int64(0); s < size/v.ss; s++ {
				g := got[s*v.ss:][:v.ss]
				if bytes.Equal(g, v.flushed(s)) {
					continue
				}
				ok := false
				for _, w := range v.may[s] {
					ok = ok || bytes.Equal(g, w) || torn(g, v.may[s])
				}
				if !ok {
					t.Fatalf("seed %d, %s, after event %d: sector %d is neither old nor new", seed, what, d.events, s)
				}
			}
			states++
			if again == nil {
				return
			}
			m = again
		}
	}
	im, err := Open(place(d), o)
	if err != nil {
		t.Fatal(err)
	}
	d.onEvent = func(d *crashDisk) {
		if rng.IntN(3) == 0 {
			check(d, "crash")
		}
	}
	for i := range 60 {
		off := rng.Int64N(size/v.ss) * v.ss
		n := min(1+rng.Int64N(20), (size-off)/v.ss) * v.ss
		if rng.IntN(6) == 0 {
			off, n = off/mib*mib, mib
		}
		var err error
		switch rng.IntN(8) {
		case 0, 1, 2:
			p := make([]byte, n)
			fill(rng, p)
			v.write(off, p) // may be there from now on
			_, err = im.WriteAt(p, off)
		case 3:
			v.write(off, make([]byte, n))
			err = im.WriteZeroes(off, n)
		case 4:
			v.write(off, make([]byte, n))
			if err = im.Trim(off, n); err == nil {
				_, err = im.ReadAt(v.cur[off:off+n], off)
			}
		case 5:
			if err = im.Flush(); err == nil {
				v.settled()
			}
		case 6:
			p := make([]byte, n)
			fill(rng, p)
			v.write(off, p)
			if err = run(im, &Request{Kind: WriteFUA, Offset: off, Buffers: [][]byte{p}}); err == nil {
				v.hardened(off, n)
			}
		case 7:
			_, err = im.Compact(context.Background(), nil)
		}
		if err != nil {
			t.Fatalf("seed %d, operation %d: %v", seed, i, err)
		}
	}
	d.onEvent = nil
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return states
}

// torn tells whether each 512 bytes of a larger sector come from some version of it.
func torn(g []byte, may [][]byte) bool {
	for i := 0; i < len(g); i += 512 {
		ok := false
		for _, w := range may {
			ok = ok || bytes.Equal(g[i:i+512], w[i:i+512])
		}
		if !ok {
			return false
		}
	}
	return len(g) > 512
}
