package vcpu

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

var (
	vtx  = TSCScaling{Integer: 16, Fraction: 48}
	amdv = TSCScaling{Integer: 8, Fraction: 32}
)

// exact is floor(h * r / 2^48), cut to 64 bits.
func exact(r TSCRatio, h uint64) uint64 {
	x := new(big.Int).Mul(new(big.Int).SetUint64(h), new(big.Int).SetUint64(uint64(r)))
	x.Rsh(x, 48)
	return x.And(x, new(big.Int).SetUint64(^uint64(0))).Uint64()
}

// fits tells whether h scaled is less than 2^64, as every real counter is.
func fits(r TSCRatio, h uint64) bool {
	x := new(big.Int).Mul(new(big.Int).SetUint64(h), new(big.Int).SetUint64(uint64(r)))
	return x.Rsh(x, 48).BitLen() <= 64
}

func checkScaling(t *testing.T, r TSCRatio, h, g uint64) {
	t.Helper()
	if r == Unscaled {
		if r.Guest(h) != h || r.Host(g) != g {
			t.Fatalf("unscaled: %d became %d, %d became %d", h, r.Guest(h), g, r.Host(g))
		}
		return
	}
	if got, want := r.Guest(h), exact(r, h); got != want {
		t.Fatalf("ratio %#x: the guest's counter at %#x is %#x, want %#x", uint64(r), h, got, want)
	}
	if h < ^uint64(0) && fits(r, h+1) && r.Guest(h+1) < r.Guest(h) {
		t.Fatalf("ratio %#x: the guest's counter goes back from %#x to %#x", uint64(r), r.Guest(h), r.Guest(h+1))
	}
	at := r.Host(g)
	switch {
	case at == ^uint64(0): // never, or at the very end
		if x := at - 1; fits(r, x) && r.Guest(x) >= g {
			t.Fatalf("ratio %#x: %#x is never reached, though it is at %#x", uint64(r), g, x)
		}
	case fits(r, at) && r.Guest(at) < g:
		t.Fatalf("ratio %#x: at %#x the guest's counter is %#x, before %#x", uint64(r), at, r.Guest(at), g)
	case at > 0 && fits(r, at-1) && r.Guest(at-1) >= g:
		t.Fatalf("ratio %#x: %#x is reached before %#x", uint64(r), g, at)
	}
}

var extremes = []uint64{0, 1, 2, 1<<16 - 1, 1 << 16, 1<<32 - 1, 1 << 32, 1<<47 + 1, 1<<48 - 1, 1 << 48, 1<<48 + 1, 1<<63 - 1, 1 << 63, 1<<64 - 1}

func TestScaledCountersAreExactToTheLastBit(t *testing.T) {
	for _, r := range extremes {
		for _, h := range extremes {
			for _, g := range extremes {
				checkScaling(t, TSCRatio(r), h, g)
			}
		}
	}
	for range 200_000 {
		checkScaling(t, TSCRatio(rand.Uint64()>>rand.IntN(64)), rand.Uint64()>>rand.IntN(64), rand.Uint64()>>rand.IntN(64))
	}
}

func FuzzTSCRatio(f *testing.F) {
	f.Add(uint64(1<<48), uint64(1), uint64(1))
	f.Add(^uint64(0), ^uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, r, h, g uint64) { checkScaling(t, TSCRatio(r), h, g) })
}

// checkRatio holds a ratio against the quotient of the rates.
func checkRatio(t *testing.T, s TSCScaling, guest, host uint64) {
	t.Helper()
	r, ok := s.Ratio(guest, host)
	if !s.Has(r) {
		t.Fatalf("%d Hz on %d: the hardware does not have ratio %#x", guest, host, uint64(r))
	}
	if !ok || r == Unscaled {
		if r != Unscaled {
			t.Fatalf("%d Hz on %d: ratio %#x, and it can not be done", guest, host, uint64(r))
		}
		return
	}
	// |r/2^48 - guest/host| <= 2^-Fraction / 2, with r itself far from zero.
	want := new(big.Rat).SetFrac(new(big.Int).SetUint64(guest), new(big.Int).SetUint64(host))
	got := new(big.Rat).SetFrac(new(big.Int).SetUint64(uint64(r)), new(big.Int).Lsh(big.NewInt(1), 48))
	d := new(big.Rat).Sub(got, want)
	half := new(big.Rat).SetFrac(big.NewInt(1), new(big.Int).Lsh(big.NewInt(2), uint(s.Fraction)))
	if d.Abs(d).Cmp(half) > 0 {
		t.Fatalf("%d Hz on %d: ratio %#x is %v off", guest, host, uint64(r), d.FloatString(20))
	}
	if d.Quo(d, want).Cmp(big.NewRat(1, 1_000_000)) > 0 {
		t.Fatalf("%d Hz on %d: ratio %#x is wrong by more than a millionth", guest, host, uint64(r))
	}
}

func TestRatioIsTheNearestThatTheHardwareHas(t *testing.T) {
	for _, s := range []TSCScaling{vtx, amdv, {}, {1, 1}, {16, 1}, {0, 48}} {
		for _, g := range extremes {
			for _, h := range extremes {
				checkRatio(t, s, g, h)
			}
		}
		for range 50_000 {
			checkRatio(t, s, rand.Uint64()>>rand.IntN(64), rand.Uint64()>>rand.IntN(64))
		}
	}
}

func FuzzTSCScaling(f *testing.F) {
	f.Add(uint8(16), uint8(48), uint64(3e9), uint64(2.6e9))
	f.Fuzz(func(t *testing.T, integer, fraction uint8, g, h uint64) {
		checkRatio(t, TSCScaling{integer % 17, fraction % 49}, g, h)
	})
}

func TestRatesOfRealHosts(t *testing.T) {
	for _, c := range []struct {
		s           TSCScaling
		guest, host uint64
		scaled, can bool
	}{
		{vtx, 2_600_000_000, 3_000_000_000, true, true},
		{amdv, 2_600_000_000, 3_000_000_000, true, true},
		{amdv, 3_000_000_000, 2_600_000_000, true, true},
		{vtx, 3_000_000_000, 3_000_740_000, false, true}, // 247 ppm: no one can tell
		{vtx, 3_000_000_000, 2_999_260_000, false, true},
		{vtx, 3_000_000_000, 3_000_760_000, true, true}, // 253 ppm
		{amdv, 3_000_000_000, 3_000_760_000, true, true},
		{TSCScaling{}, 3_000_000_000, 3_000_740_000, false, true},
		{TSCScaling{}, 3_000_000_000, 3_000_760_000, false, false},
		{amdv, 2_550_000_000, 10_000_000, true, true}, // 255 times
		{amdv, 2_570_000_000, 10_000_000, false, false},
		{vtx, 2_570_000_000, 10_000_000, true, true},
		{vtx, 1 << 63, 1, false, false},
		{vtx, 0, 1_000_000_000, false, false},
	} {
		r, can := c.s.Ratio(c.guest, c.host)
		if can != c.can || (r != Unscaled) != c.scaled {
			t.Errorf("%+v, %d Hz on %d: ratio %#x, %v", c.s, c.guest, c.host, uint64(r), can)
		}
	}
}

func TestHardwareTakesOnlyRatiosOfItsWidth(t *testing.T) {
	for _, c := range []struct {
		s   TSCScaling
		r   TSCRatio
		has bool
	}{
		{vtx, ^TSCRatio(0), true},
		{vtx, 1, true},
		{amdv, 1, false},
		{amdv, 1 << 16, true},
		{amdv, 1<<56 - 1<<16, true},
		{amdv, 1 << 56, false},
		{TSCScaling{}, Unscaled, true},
		{TSCScaling{}, 1 << 48, false},
	} {
		if c.s.Has(c.r) != c.has {
			t.Errorf("%+v has %#x: %v", c.s, uint64(c.r), !c.has)
		}
	}
}
