package kernel

import (
	"encoding/binary"
	"math/bits"
)

// The random number generator behind getrandom: ChaCha20 (RFC 8439, 2.3) keyed
// from every source there is. Each answer comes from a fresh block whose first half
// replaces the key, so that a later look into memory tells nothing about earlier
// answers.
var rng struct {
	mu      spinlock
	key     [8]uint32
	counter uint64
	sources uint32
}

// Where the key came from.
const (
	seedRDSEED = 1 << iota
	seedRDRAND
	seedJitter
)

func chachaQuarter(s *[16]uint32, a, b, c, d int) {
	s[a] += s[b]
	s[d] = bits.RotateLeft32(s[d]^s[a], 16)
	s[c] += s[d]
	s[b] = bits.RotateLeft32(s[b]^s[c], 12)
	s[a] += s[b]
	s[d] = bits.RotateLeft32(s[d]^s[a], 8)
	s[c] += s[d]
	s[b] = bits.RotateLeft32(s[b]^s[c], 7)
}

// chachaBlock is the ChaCha20 block function with a 64-bit counter.
func chachaBlock(key *[8]uint32, counter, nonce uint64) (out [16]uint32) {
	in := [16]uint32{
		0x61707865, 0x3320646e, 0x79622d32, 0x6b206574,
		key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
		uint32(counter), uint32(counter >> 32), uint32(nonce), uint32(nonce >> 32),
	}
	out = in
	for range 10 {
		chachaQuarter(&out, 0, 4, 8, 12)
		chachaQuarter(&out, 1, 5, 9, 13)
		chachaQuarter(&out, 2, 6, 10, 14)
		chachaQuarter(&out, 3, 7, 11, 15)
		chachaQuarter(&out, 0, 5, 10, 15)
		chachaQuarter(&out, 1, 6, 11, 12)
		chachaQuarter(&out, 2, 7, 8, 13)
		chachaQuarter(&out, 3, 4, 9, 14)
	}
	for i := range out {
		out[i] += in[i]
	}
	return
}

// stir mixes 64 bits into the key.
func stir(v uint64) {
	rng.counter++
	b := chachaBlock(&rng.key, rng.counter, v)
	copy(rng.key[:], b[:8])
}

// seedFrom stirs in what a generator of the CPU's gives, and reports whether that is to
// be believed: some of AMD's, with old microcode, give all ones or zero for ever, and
// call it a success.
func seedFrom(draw func() (uint64, bool)) (works bool) {
	last, drawn := uint64(0), false
	for range 16 {
		if v, ok := draw(); ok {
			stir(v)
			works = works || drawn && v != last
			last, drawn = v, true
		}
	}
	return works
}

// initRandom seeds the generator. Where the CPU has no generator, what remains is
// the jitter of the clock against the port bus; a line says so.
func initRandom() {
	if haveRDSEED && seedFrom(rdseed) {
		rng.sources |= seedRDSEED
	}
	if haveRDRAND && seedFrom(rdrand) {
		rng.sources |= seedRDRAND
	}
	rounds := 32
	if rng.sources == 0 {
		rounds = 2048
		print1("kernel: this CPU has no RDRAND or RDSEED that works: random numbers come from clock jitter alone\n")
	}
	for range rounds {
		In8(portB)
		stir(TSC())
	}
	rng.sources |= seedJitter
	stir(uint64(wallAt0))
}

// maxRandom is how much one getrandom answers, with interrupts off: callers expect
// short reads above 256 bytes (getrandom(2), Notes).
const maxRandom = 4096

// random fills b.
func random(b []byte) {
	for len(b) > 0 {
		rng.mu.lock()
		rng.counter++
		if haveRDRAND { // new entropy with every answer costs little
			if v, ok := rdrand(); ok {
				stir(v)
			}
		}
		block := chachaBlock(&rng.key, rng.counter, TSC())
		copy(rng.key[:], block[:8])
		rng.mu.unlock()
		var out [32]byte
		for i, w := range block[8:] {
			binary.LittleEndian.PutUint32(out[4*i:], w)
		}
		b = b[copy(b, out[:]):]
	}
}
