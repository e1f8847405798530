package kernel

import (
	"sync/atomic"
	"unsafe"
)

// Linux's error numbers (include/uapi/asm-generic/errno-base.h, errno.h).
const (
	eperm        = 1
	enoent       = 2
	esrch        = 3
	ebadf        = 9
	eagain       = 11
	enomem       = 12
	einval       = 22
	enosys       = 38
	eafnosupport = 97
	etimedout    = 110
)

func errno(n int) uintptr { return uintptr(-n) }

// The system calls a Go program makes (arch/x86/entry/syscalls/syscall_64.tbl).
const (
	sysRead             = 0
	sysWrite            = 1
	sysClose            = 3
	sysFstat            = 5
	sysMmap             = 9
	sysMprotect         = 10
	sysMunmap           = 11
	sysRtSigaction      = 13
	sysRtSigprocmask    = 14
	sysRtSigreturn      = 15
	sysSchedYield       = 24
	sysMincore          = 27
	sysMadvise          = 28
	sysNanosleep        = 35
	sysSetitimer        = 38
	sysGetpid           = 39
	sysSocket           = 41
	sysClone            = 56
	sysExit             = 60
	sysKill             = 62
	sysUname            = 63
	sysFcntl            = 72
	sysGetcwd           = 79
	sysReadlink         = 89
	sysGetuid           = 102
	sysGetgid           = 104
	sysGeteuid          = 107
	sysGetegid          = 108
	sysSigaltstack      = 131
	sysPrctl            = 157
	sysArchPrctl        = 158
	sysGettid           = 186
	sysFutex            = 202
	sysSchedGetaffinity = 204
	sysTimerCreate      = 222
	sysTimerSettime     = 223
	sysTimerDelete      = 226
	sysClockGettime     = 228
	sysExitGroup        = 231
	sysEpollCtl         = 233
	sysTgkill           = 234
	sysOpenat           = 257
	sysNewfstatat       = 262
	sysReadlinkat       = 267
	sysEpollPwait       = 281
	sysEventfd2         = 290
	sysEpollCreate1     = 291
	sysPipe2            = 293
	sysPrlimit64        = 302
	sysGetrandom        = 318

	numSyscalls = 512

	// sysPrivileged is ours: call the function at DI with argument SI.
	sysPrivileged = 0x1000
)

const archSetFS = 0x1002 // arch_prctl's only operation here

// syscallCounts counts calls by number, for those who wonder what the runtime does.
var syscallCounts [numSyscalls]atomic.Uint32

// handleSyscall answers one system call of the Go program.
func handleSyscall(f *sysFrame) {
	if f.ax < numSyscalls {
		syscallCounts[f.ax].Add(1)
	}
	f.ax = syscall(f)
	if atomic.LoadUint64(&this().current().pending) != 0 {
		signalFromSyscall(f)
	}
}

// handlePrivileged answers sysPrivileged. Of the frame only what its way through
// syscallEntry saves is filled in.
func handlePrivileged(f *sysFrame) {
	callPrivileged(f)
	if atomic.LoadUint64(&this().current().pending) != 0 {
		f.ax = 0
		signalFromSyscall(f)
	}
}

// A privileged function's value and argument, as they lie in the frame.
type privilegedFunc func(arg unsafe.Pointer)

func callPrivileged(f *sysFrame) {
	fn := *(*privilegedFunc)(unsafe.Pointer(&f.di))
	fn(*(*unsafe.Pointer)(unsafe.Pointer(&f.si)))
}

func syscall(f *sysFrame) uintptr {
	switch f.ax {
	case sysFutex:
		return futex(f.di, uint32(f.si), uint32(f.dx), f.r10)
	case sysNanosleep:
		return nanosleep(f.di)
	case sysSchedYield:
		yield()
		return 0
	case sysClockGettime:
		return clockGettime(f.di, f.si)
	case sysEpollPwait:
		return epollWait(f.si, int64(int32(f.r10)))
	case sysEpollCtl:
		return epollCtl(f.di, f.si, f.dx, f.r10)
	case sysEventfd2:
		return fdEvent
	case sysEpollCreate1:
		return fdEpoll
	case sysRead:
		return read(f.di, f.si, f.dx)
	case sysWrite:
		return write(f.di, f.si, f.dx)
	case sysMmap:
		return mmap(f.di, f.si, uint32(f.dx), uint32(f.r10), int32(f.r8))
	case sysMunmap:
		return munmap(f.di, f.si)
	case sysMprotect:
		return mprotect(f.di, f.si, uint32(f.dx))
	case sysMadvise:
		return madvise(f.di, f.si, uint32(f.dx))
	case sysClone:
		return clone(f)
	case sysExit:
		exitThread()
		return 0
	case sysExitGroup:
		exitProgram(int(int32(f.di)))
		return 0
	case sysTgkill:
		return tgkill(f.si, uint(f.dx))
	case sysKill:
		return tgkill(this().current().tid(), uint(f.si))
	case sysRtSigaction:
		return sigaction(f.di, f.si, f.dx)
	case sysRtSigprocmask:
		return sigprocmask(f.di, f.si, f.dx)
	case sysRtSigreturn:
		sigreturn(f)
		return f.ax
	case sysSigaltstack:
		return sigaltstack(f.di, f.si)
	case sysArchPrctl:
		if f.di != archSetFS {
			return errno(einval)
		}
		c := this()
		c.current().fs = f.si
		c.ufs = f.si
		return 0
	case sysGettid:
		return this().current().tid()
	case sysGetpid:
		return 1
	case sysGetuid, sysGetgid, sysGeteuid, sysGetegid:
		return 0
	case sysSchedGetaffinity:
		return affinity(f.si, f.dx)
	case sysGetrandom:
		n := min(f.si, maxRandom)
		random(bytesAt(f.di, n))
		return n
	case sysUname:
		return uname(f.di)
	case sysFcntl, sysClose, sysPrctl, sysSetitimer:
		return 0
	case sysOpenat, sysReadlink, sysReadlinkat, sysNewfstatat, sysGetcwd:
		return errno(enoent)
	case sysSocket:
		return errno(eafnosupport)
	case sysFstat, sysMincore, sysTimerCreate, sysTimerSettime, sysTimerDelete, sysPipe2, sysPrlimit64:
		return errno(enosys) // the program asks, and does without
	}
	noteUnknownCall(f.ax)
	return errno(enosys)
}

// affinity answers with one bit per CPU.
func affinity(size, buf uintptr) uintptr {
	n := (uintptr(ncpu) + 63) / 64 * 8
	if size < n {
		return errno(einval)
	}
	clear(bytesAt(buf, n))
	for i := uintptr(0); i < uintptr(ncpu); i++ {
		st8(buf+i/8, ld8(buf+i/8)|1<<(i%8))
	}
	return n
}

// uname answers with the interface level this kernel imitates; the runtime and
// package os compare the release number.
func uname(buf uintptr) uintptr {
	const field = 65
	b := bytesAt(buf, 6*field)
	clear(b)
	copy(b[0*field:], "Linux")
	copy(b[1*field:], "godwit")
	copy(b[2*field:], "6.1.0-godwit")
	copy(b[4*field:], "x86_64")
	return 0
}

const (
	clockRealtime       = 0
	clockRealtimeCoarse = 5
)

func clockGettime(id, buf uintptr) uintptr {
	t := Nanotime()
	if id == clockRealtime || id == clockRealtimeCoarse {
		t += wallAt0
	}
	st64(buf, uint64(t/1e9))
	st64(buf+8, uint64(t%1e9))
	return 0
}

func sigaction(sig, act, old uintptr) uintptr {
	if sig == 0 || sig >= uintptr(len(sigActions)) {
		return errno(einval)
	}
	a := &sigActions[sig]
	for i := range a {
		if old != 0 {
			st64(old+8*uintptr(i), a[i])
		}
	}
	for i := range a {
		if act != 0 {
			a[i] = ld64(act + 8*uintptr(i))
		}
	}
	return 0
}

func sigprocmask(how, set, old uintptr) uintptr {
	t := this().current()
	was := t.mask
	if set != 0 {
		switch m := ld64(set); how {
		case 0:
			t.mask |= m
		case 1:
			t.mask &^= m
		case 2:
			t.mask = m
		default:
			return errno(einval)
		}
	}
	if old != 0 {
		st64(old, was)
	}
	return 0
}

func sigaltstack(set, old uintptr) uintptr {
	t := this().current()
	sp, size := t.altsp, t.altsize
	if set != 0 {
		t.altsp, t.altsize = uintptr(ld64(set)), uintptr(ld64(set+16))
		if ld32(set+8)&ssDisable != 0 {
			t.altsize = 0
		}
	}
	if old != 0 {
		flags := uint64(0)
		if size == 0 {
			flags = ssDisable
		}
		st64(old, uint64(sp))
		st64(old+8, flags)
		st64(old+16, uint64(size))
	}
	return 0
}
