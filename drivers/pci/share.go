package pci

import (
	"sync"
	"time"
)

// An Interrupt is a function's interrupt. A goroutine waits for it, serves the
// device so that it takes its request back, and acknowledges.
type Interrupt interface {
	// Wait blocks until an interrupt came since the last Wait, or the timeout
	// passed, and reports which. It returns at once, false, after Close. On a
	// shared line the interrupt may have been for another device.
	Wait(timeout time.Duration) bool
	// Ack says that the device was served.
	Ack()
	Close()
}

// A sharedLine is an interrupt line that several functions' pins are wired to,
// PCI 2.2.6. The line comes back on when every one of them was served.
type sharedLine struct {
	source Interrupt

	mu      sync.Mutex
	users   []*lineUser
	waiting int // users that have not acknowledged the last interrupt
}

type lineUser struct {
	line   *sharedLine
	came   chan struct{}
	closed chan struct{}
	once   sync.Once
	busy   bool // guarded by line.mu
}

func newSharedLine(source Interrupt) *sharedLine {
	l := &sharedLine{source: source}
	go l.dispatch()
	return l
}

// dispatch passes interrupts on until the source is closed.
func (l *sharedLine) dispatch() {
	for l.source.Wait(-1) {
		l.mu.Lock()
		l.waiting = len(l.users)
		for _, u := range l.users {
			u.busy = true
			select {
			case u.came <- struct{}{}:
			default: // it has not looked at the one before yet
			}
		}
		if l.waiting == 0 {
			l.source.Ack()
		}
		l.mu.Unlock()
	}
}

func (l *sharedLine) join() *lineUser {
	u := &lineUser{line: l, came: make(chan struct{}, 1), closed: make(chan struct{})}
	l.mu.Lock()
	l.users = append(l.users, u)
	l.mu.Unlock()
	return u
}

func (u *lineUser) Wait(timeout time.Duration) bool {
	select {
	case <-u.closed:
		return false
	default:
	}
	t := time.NewTimer(max(timeout, 0))
	if timeout < 0 {
		t.Stop()
	}
	defer t.Stop()
	select {
	case <-u.came:
		return true
	case <-u.closed:
	case <-t.C:
	}
	return false
}

func (u *lineUser) Ack() {
	u.line.mu.Lock()
	defer u.line.mu.Unlock()
	u.ack()
}

func (u *lineUser) ack() {
	if !u.busy {
		return
	}
	u.busy = false
	if u.line.waiting--; u.line.waiting == 0 {
		u.line.source.Ack()
	}
}

// Close leaves the line. The device must not ask for interrupts any more: its
// request would hold up the others.
func (u *lineUser) Close() {
	u.once.Do(func() {
		l := u.line
		l.mu.Lock()
		defer l.mu.Unlock()
		u.ack()
		for i, o := range l.users {
			if o == u {
				l.users = append(l.users[:i:i], l.users[i+1:]...)
				break
			}
		}
		close(u.closed)
	})
}

// lines are the machine's interrupt lines in use. A line once claimed stays so.
type lines struct {
	mu    sync.Mutex
	byIRQ map[int]*sharedLine
}

// connect adds a user to a line, which open claims if it is the first.
func (l *lines) connect(irq int, open func(irq int) (Interrupt, error)) (Interrupt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.byIRQ[irq]
	if s == nil {
		source, err := open(irq)
		if err != nil {
			return nil, err
		}
		s = newSharedLine(source)
		if l.byIRQ == nil {
			l.byIRQ = map[int]*sharedLine{}
		}
		l.byIRQ[irq] = s
	}
	return s.join(), nil
}
