// Package consolering keeps what a guest wrote to its console: the last 1 MiB,
// which late viewers read from the start and then follow.
package consolering

import (
	"context"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"

	"godwit/vmm/state"
)

// Size is how much a Ring keeps.
const Size = 1 << 20

// first is what a Ring allocates before it knows how talkative its guest is.
const first = 16 << 10

// A Ring holds the end of an endless text. Positions count from the text's very
// first byte.
type Ring struct {
	mu   sync.Mutex
	buf  []byte // grows to Size, then wraps
	end  int64
	more chan struct{} // closed at the next write, if anyone waits
}

// New makes an empty Ring.
func New() *Ring { return &Ring{} }

// WriteByte appends b. It never fails.
func (r *Ring) WriteByte(b byte) error {
	r.mu.Lock()
	r.put(b)
	r.wake()
	r.mu.Unlock()
	return nil
}

// Write appends p. It never fails.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range p {
		r.put(b)
	}
	r.wake()
	return len(p), nil
}

func (r *Ring) put(b byte) {
	if r.end == int64(len(r.buf)) && len(r.buf) < Size {
		n := min(max(2*len(r.buf), first), Size)
		buf := make([]byte, n)
		copy(buf, r.buf)
		r.buf = buf
	}
	r.buf[r.end%int64(len(r.buf))] = b
	r.end++
}

func (r *Ring) wake() {
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// Bounds are the positions of the oldest byte kept and of the next one written.
func (r *Ring) Bounds() (start, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(), r.end
}

func (r *Ring) start() int64 { return max(0, r.end-int64(len(r.buf))) }

// ReadAt copies what is kept from position pos on into p, and returns how much,
// and the position after it. A position that is lost already, or not yet written,
// is moved to the nearest there is.
func (r *Ring) ReadAt(p []byte, pos int64) (n int, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pos = min(max(pos, r.start()), r.end)
	for n < len(p) && pos < r.end {
		at := pos % int64(len(r.buf))
		k := copy(p[n:], r.buf[at:min(int64(len(r.buf)), at+r.end-pos)])
		n += k
		pos += int64(k)
	}
	return n, pos
}

// Follow is ReadAt that waits until there is something to read, or for ctx.
func (r *Ring) Follow(ctx context.Context, p []byte, pos int64) (n int, next int64, err error) {
	for {
		r.mu.Lock()
		empty := pos >= r.end
		var more chan struct{}
		if empty {
			if r.more == nil {
				r.more = make(chan struct{})
			}
			more = r.more
		}
		r.mu.Unlock()
		if !empty {
			n, next = r.ReadAt(p, pos)
			return n, next, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, pos, ctx.Err()
		}
	}
}

// Reset implements device.Device: the text goes on through a machine's resets.
func (r *Ring) Reset() {}

// StateName implements state.Device.
func (r *Ring) StateName() string { return "console0" }

// StateVersion implements state.Device.
func (r *Ring) StateVersion() uint16 { return 1 }

// SaveState implements state.Device. A machine is saved while it stands still, and
// over a thin link a MiB would be felt: consoles compress well.
func (r *Ring) SaveState(w *state.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := r.start()
	text := make([]byte, 0, r.end-start)
	for pos := start; pos < r.end; {
		at := pos % int64(len(r.buf))
		k := r.buf[at:min(int64(len(r.buf)), at+r.end-pos)]
		text = append(text, k...)
		pos += int64(len(k))
	}
	w.I64(r.end)
	w.Blob(s2.EncodeBetter(nil, text))
}

// LoadState implements state.Device.
func (r *Ring) LoadState(_ uint16, rd *state.Reader) error {
	end := rd.I64()
	packed := rd.Blob(s2.MaxEncodedLen(Size))
	if rd.Err() != nil {
		return rd.Err()
	}
	// The length first: nothing is allocated for one that can not be.
	kept, err := s2.DecodedLen(packed)
	if err != nil {
		return fmt.Errorf("the text: %w", err)
	}
	if end < 0 || end > 1<<62 || int64(kept) != min(end, Size) {
		return fmt.Errorf("%d bytes are kept of a text of %d", kept, end)
	}
	text, err := s2.Decode(make([]byte, kept), packed)
	if err != nil {
		return fmt.Errorf("the text: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Lay the text out so that each byte is at its position modulo the size.
	n := int64(Size)
	if end <= Size {
		n = min(max(end, first), Size)
	}
	r.buf = make([]byte, n)
	for i, b := range text {
		r.buf[(end-int64(kept)+int64(i))%n] = b
	}
	r.end = end
	r.wake()
	return nil
}
