package slat

import (
	"math/bits"
	"sync/atomic"
)

// A Bitmap has a bit for each 4 KiB page, by guest frame number.
type Bitmap []uint64

// NewBitmap has room for the pages below limit.
func NewBitmap(limit uint64) Bitmap {
	return make(Bitmap, (limit/PageSize+63)/64)
}

// Test tells whether a page's bit is set.
func (b Bitmap) Test(gfn uint64) bool { return b[gfn/64]>>(gfn%64)&1 != 0 }

// Set sets a page's bit.
func (b Bitmap) Set(gfn uint64) { b[gfn/64] |= 1 << (gfn % 64) }

// Clear clears it.
func (b Bitmap) Clear(gfn uint64) { b[gfn/64] &^= 1 << (gfn % 64) }

// Count is how many bits are set.
func (b Bitmap) Count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// Next is the first set bit from gfn on; false if there is none.
func (b Bitmap) Next(gfn uint64) (uint64, bool) {
	for i := gfn / 64; i < uint64(len(b)); i++ {
		w := b[i]
		if i == gfn/64 {
			w &= ^uint64(0) << (gfn % 64)
		}
		if w != 0 {
			return i*64 + uint64(bits.TrailingZeros64(w)), true
		}
	}
	return 0, false
}

// A dirtyMap is a Bitmap that many set bits in and one collects. A summary has a
// bit for each of its words, so that collecting few pages of a large VM is quick.
type dirtyMap struct {
	bits    Bitmap
	summary []uint64
}

func newDirtyMap(limit uint64) *dirtyMap {
	b := NewBitmap(limit)
	return &dirtyMap{b, make([]uint64, (len(b)+63)/64)}
}

// set sets bits of a word, then the word's in the summary: drain looks in the other
// order, so a bit it misses is found the next time.
func (d *dirtyMap) set(word, bits uint64) {
	if atomic.LoadUint64(&d.bits[word])&bits != bits {
		atomic.OrUint64(&d.bits[word], bits)
	}
	if s := &d.summary[word/64]; atomic.LoadUint64(s)>>(word%64)&1 == 0 {
		atomic.OrUint64(s, 1<<(word%64))
	}
}

// setRange sets the bits first to last.
func (d *dirtyMap) setRange(first, last uint64) {
	for i := first / 64; i <= last/64; i++ {
		w := ^uint64(0)
		if i == first/64 {
			w &= ^uint64(0) << (first % 64)
		}
		if i == last/64 {
			w &= ^uint64(0) >> (63 - last%64)
		}
		d.set(i, w)
	}
}

// drain takes all bits out, a word at a time.
func (d *dirtyMap) drain(f func(word, bits uint64)) {
	for i := range d.summary {
		if atomic.LoadUint64(&d.summary[i]) == 0 {
			continue
		}
		for s := atomic.SwapUint64(&d.summary[i], 0); s != 0; s &= s - 1 {
			word := uint64(i)*64 + uint64(bits.TrailingZeros64(s))
			if w := atomic.SwapUint64(&d.bits[word], 0); w != 0 {
				f(word, w)
			}
		}
	}
}

// count is how many bits are set. It looks where the summary says.
func (d *dirtyMap) count() (n uint64) {
	for i := range d.summary {
		for s := atomic.LoadUint64(&d.summary[i]); s != 0; s &= s - 1 {
			n += uint64(bits.OnesCount64(atomic.LoadUint64(&d.bits[i*64+bits.TrailingZeros64(s)])))
		}
	}
	return n
}
