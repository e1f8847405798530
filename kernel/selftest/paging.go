package selftest

import (
	"fmt"
	"runtime"
	"syscall"
)

// Parts that fault, map and unmap.

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
