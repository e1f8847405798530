package shell

import (
	"io"
	"sync"
)

// Keys is a keyboard's queue: what is typed faster than it is read waits here,
// and a full queue drops the newest bytes, as a UART would.
type Keys struct {
	mu     sync.Mutex
	ready  sync.Cond
	buf    []byte
	closed bool
	line   bool
	intr   func()
}

const maxKeys = 16 << 10

// NewKeys returns an empty queue.
func NewKeys() *Keys {
	k := &Keys{}
	k.ready.L = &k.mu
	return k
}

// OnInterrupt makes ^C call f instead of being queued; nil queues it again.
func (k *Keys) OnInterrupt(f func()) {
	k.mu.Lock()
	k.intr = f
	k.mu.Unlock()
}

// LineMode makes each Read end behind a line's end at the latest, so that what
// follows is left for whoever reads next.
func (k *Keys) LineMode(on bool) {
	k.mu.Lock()
	k.line = on
	k.mu.Unlock()
}

// Write queues b. It never blocks.
func (k *Keys) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return 0, io.ErrClosedPipe
	}
	for _, c := range b {
		if c == 3 && k.intr != nil {
			k.buf = k.buf[:0] // what was typed ahead was meant for another moment
			k.intr()
			continue
		}
		if len(k.buf) < maxKeys {
			k.buf = append(k.buf, c)
		}
	}
	k.ready.Broadcast()
	return len(b), nil
}

// Read waits for at least one byte.
func (k *Keys) Read(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.buf) == 0 && !k.closed {
		k.ready.Wait()
	}
	if len(k.buf) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(k.buf))
	if k.line {
		for i, c := range k.buf[:n] {
			if c == '\r' || c == '\n' {
				n = i + 1
				break
			}
		}
	}
	copy(p, k.buf[:n])
	k.buf = append(k.buf[:0], k.buf[n:]...)
	return n, nil
}

// Unread puts b back in front: whoever reads next gets it.
func (k *Keys) Unread(b []byte) {
	k.mu.Lock()
	k.buf = append(append(make([]byte, 0, len(b)+len(k.buf)), b...), k.buf...)
	k.ready.Broadcast()
	k.mu.Unlock()
}

// Close ends Reads once the queue is empty.
func (k *Keys) Close() error {
	k.mu.Lock()
	k.closed = true
	k.ready.Broadcast()
	k.mu.Unlock()
	return nil
}
