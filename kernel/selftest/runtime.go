package selftest

import (
	"fmt"
	"runtime"
	"sync"
	"time"
)

// Parts of the Go runtime: collection, channels, timers, preemption, threads.

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
