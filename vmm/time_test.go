package vmm

import (
	"math/rand/v2"
	"testing"
)

func TestDeadlinesAreNeverEarlyAndHardlyLate(t *testing.T) {
	for _, hz := range []uint64{1e6, 10e6, 999999999, 1e9, 1e9 + 1, 2e9, 2400000001, 5123456789} {
		s := newScale(hz)
		for range 10000 {
			at := rand.Int64N(400 * 86400 * 1e9)
			c := s.tsc(at)
			if got := s.ns(c); got < at || got > at+3000000000/int64(min(hz, 3e9))*3+3 {
				t.Fatalf("%d Hz: %d ns is count %d, which is %d ns", hz, at, c, got)
			}
		}
	}
}

func TestScaleIsExactToABillionth(t *testing.T) {
	for _, hz := range []uint64{10e6, 1e9, 2.5e9, 3123456789} {
		if got := newScale(hz).ns(hz * 1000); got < 1e12-1000 || got > 1e12 {
			t.Errorf("%d Hz: a thousand seconds are %d ns", hz, got)
		}
	}
}
