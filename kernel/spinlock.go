package kernel

import "sync/atomic"

// A spinlock is held with interrupts off, for a short time. Whoever spins keeps
// answering TLB shootdowns: the holder may be waiting for that answer.
//
// Locks are taken in this order: an address-space lock, a wait queue's, a timer
// queue's, a run queue's, the frame allocator's, the log's. Memory of the Go
// runtime is touched under none but a wait queue's and the log's, because touching
// it may fault and the fault handler takes the address-space lock.
type spinlock struct{ v uint32 }

func (l *spinlock) lock() {
	for !atomic.CompareAndSwapUint32(&l.v, 0, 1) {
		for atomic.LoadUint32(&l.v) != 0 {
			relax()
		}
	}
}

func (l *spinlock) tryLock() bool { return atomic.CompareAndSwapUint32(&l.v, 0, 1) }

func (l *spinlock) unlock() { atomic.StoreUint32(&l.v, 0) }

// relax is the body of every loop that waits for another CPU.
func relax() {
	pause()
	answerShootdown()
}
