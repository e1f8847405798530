package kernel

import "sync/atomic"

// A waitQueue holds blocked threads, each under a key, first come first woken.
type waitQueue struct {
	mu         spinlock
	head, tail uint32
}

// futexQueues holds the threads blocked in futex calls, by address.
var futexQueues [256]waitQueue

func futexQueue(addr uintptr) *waitQueue {
	return &futexQueues[addr>>2*0x9E3779B97F4A7C15>>56]
}

// sleep blocks the current thread in q, whose lock the caller holds and sleep
// releases, until wake or until the deadline (ns, 0: none). It reports whether it
// was woken.
func (q *waitQueue) sleep(key uintptr, deadline int64) bool {
	t := this().current()
	t.wkey, t.wnext, t.wqueued = key, 0, true
	if q.tail == 0 {
		q.head = t.id
	} else {
		threadAt(q.tail).wnext = t.id
	}
	q.tail = t.id
	block(t, deadline, q)
	if t.cause == causeTimeout {
		q.mu.lock()
		q.unlink(t)
		q.mu.unlock()
		return false
	}
	return true
}

// timerSlack is how much longer than asked for nanosleep takes, as on Linux
// (PR_SET_TIMERSLACK's default), for which the runtime's monitor is made: it asks for
// 20 us, and without slack it would wake fifty thousand times a second.
const timerSlack = 50_000

func nanosleep(time uintptr) uintptr {
	ns, ok := timespec(time)
	if !ok {
		return errno(einval)
	}
	block(this().current(), after(min(ns, forever-timerSlack)+timerSlack), nil)
	return 0
}

// block is the common part of sleeping: from the moment the state is blocked,
// another CPU may make the thread runnable again.
func block(t *thread, deadline int64, q *waitQueue) {
	c := this()
	t.cause = causeWoken
	if deadline != 0 {
		t.timerCPU = c.index
		c.tqLock.lock()
		c.tq.Set(t.id, deadline)
		c.tqLock.unlock()
		armTimer(c)
	}
	atomic.StoreUint32(&t.state, threadBlocked)
	if q != nil {
		q.mu.unlock()
	}
	schedule()
	if deadline != 0 && t.cause != causeTimeout {
		// The lock also makes sure that the timer handler is done with t.
		c := cpuAt(t.timerCPU)
		c.tqLock.lock()
		c.tq.Remove(t.id)
		c.tqLock.unlock()
	}
}

// unlink takes t out of the queue if it is in it. The lock is held.
func (q *waitQueue) unlink(t *thread) {
	if !t.wqueued {
		return
	}
	var prev *thread
	for id := q.head; id != t.id; id = prev.wnext {
		prev = threadAt(id)
	}
	if prev == nil {
		q.head = t.wnext
	} else {
		prev.wnext = t.wnext
	}
	if q.tail == t.id {
		q.tail = 0
		if prev != nil {
			q.tail = prev.id
		}
	}
	t.wqueued = false
}

// wake makes up to n threads runnable that sleep under key, and reports how many.
func (q *waitQueue) wake(key uintptr, n int) int {
	woken := 0
	for woken < n {
		q.mu.lock()
		var t *thread
		for id := q.head; id != 0; id = threadAt(id).wnext {
			if threadAt(id).wkey == key {
				t = threadAt(id)
				break
			}
		}
		if t == nil {
			q.mu.unlock()
			break
		}
		q.unlink(t)
		won := atomic.CompareAndSwapUint32(&t.state, threadBlocked, threadRunnable)
		q.mu.unlock()
		if won { // else its timeout came first
			ready(t)
			woken++
		}
	}
	return woken
}

// expire makes runnable the threads whose deadline has come on this CPU.
func expire(c *cpu, now int64) {
	for {
		c.tqLock.lock()
		e, ok := c.tq.First()
		if !ok || e.Deadline > now {
			c.tqLock.unlock()
			return
		}
		c.tq.Remove(e.ID)
		t := threadAt(e.ID)
		won := atomic.CompareAndSwapUint32(&t.state, threadBlocked, threadRunnable)
		if won {
			t.cause = causeTimeout
		}
		c.tqLock.unlock()
		if won {
			ready(t)
		}
	}
}

// Linux's futex operations (include/uapi/linux/futex.h).
const (
	futexWait    = 0
	futexWake    = 1
	futexCommand = 0x7f
)

func futex(addr uintptr, op, val uint32, timeout uintptr) uintptr {
	switch op & futexCommand {
	case futexWait:
		var end int64
		if timeout != 0 {
			ns, ok := timespec(timeout)
			if !ok {
				return errno(einval)
			}
			end = after(ns)
		}
		q := futexQueue(addr)
		q.mu.lock()
		if atomic.LoadUint32((*uint32)(ptr(addr))) != val {
			q.mu.unlock()
			return errno(eagain)
		}
		if !q.sleep(addr, end) {
			return errno(etimedout)
		}
		return 0
	case futexWake:
		return uintptr(futexQueue(addr).wake(addr, int(val)))
	}
	return errno(enosys)
}

const (
	second  = 1_000_000_000
	forever = 1<<63 - 1 // ns: 292 years
)

// timespec reads a struct timespec as nanoseconds, forever if it says more. It reports
// false for one that Linux refuses too: negative, or a second in the nanoseconds.
func timespec(a uintptr) (ns int64, ok bool) {
	s, n := int64(ld64(a)), int64(ld64(a+8))
	if s < 0 || n < 0 || n >= second {
		return 0, false
	}
	if s >= forever/second {
		return forever, true
	}
	return s*second + n, true
}

// deadline is the time that comes ns after now. It is never 0, which means none.
func deadline(now, ns int64) int64 {
	if ns > forever-now {
		return forever
	}
	return max(now+ns, 1)
}

func after(ns int64) int64 { return deadline(Nanotime(), ns) }
