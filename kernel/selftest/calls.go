package selftest

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"syscall"
	"unsafe"
)

// startCalls makes system calls as the runtime never does, and expects what Linux
// answers: there this part runs too.
func startCalls(w int, _ *shared) func() string {
	const page = 4096
	return func() string {
		for _, c := range []struct {
			name string
			n    uintptr
			a    [6]uintptr
			want syscall.Errno
		}{
			{"mmap of nothing", syscall.SYS_MMAP, [6]uintptr{0, 0, 3, anonymous, none}, syscall.EINVAL},
			{"mmap of more than there is", syscall.SYS_MMAP, [6]uintptr{0, 1 << 60, 3, anonymous, none}, syscall.ENOMEM},
			{"mmap of a size that wraps", syscall.SYS_MMAP, [6]uintptr{0, none, 3, anonymous, none}, syscall.ENOMEM},
			{"munmap off a page's edge", syscall.SYS_MUNMAP, [6]uintptr{page + 1, page}, syscall.EINVAL},
			{"munmap of nothing", syscall.SYS_MUNMAP, [6]uintptr{1 << 40, 0}, syscall.EINVAL},
			{"munmap of a size that wraps", syscall.SYS_MUNMAP, [6]uintptr{1 << 40, none}, syscall.EINVAL},
			{"madvise of a size that wraps", syscall.SYS_MADVISE, [6]uintptr{1 << 40, none, syscall.MADV_DONTNEED}, syscall.EINVAL},
			{"mprotect off a page's edge", syscall.SYS_MPROTECT, [6]uintptr{page + 1, page, 1}, syscall.EINVAL},
		} {
			if _, _, err := syscall.Syscall6(c.n, c.a[0], c.a[1], c.a[2], c.a[3], c.a[4], c.a[5]); err != c.want {
				return fmt.Sprintf("%s: error %d, want %d", c.name, err, c.want)
			}
		}
		if why := strangeTimes(); why != "" {
			return why
		}
		return piecewise(w)
	}
}

const (
	anonymous = syscall.MAP_ANON | syscall.MAP_PRIVATE
	none      = ^uintptr(0)
)

// strangeTimes asks for timeouts that are none.
func strangeTimes() string {
	for _, c := range []struct {
		t    syscall.Timespec
		want syscall.Errno
	}{
		{syscall.Timespec{Sec: -1}, syscall.EINVAL},
		{syscall.Timespec{Nsec: -1}, syscall.EINVAL},
		{syscall.Timespec{Nsec: 1e9}, syscall.EINVAL},
		{syscall.Timespec{Nsec: 1}, syscall.ETIMEDOUT},
	} {
		var word uint32
		if err := undisturbed(func() syscall.Errno {
			_, _, err := syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 0, 0, uintptr(unsafe.Pointer(&c.t)), 0, 0)
			return err
		}); err != c.want {
			return fmt.Sprintf("futex with timeout %+v: error %d, want %d", c.t, err, c.want)
		}
		if c.want != syscall.EINVAL {
			c.want = 0
		}
		if err := undisturbed(func() syscall.Errno {
			_, _, err := syscall.Syscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&c.t)), 0, 0)
			return err
		}); err != c.want {
			return fmt.Sprintf("nanosleep of %+v: error %d, want %d", c.t, err, c.want)
		}
	}
	return ""
}

// undisturbed repeats a call that a signal cut short: on Linux the runtime preempts with signals.
func undisturbed(call func() syscall.Errno) (err syscall.Errno) {
	for range 100 {
		if err = call(); err != syscall.EINTR {
			break
		}
	}
	return err
}

// piecewise maps five pages and takes them apart: one is unmapped, one is protected and
// opened again, one is given back. Whether the unmapped one faults is not tried: any
// other thread may be given its address.
func piecewise(w int) (why string) {
	const page = 4096
	at, _, e := syscall.Syscall6(syscall.SYS_MMAP, 0, 5*page, syscall.PROT_READ|syscall.PROT_WRITE, anonymous, none, 0)
	if e != 0 {
		return "mmap: " + e.Error()
	}
	do := func(what string, call, first, pages, arg uintptr) {
		if _, _, e := syscall.Syscall(call, at+first*page, pages*page, arg); e != 0 && why == "" {
			why = what + ": " + e.Error()
		}
	}
	b := unsafe.Slice((*byte)(nowhere(at)), 5*page)
	want := make([]byte, page)
	is := func(i int) bool {
		for k := range want {
			want[k] = byte(w + i)
		}
		return bytes.Equal(b[i*page:(i+1)*page], want)
	}
	for i := range 5 {
		is(i)
		copy(b[i*page:], want)
	}
	do("munmap of a page in the middle", syscall.SYS_MUNMAP, 1, 1, 0)
	do("mprotect to nothing", syscall.SYS_MPROTECT, 2, 1, syscall.PROT_NONE)
	do("madvise", syscall.SYS_MADVISE, 3, 1, syscall.MADV_DONTNEED)
	if !is(0) || !is(4) {
		return "a neighbour of a page that was taken away has changed"
	}
	if b[3*page] != 0 || b[4*page-1] != 0 {
		return "a page that was given back is not zero"
	}
	if !faults(func() { b[2*page] = 1 }) || !faults(func() { sum = int(b[2*page]) }) {
		return "a page without access can be touched"
	}
	do("mprotect to read", syscall.SYS_MPROTECT, 2, 1, syscall.PROT_READ)
	if !is(2) || !faults(func() { b[2*page] = 1 }) {
		return "a page made readable again lost its content, or can be written"
	}
	do("mprotect to write", syscall.SYS_MPROTECT, 2, 1, syscall.PROT_READ|syscall.PROT_WRITE)
	b[2*page] = byte(w + 2)
	if !is(2) {
		return "a page made writable again lost its content"
	}
	do("munmap of one page", syscall.SYS_MUNMAP, 0, 1, 0)
	do("munmap of the rest", syscall.SYS_MUNMAP, 2, 3, 0)
	return why
}

// faults reports whether f ends in a memory fault.
//
//go:noinline
func faults(f func()) (yes bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { yes = recover() != nil }()
	f()
	return false
}
