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
// was removed before the call. Interrupts are off; no lock but a wait queue's may
// be held.
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
	for i := uint64(0); i < ncpu; i++ {
		c := cpuAt(i)
		for c != me && !answered(c, n) {
			relax()
		}
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
