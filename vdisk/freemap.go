package vdisk

import "math/bits"

// A freeMap says of each MiB of a file whether it is free, and what it holds: two bits.
// They lie in windows, of which those without free space, and those that are free
// throughout and hold the same, take no room. So the free space of a file of 64 TiB
// takes 17 MiB at the most, however it is scattered.
type freeMap struct {
	windows []*freeWindow // nil: nothing is free
	total   int64         // MiB
	// Below at there is no run of n MiB that hold c: by c, and whether n is one.
	hints [3][2]struct{ n, at int64 }
}

const windowMiB = 4096

// A MiB's bit is set in lo for zeroes and old bytes, in hi for holes and old bytes.
type freeWindow struct {
	lo, hi [windowMiB / 64]uint64
	count  [3]int64 // of free MiB, by content
}

// fullWindows are shared: who changes one copies it.
var fullWindows = func() (ws [3]*freeWindow) {
	for c := range ws {
		ws[c] = &freeWindow{}
		for m := range int64(windowMiB) {
			ws[c].set(m, 1+content(c))
		}
		ws[c].count[c] = windowMiB
	}
	return ws
}()

// set makes a MiB free with content v-1, or, with v zero, taken.
func (w *freeWindow) set(m int64, v content) {
	bit := uint64(1) << (m % 64)
	w.lo[m/64] &^= bit
	w.hi[m/64] &^= bit
	if v&1 != 0 {
		w.lo[m/64] |= bit
	}
	if v&2 != 0 {
		w.hi[m/64] |= bit
	}
}

// of is the 64 MiB at word i that are free and hold c.
func (w *freeWindow) of(c content, i int64) uint64 {
	switch c {
	case holdsZeroes:
		return w.lo[i] &^ w.hi[i]
	case holdsHoles:
		return w.hi[i] &^ w.lo[i]
	}
	return w.lo[i] & w.hi[i]
}

func (f *freeMap) window(m int64) *freeWindow {
	if i := m / windowMiB; i < int64(len(f.windows)) {
		return f.windows[i]
	}
	return nil
}

// at is what a MiB holds, if it is free.
func (f *freeMap) at(m int64) (c content, free bool) {
	w := f.window(m)
	if w == nil {
		return 0, false
	}
	i, k := m%windowMiB/64, m%64
	v := content(w.lo[i]>>k&1 | w.hi[i]>>k&1<<1)
	return v - 1, v != 0
}

// put makes n MiB at m free; ok is false, and nothing has changed, if some are already.
func (f *freeMap) put(m, n int64, c content) (ok bool) {
	if off, _, _, any := f.next(m); any && off < m+n {
		return false
	}
	f.change(m, n, c+1)
	for k := range f.hints[c] {
		h := &f.hints[c][k]
		// What was there may have grown at both ends.
		h.at = min(h.at, max(0, m-h.n))
	}
	return true
}

// take makes n free MiB at m taken.
func (f *freeMap) take(m, n int64) { f.change(m, n, 0) }

func (f *freeMap) change(m, n int64, v content) {
	for end := m + n; m < end; {
		i := m / windowMiB
		for int64(len(f.windows)) <= i {
			f.windows = append(f.windows, nil)
		}
		k := min(end, (i+1)*windowMiB) - m
		w := f.windows[i]
		old := int64(0)
		if w != nil {
			old = w.count[0] + w.count[1] + w.count[2]
		}
		switch {
		case k == windowMiB && v == 0:
			f.windows[i] = nil
		case k == windowMiB:
			f.windows[i] = fullWindows[v-1]
		default:
			if w == nil {
				w = &freeWindow{}
			} else if w == fullWindows[0] || w == fullWindows[1] || w == fullWindows[2] {
				c := *w
				w = &c
			}
			f.windows[i] = w
			for j := m; j < m+k; j++ {
				if c, free := f.at(j); free {
					w.count[c]--
				}
				if w.set(j%windowMiB, v); v != 0 {
					w.count[v-1]++
				}
			}
			if w.count == [3]int64{} {
				f.windows[i] = nil
			}
		}
		if w = f.windows[i]; w != nil {
			f.total += w.count[0] + w.count[1] + w.count[2]
		}
		f.total -= old
		m += k
	}
}

// find looks for the first n MiB in a row that hold c.
func (f *freeMap) find(c content, n int64) (m int64, ok bool) {
	one := 0
	if n == 1 {
		one = 1
	}
	h, from := &f.hints[c][one], int64(0)
	if n >= h.n {
		from = h.at
	}
	m, ok = f.findFrom(c, n, from)
	h.n, h.at = n, int64(len(f.windows))*windowMiB
	if ok {
		h.at = m
	}
	return m, ok
}

func (f *freeMap) findFrom(c content, n, m int64) (start int64, ok bool) {
	run := int64(0)
	for m < int64(len(f.windows))*windowMiB {
		w := f.windows[m/windowMiB]
		if w == nil || w.count[c] == 0 {
			run, m = 0, (m/windowMiB+1)*windowMiB
			continue
		}
		if run == 0 {
			start = m
		}
		if m%windowMiB == 0 && w.count[c] == windowMiB {
			run, m = run+windowMiB, m+windowMiB
		} else {
			word, left := w.of(c, m%windowMiB/64)>>(m%64), 64-m%64
			k := min(left, int64(bits.TrailingZeros64(^word)))
			if k == 0 { // none here: to the first that is free
				run, m = 0, m+min(left, int64(bits.TrailingZeros64(word)))
				continue
			}
			run, m = run+k, m+k
		}
		if run >= n {
			return start, true
		}
		// A run ends where its content does.
		if next, free := f.at(m); !free || next != c {
			run = 0
		}
	}
	return 0, false
}

// next is the first run at m or behind it; any is false if there is none.
func (f *freeMap) next(m int64) (off, n int64, c content, any bool) {
	for m < int64(len(f.windows))*windowMiB {
		w := f.windows[m/windowMiB]
		if w == nil {
			m = (m/windowMiB + 1) * windowMiB
			continue
		}
		i := m % windowMiB / 64
		word := (w.lo[i] | w.hi[i]) >> (m % 64)
		if word == 0 {
			m += 64 - m%64
			continue
		}
		off = m + int64(bits.TrailingZeros64(word))
		c, _ = f.at(off)
		return off, f.runs(c, off), c, true
	}
	return 0, 0, 0, false
}

// runs is how many MiB from m on hold c.
func (f *freeMap) runs(c content, m int64) (n int64) {
	for {
		w := f.window(m + n)
		switch {
		case w == nil:
			return n
		case (m+n)%windowMiB == 0 && w.count[c] == windowMiB:
			n += windowMiB
		default:
			word, left := w.of(c, (m+n)%windowMiB/64)>>((m+n)%64), 64-(m+n)%64
			k := min(left, int64(bits.TrailingZeros64(^word)))
			if n += k; k < left {
				return n
			}
		}
	}
}

// before is how many MiB in front of m are free, whatever they hold.
func (f *freeMap) before(m int64) (n int64) {
	for m > n {
		w := f.window(m - n - 1)
		if w == nil {
			return n
		}
		if (m-n)%windowMiB == 0 && w.count[0]+w.count[1]+w.count[2] == windowMiB {
			n += windowMiB
			continue
		}
		if _, free := f.at(m - n - 1); !free {
			return n
		}
		n++
	}
	return n
}

// harden makes holes zeroes.
func (f *freeMap) harden() {
	for i, w := range f.windows {
		if w == nil || w.count[holdsHoles] == 0 {
			continue
		}
		if w == fullWindows[holdsHoles] {
			f.windows[i] = fullWindows[holdsZeroes]
			continue
		}
		for k := range w.lo {
			holes := w.hi[k] &^ w.lo[k]
			w.lo[k] |= holes
			w.hi[k] &^= holes
		}
		w.count[holdsZeroes] += w.count[holdsHoles]
		w.count[holdsHoles] = 0
	}
	for k := range f.hints[holdsZeroes] {
		f.hints[holdsZeroes][k].at = 0
	}
}
