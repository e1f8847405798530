package kernel

import (
	"sync/atomic"
	"unsafe"
)

// Signals, as far as the Go runtime uses them: faults that become panics, and
// SIGURG, by which it preempts. Handlers run on the thread's signal stack with
// Linux's frame (arch/x86/include/uapi/asm/sigcontext.h, ucontext.h), which the
// runtime reads and changes.

const (
	sigILL  = 4
	sigTRAP = 5
	sigBUS  = 7
	sigFPE  = 8
	sigSEGV = 11

	siKernel   = 0x80 // si_code
	siTKill    = -6
	segvMapErr = 1
	fpeIntDiv  = 1

	ssDisable = 2 // stack_t flag
)

// sigActions holds rt_sigaction's answers: handler, flags, restorer, mask.
var sigActions [65][4]uint64

// A sigContext is struct sigcontext.
type sigContext struct {
	r8, r9, r10, r11, r12, r13, r14, r15 uintptr // 0
	di, si, bp, bx, dx, ax, cx, sp       uintptr // 64
	ip, flags                            uintptr // 128
	segments                             uintptr // 144: cs, gs, fs, ss
	err, trapno, oldmask, cr2            uintptr // 152
	fpstate                              uintptr // 184
	_                                    [8]uintptr
}

// A ucontext is struct ucontext.
type ucontext struct {
	flags, link           uintptr
	ssSP, ssFlags, ssSize uintptr
	mc                    sigContext // 40
	mask                  uint64     // 296
	_                     uint64
}

// A sigInfo is the used part of siginfo_t.
type sigInfo struct {
	signo, errno, code, _ int32
	addr                  uintptr
	_                     [104]byte
}

const (
	_ = -(unsafe.Sizeof(sigContext{}) - 256)
	_ = -(unsafe.Offsetof(ucontext{}.mc) - 40)
	_ = -(unsafe.Offsetof(ucontext{}.mask) - 296)
	_ = -(unsafe.Sizeof(sigInfo{}) - 128)
)

// pushSignal builds a handler's frame: r holds the registers to resume with later
// and is changed to enter the handler. fpu is where the vector state was saved, 0
// if it is live. It reports false if the program does not handle the signal now.
func pushSignal(t *thread, r *sigContext, fpu uintptr, sig int, code int32, addr uintptr) bool {
	act := &sigActions[sig]
	if act[0] <= 1 || t.altsize == 0 || t.mask>>(uint(sig)-1)&1 != 0 {
		return false
	}
	sp := t.altsp + t.altsize
	if r.sp > t.altsp && r.sp <= sp { // already on it
		sp = r.sp - 128
	}
	area := (sp - uintptr(xsaveSize)) &^ 63
	info := area - unsafe.Sizeof(sigInfo{})
	uc := info - unsafe.Sizeof(ucontext{})
	ret := uc - 8 // so that SP is 8 below a multiple of 16, as after a call
	if ret < t.altsp {
		return false
	}
	// This may run on the exception stack, which a page fault would overwrite.
	for p := ret &^ (pageSize - 1); p < sp; p += pageSize {
		if inUser(p, pageSize) {
			if e := entry(p, 1, false); e == nil || atomic.LoadUint64(e)&ptePresent == 0 {
				if !populate(p, true) {
					return false
				}
			}
		}
	}
	dst := bytesAt(area, uintptr(xsaveSize))
	if fpu != 0 {
		copy(dst, bytesAt(fpu, uintptr(xsaveSize)))
	} else {
		clear(dst)
		xsave(area)
	}
	u := (*ucontext)(ptr(uc))
	*u = ucontext{ssSP: t.altsp, ssSize: t.altsize, mc: *r, mask: t.mask}
	u.mc.segments = selCode | selData<<48
	u.mc.oldmask = uintptr(t.mask)
	u.mc.cr2 = addr
	u.mc.fpstate = area
	*(*sigInfo)(ptr(info)) = sigInfo{signo: int32(sig), code: code, addr: addr}
	st64(ret, act[2])
	t.mask |= act[3]
	r.di, r.si, r.dx, r.ax = uintptr(sig), info, uc, 0
	r.sp, r.ip = ret, uintptr(act[0])
	r.flags &^= flagDF | flagTF
	return true
}

// context copies the general registers out of a trap frame.
func (f *trapFrame) context() sigContext {
	return sigContext{
		ax: f.ax, bx: f.bx, cx: f.cx, dx: f.dx, si: f.si, di: f.di, bp: f.bp,
		r8: f.r8, r9: f.r9, r10: f.r10, r11: f.r11, r12: f.r12, r13: f.r13, r14: f.r14, r15: f.r15,
		sp: f.sp, ip: f.ip, flags: f.flags, err: f.code, trapno: f.vector,
	}
}

// enter makes the frame return into a signal handler.
func (f *trapFrame) enter(r *sigContext) {
	f.ax, f.dx, f.si, f.di = r.ax, r.dx, r.si, r.di
	f.sp, f.ip, f.flags = r.sp, r.ip, r.flags
}

// faultSignal turns an exception of the Go program into a signal.
func faultSignal(f *trapFrame, fpu, addr uintptr) bool {
	sig, code := sigSEGV, int32(siKernel)
	switch f.vector {
	case 0:
		sig, code = sigFPE, fpeIntDiv
	case 16, 19:
		sig = sigFPE
	case 3:
		sig = sigTRAP
	case 6:
		sig = sigILL
	case 17:
		sig = sigBUS
	case vecPageFault:
		code = segvMapErr
	}
	r := f.context()
	if !pushSignal(this().current(), &r, fpu, sig, code, addr) {
		return false
	}
	noteFault(f, addr)
	f.enter(&r)
	return true
}

// nextSignal takes one pending, unblocked signal, 0 if there is none.
func nextSignal(t *thread) int {
	for {
		p := atomic.LoadUint64(&t.pending)
		s := p &^ t.mask
		if s == 0 {
			return 0
		}
		bit := s & -s
		if atomic.CompareAndSwapUint64(&t.pending, p, p&^bit) {
			n := 1
			for ; bit > 1; bit >>= 1 {
				n++
			}
			return n
		}
	}
}

// signalFromTrap delivers a pending signal at the end of an interrupt.
func signalFromTrap(f *trapFrame, fpu uintptr) {
	t := this().current()
	if atomic.LoadUint64(&t.pending) == 0 {
		return
	}
	if sig := nextSignal(t); sig != 0 {
		r := f.context()
		if pushSignal(t, &r, fpu, sig, siTKill, 0) {
			f.enter(&r)
		}
	}
}

// signalPause is how long a thread runs between a signal handler's end and the next.
const signalPause = 200_000 // ns

// signalFromSyscall delivers a pending signal at the end of a system call.
func signalFromSyscall(f *sysFrame) {
	t := this().current()
	if f.fpu != 0 {
		// A handler returns. What came while its signal was held off has had its
		// interrupt, and the runtime sends no second signal before the first is
		// taken, so it must not wait for the thread's next interrupt. Nor may it come
		// at once: to who sends them as fast as they are taken the thread would
		// never come forward.
		if atomic.LoadUint64(&t.pending)&^t.mask != 0 {
			interruptWithin(this(), signalPause)
		}
		return
	}
	sig := nextSignal(t)
	if sig == 0 {
		return
	}
	r := sigContext{
		ax: f.ax, bx: f.bx, cx: f.cx, dx: f.dx, si: f.si, di: f.di, bp: f.bp,
		r8: f.r8, r9: f.r9, r10: f.r10, r11: f.r11, r12: f.r12, r13: f.r13, r14: f.r14, r15: f.r15,
		sp: f.sp, ip: f.cx, flags: f.r11,
	}
	if !pushSignal(t, &r, 0, sig, siTKill, 0) {
		return
	}
	f.ax, f.dx, f.si, f.di = r.ax, r.dx, r.si, r.di
	f.fpu, f.ip, f.cs, f.flags, f.fullSP, f.ss = 1, r.ip, selCode, r.flags, r.sp, selData
}

// sigreturn resumes what a signal interrupted; the stack pointer is at the
// ucontext, because the handler's return took the restorer's address off.
func sigreturn(f *sysFrame) {
	u := (*ucontext)(ptr(f.sp))
	r := &u.mc
	f.bx, f.cx, f.dx, f.si, f.di, f.bp = r.bx, r.cx, r.dx, r.si, r.di, r.bp
	f.r8, f.r9, f.r10, f.r11, f.r12, f.r13, f.r14, f.r15 = r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15
	f.ax = r.ax
	f.ip, f.cs, f.flags, f.fullSP, f.ss = r.ip, selCode, r.flags|flagIF, r.sp, selData
	f.fpu = r.fpstate
	this().current().mask = u.mask
}

// tgkill sends a signal to one thread. A thread in a system call takes it when the
// call returns; the runtime asks for no more.
func tgkill(tid uintptr, sig uint) uintptr {
	t := threadByTID(tid)
	if t == nil {
		return errno(esrch)
	}
	if sig == 0 || sig > 64 {
		return errno(einval)
	}
	for {
		p := atomic.LoadUint64(&t.pending)
		if atomic.CompareAndSwapUint64(&t.pending, p, p|1<<(sig-1)) {
			break
		}
	}
	if atomic.LoadUint32(&t.state) == threadRunning {
		if c := cpuAt(uint64(t.lastCPU)); c != this() {
			sendIPI(c, vecResched)
		}
	}
	return 0
}
