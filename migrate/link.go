package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Timing bounds every wait of a migration.
type Timing struct {
	Tick    time.Duration // the keep-alive interval, and the unit of the others' checking
	Silence time.Duration // how long a peer may take no byte and send none
	Step    time.Duration // how long it may take over one step, though alive
	Dial    time.Duration
	Pause   time.Duration // how long a guest may take to stop
	Retry   time.Duration // between queries when in doubt
}

// DefaultTiming is for hosts on one network.
var DefaultTiming = Timing{
	Tick:    time.Second,
	Silence: 10 * time.Second,
	Step:    time.Minute,
	Dial:    10 * time.Second,
	Pause:   10 * time.Second,
	Retry:   2 * time.Second,
}

// WithPatience is t for a peer or a line that may be silent for d, if d is not 0. The
// other waits are as much longer or shorter.
func (t Timing) WithPatience(d time.Duration) Timing {
	if d == 0 {
		return t
	}
	scale := func(x time.Duration) time.Duration {
		return time.Duration(float64(x) / float64(t.Silence) * float64(d))
	}
	return Timing{
		Tick:    min(t.Tick, max(scale(t.Tick), time.Millisecond)),
		Silence: d,
		Step:    scale(t.Step),
		Dial:    scale(t.Dial),
		Pause:   scale(t.Pause),
		Retry:   t.Retry,
	}
}

// ErrSilent is in errors of a connection whose peer sent nothing, not even
// keep-alives, or took nothing, for too long.
var ErrSilent = errors.New("no sign of life from the other host")

// errStuck: alive, but without progress.
var errStuck = errors.New("the other host is alive but did not finish its step in time")

// A link is a connection that carries frames. Its first error ends it: it
// closes the connection, so that whoever waits on it returns, and is what every
// later call returns.
//
// Time is counted in ticks. Each call of the connection's Read and Write leaves
// the tick at which it began, and the watchdog ends the link when one is too
// old. So hot paths set no timers.
type link struct {
	conn    net.Conn
	silence int64 // ticks
	step    int64

	ctx  context.Context // done at the first error
	fail context.CancelCauseFunc
	done sync.WaitGroup // watchdog and keep-alives

	now     atomic.Int64
	reading atomic.Int64 // tick of the Read in progress, 0 if none
	writing atomic.Int64
	waiting atomic.Int64 // tick since which a step of the peer is awaited
	sent    atomic.Bool  // something, since the last tick
	chatty  atomic.Bool  // greetings are over: keep-alives may be sent
	written atomic.Uint64
	read    atomic.Uint64 // bytes

	queue int // bytes the connection was told to hold; the pipeline's

	pen  chan struct{} // holds one value, which whoever writes a frame takes
	wseq uint32

	quit atomic.Pointer[error] // why whoever receives is to stop, though the connection is good

	rseq uint32
	rhdr [headerSize]byte
	rbuf []byte
}

// maxWrite bounds one Write, so that a slow line does not look like a dead one.
const maxWrite = 256 << 10

// newLink takes conn and ends with parent. Then, and only then, the peer is sent
// the Fail that farewell makes, if any.
func newLink(parent context.Context, conn net.Conn, t Timing, farewell func(error) *PeerError) *link {
	l := &link{
		conn:    conn,
		silence: max(1, int64(t.Silence/t.Tick)),
		step:    max(1, int64(t.Step/t.Tick)),
		pen:     make(chan struct{}, 1),
	}
	l.pen <- struct{}{}
	l.ctx, l.fail = context.WithCancelCause(context.Background())
	l.now.Store(1)
	context.AfterFunc(l.ctx, func() {
		// The deadline ends calls in progress on stacks where Close does not.
		conn.SetDeadline(time.Unix(1, 0))
		conn.Close()
	})
	l.done.Add(1)
	go func() {
		defer l.done.Done()
		tick := time.NewTicker(t.Tick)
		defer tick.Stop()
		if l.watch(tick.C, parent.Done()) {
			why := context.Cause(parent)
			if farewell != nil {
				if f := farewell(why); f != nil {
					l.trySend(msgFail, f.frame())
				}
			}
			l.fail(why)
		}
	}()
	return l
}

// err is why the link has ended.
func (l *link) err() error { return context.Cause(l.ctx) }

// interrupt makes whoever receives return why. The connection stays good, so that the
// peer can be told.
func (l *link) interrupt(why error) {
	l.quit.Store(&why)
	l.conn.SetReadDeadline(time.Unix(1, 0))
}

// interrupted is that why, or why the link has ended.
func (l *link) interrupted() error {
	if why := l.quit.Load(); why != nil && l.err() == nil {
		return *why
	}
	return l.err()
}

// close ends the link and waits until nothing of it is left.
func (l *link) close(why error) {
	l.fail(why)
	l.done.Wait()
}

// watch runs until the link or, then it returns true, its parent ends.
func (l *link) watch(ticks <-chan time.Time, parent <-chan struct{}) bool {
	for {
		select {
		case <-l.ctx.Done():
			return false
		case <-parent:
			return true
		case <-ticks:
		}
		now := l.now.Add(1)
		old := func(since *atomic.Int64, limit int64) bool {
			s := since.Load()
			return s != 0 && now-s > limit
		}
		switch {
		case old(&l.reading, l.silence):
			l.fail(fmt.Errorf("migrate: %w: nothing came", ErrSilent))
			return false
		case old(&l.writing, l.silence):
			l.fail(fmt.Errorf("migrate: %w: it takes nothing", ErrSilent))
			return false
		case old(&l.waiting, l.step):
			l.fail(fmt.Errorf("migrate: %w", errStuck))
			return false
		}
		// A frame being written is sign of life enough. The keep-alive has a
		// goroutine of its own because it can block, and this one must not.
		if !l.sent.Swap(false) && l.chatty.Load() && l.tryPen() {
			l.done.Add(1)
			go func() {
				defer l.done.Done()
				l.write(msgAlive, newFrame().Bytes())
				l.pen <- struct{}{}
			}()
		}
	}
}

// await says that the peer owes a message; its time to send one runs from now
// until awaited is called.
func (l *link) await()   { l.waiting.Store(l.now.Load()) }
func (l *link) awaited() { l.waiting.Store(0) }

// send writes one frame. b has room for the header in front of the payload.
func (l *link) send(t msgType, b []byte) error {
	select {
	case <-l.pen:
	case <-l.ctx.Done():
		return l.err()
	}
	err := l.write(t, b)
	l.pen <- struct{}{}
	return err
}

func (l *link) tryPen() bool {
	select {
	case <-l.pen:
		return true
	default:
		return false
	}
}

// trySend is send for a last word: it gives up if a frame is stuck half-way.
func (l *link) trySend(t msgType, b []byte) {
	if l.tryPen() {
		l.conn.SetWriteDeadline(time.Now().Add(time.Second))
		l.write(t, b)
		l.pen <- struct{}{}
	}
}

func (l *link) write(t msgType, b []byte) error {
	if err := l.err(); err != nil {
		return err
	}
	putHeader(b, t, l.wseq, b[headerSize:])
	l.wseq++
	l.sent.Store(true)
	for len(b) > 0 {
		l.writing.Store(l.now.Load())
		n, err := l.conn.Write(b[:min(len(b), maxWrite)])
		l.writing.Store(0)
		l.written.Add(uint64(n))
		if err != nil {
			l.fail(fmt.Errorf("migrate: sending %v: %w", t, err))
			return l.err()
		}
		b = b[n:]
	}
	return nil
}

// Read is the connection's, watched.
func (l *link) Read(p []byte) (int, error) {
	l.reading.Store(l.now.Load())
	n, err := l.conn.Read(p)
	l.reading.Store(0)
	l.read.Add(uint64(n))
	return n, err
}

// A place is a state of either side's machine: what it is called, and which
// messages may come in it.
type place interface {
	fmt.Stringer
	accepts() msgSet
}

// bound tells the connection, if it can be told, to hold no more unacknowledged
// bytes than the line carries in a moment, given how many were written in how long.
// A window that grows until something is lost would fill every queue on the way, and
// what lies in them the guest waits for in the end.
func (l *link) bound(bytes uint64, writing time.Duration) {
	c, ok := l.conn.(interface{ SetWriteBuffer(bytes int) error })
	if !ok {
		return
	}
	size := max(l.queue, minQueue)
	// What the queue holds has been written, but not carried.
	if carried := float64(bytes) - float64(size); carried > 0 {
		want := carried / max(writing.Seconds(), 1e-6) * queueTime.Seconds()
		size = int(min(max(want, minQueue), maxQueue)) &^ (minQueue - 1)
	}
	if size != l.queue {
		l.queue = size
		c.SetWriteBuffer(size) // one that stays larger is slower, not wrong
	}
}

const (
	queueTime = 100 * time.Millisecond
	minQueue  = 128 << 10
	maxQueue  = 8 << 20
)

// recv reads the next message that is not a keep-alive. One that is illegal
// where this side is at that moment is refused before its payload is read. The
// payload is good until the next recv. One goroutine at a time calls it.
func (l *link) recv(at func() place) (msgType, []byte, error) {
	for {
		t, b, err := l.recvFrame(at)
		if p := (*ProtocolError)(nil); err != nil && !errors.As(err, &p) {
			if why := l.quit.Load(); why != nil && l.err() == nil {
				return 0, nil, *why
			}
			l.fail(err)
			return 0, nil, l.err()
		} else if err != nil {
			return 0, nil, err
		}
		if t != msgAlive {
			return t, b, nil
		}
	}
}

func (l *link) recvFrame(at func() place) (msgType, []byte, error) {
	if _, err := io.ReadFull(l, l.rhdr[:]); err != nil {
		return 0, nil, fmt.Errorf("migrate: the connection broke: %w", err)
	}
	h, err := parseHeader(&l.rhdr)
	if err != nil {
		return 0, nil, err
	}
	if h.seq != l.rseq {
		return 0, nil, protocolError("frame %d (%v) came where frame %d was due", h.seq, h.typ, l.rseq)
	}
	l.rseq++
	if p := at(); !p.accepts().has(h.typ) {
		return 0, nil, protocolError("%v came in state %v, where it is illegal", h.typ, p)
	}
	if int(h.length) > cap(l.rbuf) {
		l.rbuf = make([]byte, max(4<<10, h.length))
	}
	b := l.rbuf[:h.length]
	if _, err := io.ReadFull(l, b); err != nil {
		return 0, nil, fmt.Errorf("migrate: the connection broke in the middle of %v: %w", h.typ, err)
	}
	if sum := checksum(b); sum != h.sum {
		return 0, nil, protocolError("%v damaged in transit (checksum %#x, not %#x)", h.typ, sum, h.sum)
	}
	return h.typ, b, nil
}

// drain reads and forgets until the peer closes, so that closing here does not
// reset the connection before the peer has read the last word. It is bounded.
func (l *link) drain(limit time.Duration) {
	l.conn.SetReadDeadline(time.Now().Add(limit))
	var b [4096]byte
	for {
		if _, err := l.Read(b[:]); err != nil {
			return
		}
	}
}
