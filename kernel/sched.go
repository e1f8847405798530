package kernel

import "sync/atomic"

// The scheduler: two queues per CPU, idle CPUs steal, a thread keeps the CPU for one
// slice while others wait. There is no periodic tick: a CPU with one runnable thread
// takes no timer interrupts on its account.
//
// Threads that an event made runnable come before those that used up a slice, and
// push such a one off the CPU at once: a guest that computes for ever must not make
// every packet of the host wait for its slice's end. What used up its slice is not
// starved by it: where none such had its turn for patience the next is one's, for a whole
// slice; but not two in a row, or it would starve the others.

const (
	slice    = 2_000_000 // ns
	patience = 2 * slice
)

// A threadList is a list of runnable threads, linked by number.
type threadList struct{ head, tail uint32 }

func (l *threadList) push(t *thread) {
	t.qnext = 0
	if l.tail == 0 {
		l.head = t.id
	} else {
		threadAt(l.tail).qnext = t.id
	}
	l.tail = t.id
}

// pop takes the first thread; if stealing, the first that may run elsewhere.
func (l *threadList) pop(stealing bool) *thread {
	var prev *thread
	for id := l.head; id != 0; {
		t := threadAt(id)
		if stealing && t.pin >= 0 {
			prev, id = t, t.qnext
			continue
		}
		if prev == nil {
			l.head = t.qnext
		} else {
			prev.qnext = t.qnext
		}
		if l.tail == id {
			l.tail = 0
			if prev != nil {
				l.tail = prev.id
			}
		}
		return t
	}
	return nil
}

// A runQueue holds a CPU's runnable threads.
type runQueue struct {
	mu    spinlock
	woken threadList // by an event
	spent threadList // used up a slice
	since int64      // when a spent one ran last, or the first came
	turn  bool       // the last that was taken was a spent one
	n     uint32     // all of them
	fresh uint32     // the woken ones
	free  uint32     // those that are not pinned here: what others can steal
}

func (q *runQueue) push(t *thread) {
	q.mu.lock()
	if t.spent {
		if q.spent.head == 0 {
			q.since = Nanotime()
		}
		q.spent.push(t)
	} else {
		q.woken.push(t)
		atomic.StoreUint32(&q.fresh, q.fresh+1)
	}
	if t.pin < 0 {
		atomic.StoreUint32(&q.free, q.free+1)
	}
	atomic.StoreUint32(&q.n, q.n+1)
	q.mu.unlock()
}

// holds reports whether there is a thread to take, without the lock.
func (q *runQueue) holds(stealing bool) bool {
	if stealing {
		return atomic.LoadUint32(&q.free) != 0
	}
	return atomic.LoadUint32(&q.n) != 0
}

// pop takes the thread that is next; if stealing, one that may run elsewhere.
func (q *runQueue) pop(stealing bool) *thread {
	if !q.holds(stealing) {
		return nil
	}
	q.mu.lock()
	now := int64(0)
	if q.spent.head != 0 {
		now = Nanotime()
	}
	var t *thread
	if q.spentFirst(now) {
		if t = q.spent.pop(stealing); t != nil {
			t.owed = true
		}
	}
	if t == nil {
		if t = q.woken.pop(stealing); t != nil {
			atomic.StoreUint32(&q.fresh, q.fresh-1)
		} else {
			t = q.spent.pop(stealing)
		}
	}
	if t != nil {
		atomic.StoreUint32(&q.n, q.n-1)
		if t.pin < 0 {
			atomic.StoreUint32(&q.free, q.free-1)
		}
		q.took(t.spent, now)
	}
	q.mu.unlock()
	return t
}

// spentFirst reports whether it is a spent thread's turn even if woken ones wait: for
// patience it was not, and the last turn was not. Without the second, where each turn
// takes longer than patience, since whoever runs this machine gives it little time,
// the woken would wait for as long as anybody computes.
func (q *runQueue) spentFirst(now int64) bool {
	return q.spent.head != 0 && !q.turn && now-q.since >= patience
}

func (q *runQueue) took(spent bool, now int64) {
	q.turn = spent
	if spent {
		q.since = now
	}
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
// it was, if that CPU is idle; any idle CPU; where it was, if not many more wait there
// than elsewhere.
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
	return shorter(last)
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

// shorter is c, or a CPU where at least two threads fewer wait. Only idle CPUs steal, so
// without it some CPUs would share their time among many and others run but one, for as
// long as nobody sleeps.
func shorter(c *cpu) *cpu {
	best, least := c, atomic.LoadUint32(&c.rq.n)
	if least < 2 {
		return c
	}
	least--
	for i := uint64(1); i < ncpu; i++ {
		o := cpuAt((c.index + i) % ncpu)
		if n := atomic.LoadUint32(&o.rq.n); n < least {
			best, least = o, n
		}
	}
	return best
}

// enqueue puts a runnable thread, which no CPU is on, into c's queue and sees to it
// that somebody looks there. If c is busy its timer is set for the end of the slice,
// even if an idle CPU is told to steal: one that an emulator shares out may be long in
// coming, and may find something else.
func enqueue(c *cpu, t *thread) {
	c.rq.push(t)
	if wakeCPU(c) {
		return
	}
	if t.pin < 0 {
		if idle := findIdle(); idle != nil {
			wakeCPU(idle)
		}
	}
	if c == this() {
		armTimer(c)
	} else {
		sendIPI(c, vecResched) // so that c arms its timer
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

// ready makes runnable a thread whose state the caller has just changed from blocked to
// runnable. If the thread is still on its way off its CPU, that CPU does it, and nobody
// waits.
func ready(t *thread) {
	if !atomic.CompareAndSwapUint32(&t.onCPU, 1, 2) {
		t.spent = false
		enqueue(chooseCPU(t), t)
	}
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

// yield lets others run if any wait; the current thread goes behind those that an
// event woke.
func yield() {
	c := this()
	me := c.current()
	me.spent, me.owed = true, false
	next := c.rq.pop(false)
	if next == nil {
		c.switchedAt = Nanotime()
		return
	}
	atomic.StoreUint32(&me.state, threadRunnable)
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
	woken := atomic.SwapUint32(&prev.onCPU, 0) == 2
	c.switchedAt = Nanotime()
	switch {
	case dead:
		freeThread(prev)
	case woken:
		ready(prev)
	case requeue && prev.pin >= 0:
		enqueue(cpuAt(uint64(prev.pin)), prev)
	case requeue:
		enqueue(shorter(c), prev)
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
	me := c.current()
	gives := me.spent && !me.owed && atomic.LoadUint32(&c.rq.fresh) != 0
	if gives || Nanotime()-c.switchedAt >= slice {
		yield()
	} else {
		armTimer(c)
	}
}

// pollIdle is SetPollIdle's wish.
var pollIdle uint32

// SetPollIdle tells whether idle CPUs look for work without end instead of halting: for
// Bochs, whose clock leaps while all CPUs are halted. QEMU's TCG was seen to deliver no
// interrupts to a CPU that polls.
func SetPollIdle(poll bool) {
	v := uint32(0)
	if poll {
		v = 1
	}
	atomic.StoreUint32(&pollIdle, v)
}

// idleLoop is every CPU's idle thread. Interrupts are on only inside haltOnce and
// pollOnce.
func idleLoop() {
	idled := false
	for {
		c := this()
		if t := pick(c); t != nil {
			if idled {
				passOn(c)
			}
			idled = false
			switchTo(c, t, false)
			continue
		}
		idled = true
		// Whoever enqueues after this sees the flag and sends an interrupt,
		// which haltOnce cannot miss; whoever enqueued before is seen now.
		atomic.SwapUint32(&c.idling, 1)
		enterLazy(c)
		if !workWaits(c) {
			armTimer(c)
			if atomic.LoadUint32(&pollIdle) != 0 {
				pollOnce()
			} else {
				haltOnce()
			}
		}
		leaveLazy(c)
		atomic.StoreUint32(&c.idling, 0)
	}
}

// passOn is for a CPU that was idle and has found a thread, maybe not the one that it
// was woken for: that one is for the next idle CPU.
func passOn(c *cpu) {
	for i := range ncpu {
		if o := cpuAt(i); o != c && o.rq.holds(true) {
			if idle := findIdle(); idle != nil {
				wakeCPU(idle)
			}
			return
		}
	}
}

// workWaits reports whether c could run a thread that some queue holds. One that is
// pinned to another CPU is none: an idle CPU would look for it without end.
func workWaits(c *cpu) bool {
	for i := uint64(0); i < ncpu; i++ {
		if o := cpuAt(i); o.rq.holds(o != c) {
			return true
		}
	}
	return false
}
