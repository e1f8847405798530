package vclock

import "math/bits"

// Ticks is how often a counter at hz has counted after ns nanoseconds. Neither
// may be negative; hz is at most 1 GHz.
func Ticks(ns int64, hz uint64) uint64 { return muldiv(uint64(ns), hz, 1e9) }

// Nanoseconds is the first moment at which a counter at hz has counted ticks
// times: the inverse of Ticks.
func Nanoseconds(ticks, hz uint64) int64 {
	hi, lo := bits.Mul64(ticks, 1e9)
	lo, carry := bits.Add64(lo, hz-1, 0)
	hi += carry
	if hi >= hz { // would not fit: as late as can be
		return maxNow
	}
	q, _ := bits.Div64(hi, lo, hz)
	return int64(min(q, maxNow))
}

func muldiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi, lo, c)
	return q
}
