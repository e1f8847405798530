package selftest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
)

// Parts that only compute: a wrong result is memory, a register or vector state that was lost.

func startCrypto(w int, _ *shared) func() string {
	buf := make([]byte, 16<<10)
	for i := range buf {
		buf[i] = byte(i * (w + 3))
	}
	return repeat(func() string {
		h := sha256.Sum256(buf)
		b, _ := aes.NewCipher(h[:])
		g, _ := cipher.NewGCM(b)
		sealed := g.Seal(nil, h[:12], buf, nil)
		opened, err := g.Open(nil, h[:12], sealed, nil)
		if err != nil || !bytes.Equal(opened, buf) {
			return "AES-GCM does not open what it sealed"
		}
		for _, b := range h {
			if x := uint64(b)<<40 | uint64(w) + 2; power(x, mersenne-1) != 1 {
				return fmt.Sprintf("%#x to the power of a prime less 1 is %#x, modulo that prime", x, power(x, mersenne-1))
			}
		}
		return fmt.Sprintf("%x %x", h[:8], sha256.Sum256(sealed))
	})
}

const mersenne = 1<<61 - 1 // a prime

// power is x to the power of n modulo mersenne.
func power(x, n uint64) uint64 {
	r := uint64(1)
	for ; n != 0; n >>= 1 {
		if n&1 != 0 {
			hi, lo := bits.Mul64(r, x)
			r = bits.Rem64(hi, lo, mersenne)
		}
		hi, lo := bits.Mul64(x, x)
		x = bits.Rem64(hi, lo, mersenne)
	}
	return r
}

func startFloat(w int, _ *shared) func() string {
	return repeat(func() string {
		x, y := 0.0, float32(0)
		for i := 1; i < 4000; i++ {
			v := float64(i * (w + 1))
			x += math.Sin(v) / math.Sqrt(float64(i))
			x = math.FMA(x, 0.999, math.Cbrt(v))
			y += float32(math.Exp(-1/v)) * float32(i)
		}
		return fmt.Sprint(math.Float64bits(x), math.Float32bits(y))
	})
}

func startVector(w int, _ *shared) func() string {
	src := make([]byte, 70<<10)
	for i := range src {
		src[i] = byte(i*7 + w)
	}
	dst := make([]byte, len(src))
	return repeat(func() string {
		n := 0
		for _, size := range []int{7, 31, 64, 255, 2048, 4099, len(src) - 64} {
			for off := range 3 {
				clear(dst)
				copy(dst[off*13:], src[off*7:off*7+size])
				if !bytes.Equal(dst[off*13:off*13+size], src[off*7:off*7+size]) {
					return fmt.Sprintf("copy of %d bytes differs", size)
				}
				n += bytes.Count(dst, []byte{byte(off)}) + bytes.IndexByte(dst, src[off*7+size-1])
			}
		}
		return fmt.Sprint(n, crc32.ChecksumIEEE(dst))
	})
}

// startRegisters holds known values in every vector register through a loop that
// interrupts hit anywhere.
func startRegisters(w int, _ *shared) func() string {
	seed := uint64(w)*0x9e3779b97f4a7c15 + 1
	return func() string {
		seed = seed*6364136223846793005 + 1442695040888963407
		if bad := holdRegisters(seed, 200_000); bad != 0 {
			return fmt.Sprintf("vector registers changed: mask %#x", bad)
		}
		return ""
	}
}

func startMaps(w int, _ *shared) func() string {
	return func() string {
		m := map[int]string{}
		for i := range 2000 {
			m[i*(w+1)] = fmt.Sprint(i)
		}
		for i := 0; i < 2000; i += 2 {
			delete(m, i*(w+1))
		}
		for i := 1; i < 2000; i += 2 {
			if m[i*(w+1)] != fmt.Sprint(i) {
				return fmt.Sprintf("key %d holds %q", i*(w+1), m[i*(w+1)])
			}
		}
		if len(m) != 1000 {
			return fmt.Sprintf("%d keys, want 1000", len(m))
		}
		return ""
	}
}

func startRandom(_ int, _ *shared) func() string {
	seen := map[[16]byte]bool{}
	ones, total := 0, 0
	return func() string {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err.Error()
		}
		if len(seen) > 10000 {
			clear(seen)
		}
		if seen[b] {
			return fmt.Sprintf("crypto/rand gave %x twice", b)
		}
		seen[b] = true
		for _, c := range b {
			for ; c != 0; c &= c - 1 {
				ones++
			}
		}
		if total += 128; total > 1<<20 {
			if d := float64(ones)/float64(total) - 0.5; math.Abs(d) > 0.01 {
				return fmt.Sprintf("%d of %d random bits are ones", ones, total)
			}
		}
		return ""
	}
}
