package kernel

import "sync/atomic"

// TLB shootdown. Every one has a number; a CPU answers number n by flushing its
// TLB and storing n, which answers all earlier ones too, so that many at once cost
// each CPU one flush. An idle CPU is not woken: it declares itself lazy, and
// flushes before it runs anything that uses the runtime's memory.
var (
	shootdowns atomic.Uint64 // the latest number
)

// shootdown returns when no CPU holds a translation of the runtime's memory that
// was removed before the call. Interrupts are off, no lock is held, and the current
// thread, which is in a system call, may go on on another CPU.
func shootdown() {
	n := shootdowns.Add(1)
	me := this()
	flushTLB(me)
	if ncpu == 1 {
		return
	}
	for i := uint64(0); i < ncpu; i++ {
		if c := cpuAt(i); c != me && !answered(c, n) {
			sendIPI(c, vecFlush)
		}
	}
	spins := 0
	for i := uint64(0); i < ncpu; i++ {
		for c := cpuAt(i); !answered(c, n); spins++ {
			relax() // also answers for this CPU, should it be another by now
			if spins >= answerSpins {
				meanwhile()
			}
		}
	}
}

// answerSpins is how often an answer is looked for before other work is: some
// microseconds, in which processors that run do answer.
const answerSpins = 100

// meanwhile runs whoever waits for this CPU while the current thread waits for others.
// A CPU that an emulator shares out may take long to answer an interrupt: seconds were
// seen, in which here neither timers nor woken threads came to their turn.
func meanwhile() {
	c := this()
	expire(c, Nanotime())
	if atomic.LoadUint32(&c.rq.n) != 0 {
		yield()
	}
}

func answered(c *cpu, n uint64) bool {
	return atomic.LoadUint64(&c.tlbSeen) >= n || atomic.LoadUint32(&c.tlbLazy) != 0 || atomic.LoadUint32(&c.online) == 0
}

// answerShootdown flushes this CPU's TLB if anybody waits for that.
func answerShootdown() {
	if c := this(); atomic.LoadUint64(&c.tlbSeen) != shootdowns.Load() {
		flushTLB(c)
	}
}

// flushTLB drops all translations but the kernel's own, which are global and
// never change.
func flushTLB(c *cpu) {
	n := shootdowns.Load()
	writeCR3(readCR3())
	atomic.StoreUint64(&c.tlbSeen, n)
}

// enterLazy says that this CPU uses no memory of the runtime until leaveLazy.
func enterLazy(c *cpu) { atomic.StoreUint32(&c.tlbLazy, 1) }

func leaveLazy(c *cpu) {
	atomic.SwapUint32(&c.tlbLazy, 0)
	answerShootdown()
}
