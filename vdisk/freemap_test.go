package vdisk

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

// A freeMap does what a plain list of MiB would.
func TestFreeMapAgreesWithAPlainOne(t *testing.T) {
	const size = 3*windowMiB + 200
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 31))
		var f freeMap
		plain := make([]content, size) // 1+content; 0: taken
		runs := func(m int64) (n int64) {
			for m+n < size && plain[m+n] == plain[m] {
				n++
			}
			return n
		}
		check := func() {
			t.Helper()
			total, at := int64(0), int64(0)
			for m := int64(0); m < size; m++ {
				if plain[m] == 0 {
					continue
				}
				off, n, c, any := f.next(at)
				if k := runs(m); !any || off != m || n != k || c != plain[m]-1 {
					t.Fatalf("seed %d: the next run is %d+%d of %d, %v; not %d+%d of %d", seed, off, n, c, any, m, k, plain[m]-1)
				}
				at, m, total = off+n, m+n-1, total+n
			}
			if _, _, _, any := f.next(at); any || total != f.total {
				t.Fatalf("seed %d: %d MiB are free, not %d; more behind: %v", seed, f.total, total, any)
			}
		}
		for step := range 600 {
			n := []int64{1, 1 + rng.Int64N(8), 1 + rng.Int64N(200), 1 + rng.Int64N(2*windowMiB)}[rng.IntN(4)]
			m := rng.Int64N(size - n + 1)
			if rng.IntN(8) == 0 && n > windowMiB {
				m = windowMiB
			}
			c := content(rng.IntN(3))
			switch rng.IntN(6) {
			case 0, 1, 2:
				clash := false
				for i := m; i < m+n; i++ {
					clash = clash || plain[i] != 0
				}
				if f.put(m, n, c) == clash {
					t.Fatalf("seed %d: put %d+%d answered %v", seed, m, n, !clash)
				}
				for i := m; i < m+n && !clash; i++ {
					plain[i] = c + 1
				}
			case 3, 4:
				want := int64(-1)
				for i := int64(0); i < size && want < 0; i++ {
					if plain[i] == c+1 {
						if k := runs(i); k >= n {
							want = i
						} else {
							i += k - 1
						}
					}
				}
				at, ok := f.find(c, n)
				if ok != (want >= 0) || ok && at != want {
					t.Fatalf("seed %d: %d MiB of %d were found at %d, %v; they are at %d", seed, n, c, at, ok, want)
				}
				if ok {
					f.take(at, n)
					clear(plain[at : at+n])
				}
			case 5:
				if step%5 == 0 {
					f.harden()
					for i, v := range plain {
						if v == holdsHoles+1 {
							plain[i] = holdsZeroes + 1
						}
					}
				}
			}
			k := int64(0)
			for k < m && plain[m-1-k] != 0 {
				k++
			}
			if b := f.before(m); b != k {
				t.Fatalf("seed %d: %d MiB are free before %d, not %d", seed, b, m, k)
			}
			if step%20 == 0 {
				check()
			}
		}
		check()
	}
}

// The free space of a file of 64 TiB with every other MiB free, in three kinds, takes
// little memory, and a search that fails is not repeated from the start.
func TestFreeSpaceOfTheLargestFileIsBounded(t *testing.T) {
	var f freeMap
	for m := int64(0); m < maxDisk/mib; m += 2 {
		f.put(m, 1, content(m/2%3))
	}
	bytes := int64(len(f.windows)) * 8
	for _, w := range f.windows {
		if w != nil {
			bytes += int64(unsafe.Sizeof(*w))
		}
	}
	if bytes > 18*mib || f.total != maxDisk/mib/2 {
		t.Errorf("%d MiB of free space take %d bytes", f.total, bytes)
	}
	t.Logf("%d bytes", bytes)
	for c := range content(3) {
		if _, ok := f.find(c, 2); ok || f.hints[c][0].at < maxDisk/mib {
			t.Errorf("two MiB of %d: found is %v; the next search begins at %d", c, ok, f.hints[c][0].at)
		}
	}
	// A region of the whole rest is one window, seen many times.
	var g freeMap
	g.put(0, maxInUse/mib, holdsOld)
	for _, w := range g.windows {
		if w != fullWindows[holdsOld] {
			t.Fatal("a window that is wholly free has memory of its own")
		}
	}
}
