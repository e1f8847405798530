package main

import (
	"encoding/binary"
	"fmt"
	"hash"
	"math"
)

// tscSlack is how far two CPUs' counters may disagree: what a transfer between their caches would hide on hardware.
const tscSlack = 0

// tscRate compares the TSC with the monotonic clock.
type tscRate struct {
	tsc, ns uint64
	first   float64 // ticks a nanosecond over the first interval of enough length
}

func (r *tscRate) begin() { r.tsc, r.ns = bothClocks() }

// bothClocks reads the TSC and the monotonic clock at one moment: of several tries, the one that was interrupted least.
func bothClocks() (ticks, ns uint64) {
	const tries = 16
	shortest := ^uint64(0)
	for range tries {
		before := tsc()
		at := monotonic()
		if took := tsc() - before; took < shortest {
			shortest, ticks, ns = took, before+took/2, at
		}
	}
	return ticks, ns
}

// driftPPM is the change of the TSC's average rate since its first second, in parts per million.
func (r *tscRate) driftPPM() int {
	const enough = 1e9
	ticks, now := bothClocks()
	ns := now - r.ns
	if ns < enough {
		return 0
	}
	rate := float64(ticks-r.tsc) / float64(ns)
	if r.first == 0 {
		r.first = rate
	}
	return int(math.Round((rate/r.first - 1) * 1e6))
}

// vectorCheck computes one value twice, through the SHA or AVX units where there are some and through SSE arithmetic,
// and compares: registers lost at an exit show as a difference.
func vectorCheck(h hash.Hash, seed uint64) error {
	var in [256]byte
	for i := 0; i < len(in); i += 8 {
		seed = step(seed | 1)
		binary.LittleEndian.PutUint64(in[i:], seed)
	}
	digest := func() [32]byte {
		h.Reset()
		h.Write(in[:])
		return [32]byte(h.Sum(nil))
	}
	if a, b := digest(), digest(); a != b {
		return fmt.Errorf("SHA-256 of the same bytes gave %x and %x", a[:8], b[:8])
	}
	series := func() (sum float64) {
		for i := 1; i <= 200; i++ {
			sum += math.Sqrt(float64(in[i%len(in)])) / float64(i)
		}
		return sum
	}
	if a, b := series(), series(); a != b {
		return fmt.Errorf("the same floating-point sum gave %v and %v", a, b)
	}
	return nil
}
