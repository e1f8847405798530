package kernel

import "sync/atomic"

// The scheduler: a first-in first-out run queue per CPU, idle CPUs steal, a thread
// keeps the CPU for one slice while others wait. There is no periodic tick: a CPU
// with one runnable thread takes no timer interrupts on its account.

const slice = 2_000_000 // ns

// A runQueue is a list of runnable threads, linked by number.
type runQueue struct {
	mu         spinlock
	head, tail uint32
	n          uint32
}

func (q *runQueue) push(t *thread) {
	q.mu.lock()
	t.qnext = 0
	if q.tail == 0 {
		q.head = t.id
	} else {
		threadAt(q.tail).qnext = t.id
	}
	q.tail = t.id
	atomic.StoreUint32(&q.n, q.n+1)
	q.mu.unlock()
}

// pop takes the first thread; if stealing, the first that may run elsewhere.
func (q *runQueue) pop(stealing bool) *thread {
	if atomic.LoadUint32(&q.n) == 0 {
		return nil
	}
	q.mu.lock()
	var prev *thread
	for id := q.head; id != 0; {
		t := threadAt(id)
		if stealing && t.pin >= 0 {
			prev, id = t, t.qnext
			continue
		}
		if prev == nil {
			q.head = t.qnext
		} else {
			prev.qnext = t.qnext
		}
		if q.tail == id {
			q.tail = 0
			if prev != nil {
				q.tail = prev.id
			}
		}
		atomic.StoreUint32(&q.n, q.n-1)
		q.mu.unlock()
		return t
	}
	q.mu.unlock()
	return nil
}

// pick takes the next thread for this CPU: its own, or another CPU's.
func pick(c *cpu) *thread {
	if t := c.rq.pop(false); t != nil {
		return t
	}
	for i := uint64(1); i < ncpu; i++ {
		if t := cpuAt((c.index + i) % ncpu).rq.pop(true); t != nil {
			c.stat.steals++
			return t
		}
	}
	return nil
}

// chooseCPU says where a thread that became runnable should go: where it may; where
// it was, if that CPU is idle; any idle CPU; where it was.
func chooseCPU(t *thread) *cpu {
	if t.pin >= 0 {
		return cpuAt(uint64(t.pin))
	}
	last := cpuAt(uint64(t.lastCPU))
	if atomic.LoadUint32(&last.idling) != 0 {
		return last
	}
	if c := findIdle(); c != nil {
		return c
	}
	return last
}

func findIdle() *cpu {
	me := this().index
	for i := uint64(0); i < ncpu; i++ {
		if c := cpuAt((me + i) % ncpu); atomic.LoadUint32(&c.idling) != 0 {
			return c
		}
	}
	return nil
}

// enqueue puts a runnable thread, which no CPU is on, into c's queue and sees to it
// that somebody looks there.
func enqueue(c *cpu, t *thread) {
	c.rq.push(t)
	if wakeCPU(c) {
		return
	}
	if t.pin < 0 {
		if idle := findIdle(); idle != nil && wakeCPU(idle) { // it will steal
			return
		}
	}
	if c == this() {
		armTimer(c)
	} else {
		sendIPI(c, vecResched) // so that c arms its timer for the slice's end
	}
}

// wakeCPU gets an idle CPU to look for work, and reports whether it was idle.
func wakeCPU(c *cpu) bool {
	if atomic.LoadUint32(&c.idling) == 0 || !atomic.CompareAndSwapUint32(&c.idling, 1, 0) {
		return false
	}
	if c != this() {
		sendIPI(c, vecResched)
	}
	return true
}

// ready makes runnable a thread whose state the caller has just changed from
// blocked to runnable. The thread may still be on its way off its CPU, which waits
// for nobody while it is; so only a running thread may call ready, never one that
// is leaving its CPU itself.
func ready(t *thread) {
	for atomic.LoadUint32(&t.onCPU) != 0 {
		relax()
	}
	enqueue(chooseCPU(t), t)
}

// schedule leaves a thread that blocked or died; it returns when a blocked one goes
// on, possibly on another CPU.
func schedule() {
	c := this()
	next := pick(c)
	if next == nil {
		next = (*thread)(ptr(c.idle))
	}
	switchTo(c, next, false)
}

// yield lets others run if any wait.
func yield() {
	c := this()
	next := c.rq.pop(false)
	if next == nil {
		c.switchedAt = Nanotime()
		return
	}
	atomic.StoreUint32(&c.current().state, threadRunnable)
	switchTo(c, next, true)
}

// migrate moves the current thread to the CPU it is pinned to.
func migrate() {
	c := this()
	me := c.current()
	if me.pin < 0 || uint64(me.pin) == c.index {
		return
	}
	atomic.StoreUint32(&me.state, threadRunnable)
	next := pick(c)
	if next == nil {
		next = (*thread)(ptr(c.idle))
	}
	switchTo(c, next, true)
}

// switchTo gives the CPU to next. requeue says that the current thread stays
// runnable: it goes back into a queue once its stack is free.
func switchTo(c *cpu, next *thread, requeue bool) {
	me := c.current()
	c.prev, c.requeue = me.addr(), requeue
	if next.state != threadIdle {
		atomic.StoreUint32(&next.state, threadRunning)
	}
	atomic.StoreUint32(&next.onCPU, 1)
	next.lastCPU = uint32(c.index)
	c.setCurrent(next)
	c.stat.switches++
	switchStack(&me.ksp, next.ksp)
	finishSwitch()
}

func (c *cpu) setCurrent(t *thread) {
	c.cur = t.addr()
	c.ktop = t.ktop
	c.ufs = t.fs
	c.tss.setIST(istInterrupt, t.ktop)
}

// finishSwitch runs on the new thread's stack and lets go of the old thread.
func finishSwitch() {
	c := this()
	prev := (*thread)(ptr(c.prev))
	requeue := c.requeue
	dead := atomic.LoadUint32(&prev.state) == threadDead
	atomic.StoreUint32(&prev.onCPU, 0)
	c.switchedAt = Nanotime()
	switch {
	case dead:
		freeThread(prev)
	case requeue:
		if prev.pin >= 0 && uint64(prev.pin) != c.index {
			enqueue(cpuAt(uint64(prev.pin)), prev)
		} else {
			enqueue(c, prev)
		}
	}
	if c.cur != c.idle && atomic.LoadUint32(&c.rq.n) != 0 {
		armTimer(c)
	}
}

// preempt runs at the end of an interrupt that came while a thread ran.
func preempt(c *cpu) {
	if atomic.LoadUint32(&c.rq.n) == 0 {
		return
	}
	if Nanotime()-c.switchedAt >= slice {
		yield()
	} else {
		armTimer(c)
	}
}

// idleLoop is every CPU's idle thread. Interrupts are on only inside haltOnce.
func idleLoop() {
	for {
		c := this()
		if t := pick(c); t != nil {
			switchTo(c, t, false)
			continue
		}
		// Whoever enqueues after this sees the flag and sends an interrupt,
		// which haltOnce cannot miss; whoever enqueued before is seen now.
		atomic.SwapUint32(&c.idling, 1)
		enterLazy(c)
		if !workWaits() {
			armTimer(c)
			haltOnce()
		}
		leaveLazy(c)
		atomic.StoreUint32(&c.idling, 0)
	}
}

// workWaits reports whether any run queue holds a thread.
func workWaits() bool {
	for i := uint64(0); i < ncpu; i++ {
		if atomic.LoadUint32(&cpuAt(i).rq.n) != 0 {
			return true
		}
	}
	return false
}
