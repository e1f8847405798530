package vcpu

import "math/bits"

// A TSCRatio is the rate of a guest's TSC over its host's, with ratioFraction fraction
// bits: a guest's TSC is the host's times the ratio, cut to a whole number, plus an
// offset. That is VT-x's arithmetic, bit for bit (SDM vol. 3, 24.6.5, 25.3), and
// AMD-V's, whose ratios have 32 fraction bits (APM vol. 2, 15.30.5), where the lower
// 16 are zero. So what is computed here is what the guest reads.
//
// The zero value is Unscaled.
type TSCRatio uint64

// Unscaled: the guest's TSC runs at the host's rate, and the hardware does not multiply.
const Unscaled TSCRatio = 0

const ratioFraction = 48

// Guest is the guest's TSC, without its offset, when the host's is h. It never
// decreases as h grows.
func (r TSCRatio) Guest(h uint64) uint64 {
	if r == Unscaled {
		return h
	}
	hi, lo := bits.Mul64(h, uint64(r))
	return hi<<(64-ratioFraction) | lo>>ratioFraction
}

// Host is the first TSC of the host at which Guest returns g or more; the greatest
// there is, if none does.
func (r TSCRatio) Host(g uint64) uint64 {
	if r == Unscaled || g == 0 {
		return g
	}
	// ceil(g * 2^48 / r)
	hi, lo := g>>(64-ratioFraction), g<<ratioFraction
	if hi >= uint64(r) {
		return ^uint64(0)
	}
	q, rest := bits.Div64(hi, lo, uint64(r))
	if rest != 0 && q != ^uint64(0) {
		q++
	}
	return q
}

// TSCScaling is what ratios a host's hardware takes: how many bits they have before
// and behind the point. The zero value takes none.
type TSCScaling struct{ Integer, Fraction uint8 }

// Has tells whether the hardware takes r as it is.
func (s TSCScaling) Has(r TSCRatio) bool {
	if r == Unscaled {
		return true
	}
	return s.Fraction != 0 && uint64(r)>>ratioFraction>>s.Integer == 0 && uint64(r)<<s.Fraction<<(64-ratioFraction) == 0
}

// tscTolerance is by how much two rates may differ, in millionths, and still be taken
// for the same: neither calibration nor a crystal is better than that over the years. It
// is what KVM takes (Linux, arch/x86/kvm/x86.c, tsc_tolerance_ppm).
const tscTolerance = 250

// SameTSC tells whether two rates differ by no more than measuring them does.
func SameTSC(a, b uint64) bool {
	hi, lo := bits.Mul64(max(a, b)-min(a, b), 1_000_000)
	limit, rest := bits.Mul64(b, tscTolerance)
	return hi < limit || hi == limit && lo <= rest
}

// Ratio is how a guest whose TSC runs at guestHz is to run where the host's runs at
// hostHz, and whether the hardware can do it; Unscaled if not, or if the two rates are
// the same.
func (s TSCScaling) Ratio(guestHz, hostHz uint64) (TSCRatio, bool) {
	if SameTSC(guestHz, hostHz) {
		return Unscaled, true
	}
	if s.Fraction == 0 || s.Fraction > ratioFraction || guestHz == 0 || hostHz == 0 {
		return Unscaled, false
	}
	hi, lo := guestHz>>(64-s.Fraction), guestHz<<s.Fraction
	if hi >= hostHz {
		return Unscaled, false
	}
	q, rest := bits.Div64(hi, lo, hostHz)
	if rest >= hostHz-rest { // to the nearest
		q++
	}
	// A ratio of few digits would make a rate that is not the guest's.
	if q>>s.Fraction>>s.Integer != 0 || q < leastRatio {
		return Unscaled, false
	}
	r := TSCRatio(q << (ratioFraction - s.Fraction))
	return r, true
}

// leastRatio, in units of the last fraction bit: a rounding of half a unit is then less
// than a millionth.
const leastRatio = 1 << 19
