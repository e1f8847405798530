package vmm

import "math/bits"

// scale turns counts of a TSC into nanoseconds, in the very arithmetic that a
// guest's kvmclock uses (Linux, pvclock_scale_delta), so that the machine's clock
// and what guests compute never drift apart.
type scale struct {
	hz    uint64
	mul   uint32
	shift int8
}

const nsPerSecond = 1e9

// newScale is for a TSC of hz: shift brings hz between 1 and 2 GHz, so that mul
// has all of its 32 bits in use.
func newScale(hz uint64) scale {
	s := scale{hz: hz}
	f := hz
	for f > 2*nsPerSecond {
		f >>= 1
		s.shift--
	}
	for f <= nsPerSecond {
		f <<= 1
		s.shift++
	}
	// mul = 2^32 * 1e9 / (hz * 2^shift), from hz itself: f has lost bits.
	if s.shift >= 0 {
		s.mul = uint32((nsPerSecond << 32) / (hz << s.shift))
	} else {
		hi, lo := bits.Mul64(nsPerSecond<<32, 1<<-s.shift)
		q, _ := bits.Div64(hi, lo, hz)
		s.mul = uint32(q)
	}
	return s
}

// ns is the time that tsc counts take.
func (s scale) ns(tsc uint64) int64 {
	if s.shift < 0 {
		tsc >>= -s.shift
	} else {
		tsc <<= s.shift
	}
	hi, lo := bits.Mul64(tsc, uint64(s.mul))
	return int64(hi<<32 | lo>>32)
}

// tsc is a count at which ns returns t or a little more, never less.
func (s scale) tsc(t int64) uint64 {
	if t <= 0 {
		return 0
	}
	u := uint64(t)
	if u>>32 >= uint64(s.mul) {
		return ^uint64(0)
	}
	q, _ := bits.Div64(u>>32, u<<32, uint64(s.mul))
	q++
	if s.shift < 0 {
		return q << -s.shift
	}
	return q>>s.shift + 1
}
