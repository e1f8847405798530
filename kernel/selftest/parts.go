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
	"runtime"
	"sync"
	"syscall"
	"time"
)

var parts = []part{
	{name: "crypto", start: startCrypto},
	{name: "float", start: startFloat},
	{name: "vector", start: startVector},
	{name: "registers", start: startRegisters},
	{name: "maps", start: startMaps},
	{name: "gc", start: startGC, note: noteGC},
	{name: "channels", start: startChannels},
	{name: "timers", start: startTimers, note: noteLate},
	{name: "preempt", start: startPreempt, single: true},
	{name: "faults", start: startFaults},
	{name: "memory", start: startMemory},
	{name: "calls", start: startCalls, single: true},
	{name: "unmap", start: startUnmap, single: true},
	{name: "threads", start: startThreads, single: true},
	{name: "random", start: startRandom, single: true},
	{name: "pinned", start: startPinned, single: true, bare: true},
	{name: "kicks", start: startKicks, single: true, bare: true},
	{name: "ringzero", start: startRingZero, bare: true},
	{name: "timer", start: startTimer, single: true, bare: true, note: noteLate},
	{name: "frames", start: startFrames, bare: true},
}

// repeat makes a round of a function that must always give the same.
func repeat(f func() string) func() string {
	want := f()
	return func() string {
		if got := f(); got != want {
			return "got " + got + ", want " + want
		}
		return ""
	}
}

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

type node struct {
	l, r *node
	v    uint64
	pad  [3]uint64
}

func grow(depth int, v uint64) *node {
	n := &node{v: v, pad: [3]uint64{v, ^v, v * v}}
	if depth > 0 {
		n.l, n.r = grow(depth-1, v*2), grow(depth-1, v*2+1)
	}
	return n
}

func (n *node) check() bool {
	if n == nil {
		return true
	}
	return n.pad == [3]uint64{n.v, ^n.v, n.v * n.v} && n.l.check() && n.r.check()
}

func startGC(w int, s *shared) func() string {
	var keep [4]*node
	var big []byte
	i := 0
	return func() string {
		i++
		keep[i%4] = grow(10, uint64(i))
		big = make([]byte, 256<<10+i%7<<12)
		for k := 0; k < len(big); k += 4096 {
			if big[k] != 0 {
				return fmt.Sprintf("new memory is not zero at %d of %d", k, len(big))
			}
			big[k] = byte(i)
		}
		if w == 0 && i%64 == 0 {
			t := time.Now()
			runtime.GC()
			s.maximum(int64(time.Since(t)))
		}
		if i%8 == 0 {
			for _, n := range keep {
				if !n.check() {
					return "a live tree was damaged"
				}
			}
		}
		return ""
	}
}

func noteGC(s *shared) string {
	if s.max.Load() == 0 {
		return ""
	}
	return fmt.Sprintf("longest collection %v", time.Duration(s.max.Load()).Round(time.Microsecond))
}

func startChannels(w int, _ *shared) func() string {
	return func() string {
		c, d := make(chan int), make(chan int, 3)
		var mu sync.Mutex
		var wg sync.WaitGroup
		count := 0
		for i := range 20 {
			wg.Go(func() {
				for k := range 10 {
					c <- i*10 + k
					mu.Lock()
					count++
					mu.Unlock()
				}
			})
		}
		go func() {
			for v := range c {
				d <- v
			}
			close(d)
		}()
		go func() { wg.Wait(); close(c) }()
		sum := 0
		for v := range d {
			sum += v
		}
		if sum != 199*100 || count != 200 {
			return fmt.Sprintf("sum %d and count %d, want 19900 and 200", sum, count)
		}
		return ""
	}
}

// startTimers sleeps. How late it wakes is a measurement, not a result: Go's runtime
// runs a processor's timers when that processor takes up its next goroutine, and with
// 18 of them on 8 CPUs that an emulator shares out to two, Linux too was seen 12 s
// late. A timer that is lost leaves its goroutine stuck, and so do lost wake-ups.
// Nothing is allocated between the two readings of the clock: who allocates while a
// collection runs may wait for its end (of 130 goroutines, 68 were seen in "GC assist
// wait" there), which is no timer's fault.
func startTimers(w int, s *shared) func() string {
	i := 0
	timer := time.NewTimer(0)
	<-timer.C
	return func() string {
		i++
		d := time.Duration(i*(w+1)%17) * 500 * time.Microsecond
		t, wall := time.Now(), time.Now().UnixNano()
		if i%2 == 0 {
			time.Sleep(d)
		} else {
			timer.Reset(d)
			<-timer.C
		}
		took := time.Since(t)
		s.maximum(int64(took - d))
		s.sum.Add(int64(took - d))
		if took < d {
			return fmt.Sprintf("slept %v instead of %v", took, d)
		}
		if time.Now().UnixNano() < wall {
			return "wall time went backwards"
		}
		return ""
	}
}

func noteLate(s *shared) string {
	if n := s.ops.Load(); n > 0 {
		return fmt.Sprintf("late by %v on average, %v at most", (time.Duration(s.sum.Load()) / time.Duration(n)).Round(time.Microsecond), time.Duration(s.max.Load()).Round(time.Microsecond))
	}
	return ""
}

// spin has no call in its loop, so that only a signal can preempt it.
//
//go:noinline
func spin(n int) (x uint64) {
	for range n {
		x = x*6364136223846793005 + 1442695040888963407
	}
	return
}

// startPreempt checks that loops that never call anything hold up neither each
// other's results nor the garbage collector.
func startPreempt(_ int, _ *shared) func() string {
	const n = 3_000_000
	want := spin(n)
	return func() string {
		var wg sync.WaitGroup
		bad := make(chan uint64, 64)
		for range runtime.GOMAXPROCS(0) + 2 {
			wg.Go(func() {
				if got := spin(n); got != want {
					bad <- got
				}
			})
		}
		runtime.GC()
		wg.Wait()
		select {
		case got := <-bad:
			return fmt.Sprintf("a loop computed %#x, want %#x", got, want)
		default:
			return ""
		}
	}
}

// startFaults makes faults that become Go panics.
func startFaults(w int, _ *shared) func() string {
	var nilp *[64]int
	zero, arr := 0, make([]int, 4)
	caught := func(f func()) (msg string) {
		defer func() { msg = fmt.Sprint(recover()) }()
		f()
		return
	}
	return func() string {
		for _, c := range []struct {
			want string
			f    func()
		}{
			{"runtime error: invalid memory address or nil pointer dereference", func() { nilp[w%64]++ }},
			{"runtime error: integer divide by zero", func() { arr[0] = 7 / zero }},
			{"runtime error: index out of range [7] with length 4", func() { arr[zero+7] = 1 }},
		} {
			if got := caught(c.f); got != c.want {
				return fmt.Sprintf("recovered %q, want %q", got, c.want)
			}
		}
		return ""
	}
}

// startMemory maps, fills, gives back and checks memory by the system calls the
// runtime uses.
func startMemory(w int, _ *shared) func() string {
	i := 0
	return func() string {
		i++
		n := (1 + i*(w+3)%97) * 4096
		b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return "mmap: " + err.Error()
		}
		defer syscall.Munmap(b)
		for pass := range 2 {
			for k := 0; k < n; k += 512 {
				if b[k] != 0 {
					return fmt.Sprintf("pass %d: page not zero at %d of %d", pass, k, n)
				}
				b[k] = byte(k>>9) ^ byte(i) | 1
			}
			for k := 0; k < n; k += 512 {
				if b[k] != byte(k>>9)^byte(i)|1 {
					return fmt.Sprintf("pass %d: lost a byte at %d of %d", pass, k, n)
				}
			}
			if err := syscall.Madvise(b, syscall.MADV_DONTNEED); err != nil {
				return "madvise: " + err.Error()
			}
		}
		return ""
	}
}

// startUnmap gives pages back that other CPUs have just used: what they hold in
// their TLBs must not outlive it.
func startUnmap(_ int, s *shared) func() string {
	const pages = 64
	n := runtime.NumCPU()
	b, err := syscall.Mmap(-1, 0, pages*4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return func() string { return "mmap: " + err.Error() }
	}
	ask, answer := make([]chan byte, n), make(chan string, n)
	for w := range n {
		ask[w] = make(chan byte)
		go func() {
			for v := range ask[w] {
				why := ""
				for p := range pages { // every worker sees v in its byte of each page
					if got := b[p*4096+w]; got != 0 {
						why = fmt.Sprintf("page %d still reads %#x after it was given back", p, got)
					}
					b[p*4096+w] = v
				}
				answer <- why
			}
		}()
	}
	go func() { // the workers end with the test
		<-s.done
		s.mu.Lock() // held during rounds
		for _, c := range ask {
			close(c)
		}
		syscall.Munmap(b)
		s.mu.Unlock()
	}()
	v := byte(0)
	return func() (why string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		v = v%250 + 1
		for w := range n {
			ask[w] <- v
		}
		for range n {
			if a := <-answer; a != "" {
				why = a
			}
		}
		if err := syscall.Madvise(b, syscall.MADV_DONTNEED); err != nil {
			return "madvise: " + err.Error()
		}
		return why
	}
}

// startThreads makes and ends operating system threads.
func startThreads(_ int, _ *shared) func() string {
	return func() string {
		var wg sync.WaitGroup
		sum := make(chan uint64, 4)
		for range 4 {
			wg.Go(func() {
				runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
				sum <- spin(1000)
			})
		}
		wg.Wait()
		want := spin(1000)
		for range 4 {
			if got := <-sum; got != want {
				return fmt.Sprintf("a thread computed %#x, want %#x", got, want)
			}
		}
		time.Sleep(time.Millisecond)
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
