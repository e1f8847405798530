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

// setRange sets the bits first to last while others do the same.
func (b Bitmap) setRange(first, last uint64) {
	for i := first / 64; i <= last/64; i++ {
		w := ^uint64(0)
		if i == first/64 {
			w &= ^uint64(0) << (first % 64)
		}
		if i == last/64 {
			w &= ^uint64(0) >> (63 - last%64)
		}
		if atomic.LoadUint64(&b[i])&w != w {
			atomic.OrUint64(&b[i], w)
		}
	}
}
