package vdisk

import (
	"fmt"
	"hash/maphash"
)

// A crashWalk visits what disks may hold after a power cut, at every event of what is
// done with them.
type crashWalk struct {
	disks []*crashDisk // of one clock
	// look opens what a crash left, and compares; go on does, where the disks
	// may be cut off again, what follows a crash.
	look func(ms []*Memory) error
	goOn func(bs []Backing) error
	what func() string
	// known: another run visits these states. They are noted only.
	known   bool
	visited map[uint64]bool // by contents, since what may be there has changed last
	ticks   *int            // states that several walks visited
	every   int             // of so many states one is cut off again while it goes on,
	depth   int             // so many times in a row
	states  int
	deep    int   // of them during replays and repetitions
	err     error // the first; nothing is visited after it
}

func (w *crashWalk) failed(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%s, cut at event %d%w", w.what(), w.events(), fmt.Errorf(format, args...))
	}
}

func (w *crashWalk) events() (n int) {
	for _, d := range w.disks {
		n += d.events
	}
	return n
}

// expect is called when other contents are right than before.
func (w *crashWalk) expect() { clear(w.visited) }

// A lostWrite may be lost: it was not flushed.
type lostWrite struct {
	disk int
	*pendingWrite
}

// since is what was not flushed, in the order it was issued.
func (w *crashWalk) since() (ws []lostWrite) {
	var at [8]int
	for {
		next := -1
		for i, d := range w.disks {
			if at[i] < len(d.since) && (next < 0 || d.since[at[i]].seq < w.disks[next].since[at[next]].seq) {
				next = i
			}
		}
		if next < 0 {
			return ws
		}
		ws = append(ws, lostWrite{next, w.disks[next].since[at[next]]})
		at[next]++
	}
}

const crashRecent = 6 // of what was not flushed, all subsets of the last so many

// event visits what the media may hold now: every subset of what was not flushed, all
// of it in reverse, and the last of it torn at each 512 bytes.
func (w *crashWalk) event() {
	since := w.since()
	n := min(len(since), crashRecent)
	old, recent := since[:len(since)-n], since[len(since)-n:]
	for set := range 1 << n {
		ws := append([]lostWrite(nil), old...)
		for i := range n {
			if set>>i&1 != 0 {
				ws = append(ws, recent[i])
			}
		}
		w.visit(ws)
		if set != 1<<n-1 || n == 0 {
			continue
		}
		for i := len(ws) - 1; i >= 0 && (i == len(ws)-1 || *crashOperations > 2 && i >= len(old)); i-- {
			whole := ws[i]
			for k := 512; k < len(whole.data); k += max(512, len(whole.data)/16/512*512) {
				ws[i].pendingWrite = &pendingWrite{off: whole.off, data: whole.data[:k]}
				w.visit(ws)
				if *crashOperations > 2 {
					ws[i].pendingWrite = &pendingWrite{off: whole.off + int64(k), data: whole.data[k:]}
					w.visit(ws)
				}
			}
			ws[i] = whole
		}
		if len(old) > 0 {
			w.visit(nil)
		}
		for i, j := 0, len(ws)-1; i < j; i, j = i+1, j-1 {
			ws[i], ws[j] = ws[j], ws[i]
		}
		if n > 1 {
			w.visit(ws)
		}
	}
}

func (w *crashWalk) visit(ws []lostWrite) {
	if w.err != nil {
		return
	}
	ms := make([]*Memory, len(w.disks))
	sum := uint64(0)
	for i, d := range w.disks {
		ms[i] = d.durable.Snapshot()
		sum += d.sum * uint64(2*i+1)
	}
	for _, p := range ws {
		sum += uint64(2*p.disk+1) * p.apply(ms[p.disk])
	}
	if w.visited[sum] {
		return
	}
	w.visited[sum] = true
	if w.known {
		return
	}
	w.states++
	if *w.ticks++; *w.ticks%w.every == 0 {
		w.cutAgain(ms, w.depth)
	}
	if err := w.look(ms); err != nil {
		w.failed(": %w", err)
	}
}

// cutAgain does what follows a crash, and cuts that off too: after each event nothing,
// all, what is on one disk, or half of the last of what was not flushed is there. From
// one of these states it goes on in the same way.
func (w *crashWalk) cutAgain(ms []*Memory, depth int) {
	ds := make([]*crashDisk, len(ms))
	bs := make([]Backing, len(ms))
	clock := 0
	var cuts [][]*Memory
	cut := func(f func(i int, d *crashDisk) *Memory) {
		c := make([]*Memory, len(ds))
		for i, d := range ds {
			c[i] = f(i, d)
		}
		cuts = append(cuts, c)
	}
	for i, m := range ms {
		ds[i] = &crashDisk{Memory: m.Snapshot(), durable: m.Snapshot(), clock: &clock}
		bs[i] = ds[i]
		ds[i].onEvent = func(*crashDisk) {
			cut(func(_ int, d *crashDisk) *Memory { return d.durable.Snapshot() })
			waiting := 0
			for _, d := range ds {
				if len(d.since) > 0 {
					waiting++
				}
			}
			if waiting == 0 {
				return
			}
			cut(func(_ int, d *crashDisk) *Memory { return d.Memory.Snapshot() })
			cut(func(_ int, d *crashDisk) *Memory {
				half := d.durable.Snapshot()
				if len(d.since) > 0 {
					last := d.since[len(d.since)-1]
					if n := len(last.data); n > 512 {
						last = &pendingWrite{off: last.off, data: last.data[:n/1024*512]}
					}
					last.apply(half)
				}
				return half
			})
			for only := range ds {
				if waiting > 1 && len(ds[only].since) > 0 {
					cut(func(i int, d *crashDisk) *Memory {
						if i == only {
							return d.Memory.Snapshot()
						}
						return d.durable.Snapshot()
					})
				}
			}
		}
	}
	if err := w.goOn(bs); err != nil {
		w.failed(": %w", err)
		return
	}
	for i, c := range cuts {
		w.states++
		w.deep++
		if depth > 1 && i == w.states%len(cuts) {
			w.cutAgain(c, depth-1)
		}
		if err := w.look(c); err != nil {
			w.failed(" and then once more, state %d of %d, %d more to come: %w", i, len(cuts), depth-1, err)
		}
	}
}

var crashSeed = maphash.MakeSeed()

// sectorSum is zero for zeroes, so that what was never written counts as they do.
func sectorSum(at int64, p []byte) uint64 {
	if allZero(p) {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(crashSeed)
	var b [8]byte
	le.PutUint64(b[:], uint64(at))
	h.Write(b[:])
	h.Write(p)
	return h.Sum64()
}

// sum is that of the sectors in a range, and of the length.
func (m *Memory) sum(off, n int64) (sum uint64) {
	var size [8]byte
	le.PutUint64(size[:], uint64(m.size))
	sum = sectorSum(-1, size[:])
	off, n = off&^511, n+off&511
	for end := min(off+n, m.size); off < end; {
		in := off % memPage
		k := min(end-off, memPage-in)
		if pg := m.pages[off/memPage].data; pg != nil {
			for i := int64(0); i < k; i += 512 {
				sum += sectorSum(off+i, pg[in+i:][:512])
			}
		}
		off += k
	}
	return sum
}
