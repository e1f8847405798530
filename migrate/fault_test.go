package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An action is what happens to one message on its way.
type action int

const (
	drop        action = iota // it vanishes, the rest goes on
	twice                     // it comes twice
	cutBefore                 // the connection breaks before it
	cutWithin                 // in the middle of it
	cutAfter                  // after it
	badHeader                 // a bit of its header flips
	badPayload                // a bit of its payload flips, or of its checksum
	delay                     // it comes late, but within what is borne
	lateForEver               // it comes after everybody has given up
	hole                      // from it on nothing comes any more, in either direction
	jam                       // from it on nothing is taken any more, in its direction
	sourceDies                // as it arrives, the source's host loses power
	targetDies
	numActions
)

var actionNames = [numActions]string{
	"drop", "twice", "cut before", "cut within", "cut after", "bad header", "bad payload", "delay", "late for ever",
	"hole", "jam", "source dies", "target dies",
}

func (a action) String() string { return actionNames[a] }

// A fault does an action to one message of one connection. Keep-alives are not
// counted.
type fault struct {
	action action
	back   bool // the message is the target's
	nth    int
	fired  atomic.Bool
	what   msgType
	kill   func() // for sourceDies, targetDies
}

// wrap puts a wire between the returned connection and conn, on which the fault
// waits.
func (f *fault) wrap(conn net.Conn) net.Conn {
	near, far := net.Pipe()
	w := &wire{f: f, closed: make(chan struct{})}
	end := sync.OnceFunc(func() {
		close(w.closed)
		conn.Close()
		far.Close()
	})
	go func() { defer end(); w.pump(far, conn, false) }()
	go func() { defer end(); w.pump(conn, far, true) }()
	return near
}

type wire struct {
	f      *fault
	closed chan struct{}
	mute   atomic.Bool
}

// pump carries frames until one side closes.
func (w *wire) pump(from io.Reader, to io.Writer, back bool) {
	f := w.f
	before := msgType(0)
	for n := 0; ; {
		b := make([]byte, headerSize)
		if _, err := io.ReadFull(from, b); err != nil {
			return
		}
		b = append(b, make([]byte, binary.LittleEndian.Uint32(b[12:]))...)
		if _, err := io.ReadFull(from, b[headerSize:]); err != nil {
			return
		}
		if w.mute.Load() {
			continue
		}
		hit := false
		// How many batches a round has depends on what the guest writes: they count as one.
		if t := msgType(b[5]); t != msgAlive && (t != msgPages || t != before) {
			before = t
			if hit = back == f.back && n == f.nth && !f.fired.Load(); hit {
				f.what = t
				f.fired.Store(true)
			}
			n++
		}
		if hit {
			switch f.action {
			case drop:
				continue
			case twice:
				to.Write(b)
			case cutBefore:
				return
			case cutWithin:
				to.Write(b[:len(b)/2])
				return
			case cutAfter:
				to.Write(b)
				return
			case badHeader:
				b[13] ^= 4
			case badPayload:
				b[len(b)-1] ^= 0x80
			case delay:
				time.Sleep(simTiming.Silence / 2)
			case lateForEver:
				time.Sleep(3 * simTiming.Step)
			case hole:
				w.mute.Store(true)
				continue
			case jam:
				<-w.closed
				return
			case sourceDies, targetDies:
				f.kill()
				w.mute.Store(true)
				continue
			}
		}
		time.Sleep(lineDelay)
		if _, err := to.Write(b); err != nil {
			return
		}
	}
}

// lineDelay lets the guest write while a round is on its way, so that every move
// has the same rounds.
const lineDelay = 300 * time.Millisecond

// afterFault checks what must be true after any fault: exactly one host runs the
// guest, nothing is left of it on the other, and it can be moved at once.
func afterFault(t *testing.T, p *pipes, hs []*simHost, f *fault, r Report, err error) {
	t.Helper()
	w := hs[0].w
	at := w.where("g")
	switch r.State {
	case "Done":
		if err != nil || at != hs[1] {
			t.Fatalf("Done, %v, but it runs on %v", err, at)
		}
		if hs[0].pages() != 0 {
			t.Errorf("%d pages are left at the source", hs[0].pages())
		}
		return
	case "Failed":
		if err == nil || at != hs[0] {
			t.Fatalf("Failed, %v, but it runs on %v", err, at)
		}
	default:
		t.Fatalf("ended in state %s, %v", r.State, err)
	}
	if r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Verify: true}); err != nil || w.where("g") != hs[1] {
		t.Fatalf("moved again: %v; it runs on %v; %+v", err, w.where("g"), r)
	}
}

// moveUnderFault is one move with a fault in its way, in a bubble of fake time.
// It tells whether the fault was met.
func moveUnderFault(t *testing.T, f *fault, body func(t *testing.T, p *pipes, hs []*simHost)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := &pipes{wrap: f.wrap}
		hs := p.add(w, "a", "b")
		hs[0].addGuest("g", load{cpus: 1, burst: 4, pause: 200 * time.Millisecond}, small...)
		body(t, p, hs)
		time.Sleep(4 * simTiming.Step) // for what comes late
		p.end(w)
		if !t.Failed() {
			// A target notices late that a source has gone; then all is free.
			sum := hs[0].pages() + hs[1].pages()
			if want := int64(64); sum != want && !hs[0].dead && !hs[1].dead {
				t.Errorf("%d pages of memory are in use, not %d", sum, want)
			}
		}
	})
	if t.Failed() {
		t.Logf("the fault: %v, message %d (%v), of the target: %v", f.action, f.nth, f.what, f.back)
	}
}

// faultOptions make three rounds, the last included.
var faultOptions = Options{Downtime: 1, MaxRounds: 2, Verify: true}

// everyFault calls f for every message of a move, in both directions, until
// there is none of that number.
func everyFault(t *testing.T, actions []action, do func(t *testing.T, f *fault)) {
	for _, a := range actions {
		for _, back := range []bool{false, true} {
			dir := "to target"
			if back {
				dir = "to source"
			}
			t.Run(fmt.Sprintf("%v %s", a, dir), func(t *testing.T) {
				met := map[msgType]bool{}
				for n := 0; ; n++ {
					f := &fault{action: a, back: back, nth: n}
					do(t, f)
					if t.Failed() {
						return
					}
					if !f.fired.Load() {
						break
					}
					met[f.what] = true
				}
				want := []msgType{msgHello, msgMachine, msgRound, msgPages, msgRoundEnd, msgVerify, msgState, msgStateEnd, msgCommit}
				if back {
					want = []msgType{msgHelloReply, msgReady, msgRoundDone, msgPrepared, msgStarted}
				}
				for _, m := range want {
					if !met[m] {
						t.Errorf("no fault hit %v", m)
					}
				}
			})
		}
	}
}

func TestExactlyOneHostRunsTheGuestWhateverHappensToAnyMessage(t *testing.T) {
	var actions []action
	for a := range sourceDies {
		actions = append(actions, a)
	}
	everyFault(t, actions, func(t *testing.T, f *fault) {
		moveUnderFault(t, f, func(t *testing.T, p *pipes, hs []*simHost) {
			r, err := hs[0].m.Migrate(context.Background(), "g", "b", faultOptions)
			if (f.action == delay || !f.fired.Load()) && err != nil {
				t.Errorf("nothing was lost, but: %v", err)
			}
			afterFault(t, p, hs, f, r, err)
		})
	})
}

// The network breaks at a message and stays broken until the operator has
// looked; then it heals.
func TestABrokenNetworkLeavesAtMostOneAndAHealedOneExactlyOne(t *testing.T) {
	everyFault(t, []action{cutBefore, cutAfter, hole}, func(t *testing.T, f *fault) {
		moveUnderFault(t, f, func(t *testing.T, p *pipes, hs []*simHost) {
			g, err := hs[0].m.Start("g", "b", faultOptions)
			if err != nil {
				t.Fatal(err)
			}
			for !f.fired.Load() && !ended(g) {
				time.Sleep(20 * time.Millisecond)
			}
			p.setDown(true)
			time.Sleep(2 * simTiming.Step)
			at := hs[0].w.where("g")
			switch g.State() {
			case Done:
				if at != hs[1] {
					t.Errorf("Done, but it runs on %v", at)
				}
			case Failed:
				if at != hs[0] {
					t.Errorf("Failed, but it runs on %v", at)
				}
			case InDoubt:
				if at == hs[0] {
					t.Error("it runs at the source while that is in doubt")
				}
				if !strings.Contains(g.Report().Doubt, "settle") {
					t.Errorf("the operator is told %q", g.Report().Doubt)
				}
				if err := g.Cancel(); err != ErrTooLate && !errors.Is(err, ErrInDoubt) {
					t.Errorf("cancelling in doubt: %v", err)
				}
			default:
				t.Errorf("still in state %v", g.State())
			}
			p.setDown(false)
			r, err := g.Wait(context.Background())
			afterFault(t, p, hs, f, r, err)
		})
	})
}

func ended(g *Migration) bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

func (p *pipes) setDown(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
}

func TestASourceThatDiesTakesItsGuestAlongOrHasHandedItOver(t *testing.T) {
	everyFault(t, []action{sourceDies}, func(t *testing.T, f *fault) {
		moveUnderFault(t, f, func(t *testing.T, p *pipes, hs []*simHost) {
			f.kill = func() {
				hs[0].down()
				p.setDown(true)
			}
			hs[0].m.Start("g", "b", faultOptions)
			time.Sleep(4 * simTiming.Step)
			// A message of the target can only be seen to arrive at a dead
			// source, so whether Commit had come decides.
			started := f.back && f.what == msgStarted || !f.fired.Load()
			switch at := hs[0].w.where("g"); {
			case started && at != hs[1]:
				t.Errorf("it was started on b but runs on %v", at)
			case !started && (at != nil || hs[1].pages() != 0):
				t.Errorf("it died with a but runs on %v; %d pages are left on b", at, hs[1].pages())
			}
		})
	})
}

func TestATargetThatDiesLeavesTheGuestAtTheSourceOrInDoubtButNeverTwice(t *testing.T) {
	everyFault(t, []action{targetDies}, func(t *testing.T, f *fault) {
		for _, how := range []Settlement{SettleResume, SettleRelease} {
			f.fired.Store(false)
			moveUnderFault(t, f, func(t *testing.T, p *pipes, hs []*simHost) {
				f.kill = func() {
					hs[1].down()
					// It comes up again at once, with nothing of what it knew.
					p.mu.Lock()
					p.hosts["b"] = hs[1].w.newHost("b", p.dial)
					p.mu.Unlock()
				}
				g, _ := hs[0].m.Start("g", "b", faultOptions)
				time.Sleep(4 * simTiming.Step)
				if !f.fired.Load() {
					return
				}
				inDoubt := f.what == msgCommit || f.what == msgStarted
				if !inDoubt {
					if hs[0].w.where("g") != hs[0] || g.State() != Failed {
						t.Errorf("state %v, it runs on %v", g.State(), hs[0].w.where("g"))
					}
					return
				}
				if hs[0].w.where("g") != nil || g.State() != InDoubt || !strings.Contains(g.Report().Doubt, "restarted") {
					t.Errorf("state %v, it runs on %v, the operator is told %q", g.State(), hs[0].w.where("g"), g.Report().Doubt)
				}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if _, err := g.Wait(ctx); !errors.Is(err, ErrInDoubt) {
					t.Errorf("Wait: %v", err)
				}
				if err := hs[0].m.Settle("g", how); err != nil {
					t.Fatal(err)
				}
				switch at := hs[0].w.where("g"); {
				case how == SettleResume && (at != hs[0] || g.State() != Failed):
					t.Errorf("settled by resume: state %v, it runs on %v", g.State(), at)
				case how == SettleRelease && (at != nil || g.State() != Done || hs[0].pages() != 0):
					t.Errorf("settled by release: state %v, it runs on %v", g.State(), at)
				}
			})
		}
	})
}

func TestASilentPeerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.newHost("b", nil)
		mute, conn := net.Pipe()
		begin := time.Now()
		h.m.ServeConn(conn)
		if d := time.Since(begin); d < simTiming.Silence || d > 2*simTiming.Silence {
			t.Errorf("given up after %v", d)
		}
		mute.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mute, conn := net.Pipe()
		h := w.newHost("a", func(context.Context, string) (net.Conn, error) { return conn, nil })
		h.addGuest("g", load{cpus: 1, pause: 20 * time.Millisecond}, small...)
		if _, err := h.m.Migrate(context.Background(), "g", "b", Options{}); !errors.Is(err, ErrSilent) {
			t.Error(err)
		}
		h.guest("g").halt()
		mute.Close()
	})
}

func TestAPeerThatOnlySaysItIsAliveIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.newHost("b", nil)
		peer, conn := net.Pipe()
		go func() {
			h := hello{min: 1, max: 1, purpose: purposeMove, id: newID(), host: newID()}
			for n, b := 0, h.frame(); ; n++ {
				typ := msgAlive
				if n == 0 {
					typ = msgHello
				}
				putHeader(b, typ, uint32(n), b[headerSize:])
				if _, err := peer.Write(b); err != nil {
					return
				}
				b = newFrame().Bytes()
				time.Sleep(simTiming.Tick)
			}
		}()
		go io.Copy(io.Discard, peer)
		begin := time.Now()
		h.m.ServeConn(conn)
		if d := time.Since(begin); d < simTiming.Step || d > 2*simTiming.Step {
			t.Errorf("given up after %v", d)
		}
		peer.Close()
		time.Sleep(time.Second)
	})
}

// A source whose link died unseen by the target begins anew, while the target
// still waits for it.
func TestANewAttemptReplacesOneThatTheTargetTakesForAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := &pipes{}
		hs := p.add(w, "a", "b")
		hs[0].addGuest("g", load{cpus: 1, pause: 20 * time.Millisecond}, small...)
		p.wrap = func(conn net.Conn) net.Conn {
			near, far := net.Pipe()
			go func() { io.CopyN(conn, far, 2000); io.Copy(io.Discard, far) }() // and conn stays open
			go func() { io.Copy(far, conn); far.Close() }()
			return near
		}
		go func() {
			time.Sleep(simTiming.Silence / 2)
			hs[0].m.Cancel("g")
		}()
		if _, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{}); !errors.Is(err, ErrCancelled) {
			t.Fatal(err)
		}
		if hs[1].pages() != 64 {
			t.Fatal("the target has noticed; this tests nothing")
		}
		p.wrap = nil
		if _, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{}); err != nil || w.where("g") != hs[1] {
			t.Fatal(err)
		}
		p.end(w)
		if hs[1].pages() != 64 {
			t.Errorf("%d pages on b", hs[1].pages())
		}
	})
}
