package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// An enemy is a peer that says what it likes: it numbers and sums its frames as one that means well.
type enemy struct {
	conn net.Conn
	seq  uint32
}

func (e *enemy) say(typ msgType, b []byte) error {
	putHeader(b, typ, e.seq, b[headerSize:])
	e.seq++
	_, err := e.conn.Write(b)
	return err
}

// hear is the next message that is not a keep-alive.
func (e *enemy) hear() (msgType, []byte) {
	for {
		h := make([]byte, headerSize)
		if _, err := io.ReadFull(e.conn, h); err != nil {
			return 0, nil
		}
		b := make([]byte, binary.LittleEndian.Uint32(h[12:]))
		if _, err := io.ReadFull(e.conn, b); err != nil {
			return 0, nil
		}
		if t := msgType(h[5]); t != msgAlive {
			return t, b
		}
	}
}

// attack connects an enemy to h and has the guest g built there.
func attack(t *testing.T, h *simHost) *enemy {
	t.Helper()
	peer, conn := net.Pipe()
	go h.m.ServeConn(conn)
	e := &enemy{conn: peer}
	e.say(msgHello, hello{min: 1, max: 1, features: knownFeatures, purpose: purposeMove, id: newID(), host: newID()}.frame())
	if typ, _ := e.hear(); typ != msgHelloReply {
		t.Fatal(typ)
	}
	e.say(msgMachine, machineFrame(Machine{Name: "g", Regions: []Region{{0, 2 * PageSize}}, Config: config(load{cpus: 1})}))
	if typ, b := e.hear(); typ != msgReady {
		t.Fatalf("%v %q", typ, b)
	}
	return e
}

func TestAStateThatNoMachineHasIsRefusedBeforeItFillsTheHost(t *testing.T) {
	w := newWorld(t)
	h := w.newHost("b", nil)
	e := attack(t, h)
	e.say(msgRound, roundStart{round: 0, last: true, pages: 2}.frame())
	e.say(msgPages, (&batch{buf: make([]byte, headerSize+64), runs: []run{{0, 2, methodZero, 0}}}).frame(0))
	e.say(msgRoundEnd, roundSum{zero: 2}.frame())
	if typ, b := e.hear(); typ != msgRoundDone {
		t.Fatalf("%v %q", typ, b)
	}
	said := make(chan string, 1)
	go func() {
		typ, b := e.hear()
		said <- typ.String() + " " + string(b)
	}()
	// All a host keeps for itself is 32 MiB, and it takes four guests at a time.
	const most = 6 << 20
	sent := 0
	for ; sent <= 2*most; sent += stateChunk {
		if e.say(msgState, make([]byte, headerSize+stateChunk)) != nil {
			break
		}
		select {
		case s := <-said:
			if !strings.Contains(s, "Fail") || !strings.Contains(s, "larger than") {
				t.Fatal(s)
			}
			if sent > most {
				t.Errorf("refused after %d bytes", sent)
			}
			e.conn.Close()
			return
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatalf("%d bytes of state were taken", sent)
}

func TestRoundsWithoutEndDoNotFillTheHost(t *testing.T) {
	w := newWorld(t)
	h := w.newHost("b", nil)
	e := attack(t, h)
	const rounds = 3 * maxRounds
	for n := range uint32(rounds) {
		e.say(msgRound, roundStart{round: n, pages: 2}.frame())
		e.say(msgRoundEnd, roundSum{round: n}.frame())
		if typ, b := e.hear(); typ != msgRoundDone {
			t.Fatalf("%v %q", typ, b)
		}
	}
	r := h.m.List()[0]
	if len(r.Rounds) > maxRounds || len(r.Rounds)+r.Forgotten != rounds {
		t.Errorf("%d rounds are kept and %d forgotten of %d", len(r.Rounds), r.Forgotten, rounds)
	}
	e.conn.Close()
}

// The operator has looked at the other host and decides. A target that takes the question and never answers must
// not keep the guest standing for another minute.
func TestTheOperatorsDecisionIsNotHeldUpByASilentTarget(t *testing.T) {
	for _, how := range []Settlement{SettleResume, SettleRelease} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := &pipes{}
			hs := p.add(w, "a", "b")
			asked := make(chan *enemy, 100)
			dials := 0
			hs[0].m.cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
				if dials++; dials == 1 {
					return p.dial(ctx, address)
				}
				near, far := net.Pipe()
				e := &enemy{conn: far}
				asked <- e
				go func() { // it greets, is alive, and never says what became of the guest
					e.hear()
					e.say(msgHelloReply, helloReply{version: 1, host: hs[1].m.host}.frame())
					io.Copy(io.Discard, far)
				}()
				return near, nil
			}
			p.wrap = func(conn net.Conn) net.Conn { return &loseCommit{Conn: conn} }
			hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: 20 * time.Millisecond}, small...)
			g, err := hs[0].m.Start("g", "b", Options{})
			if err != nil {
				t.Fatal(err)
			}
			<-asked
			time.Sleep(time.Millisecond) // the question is under way
			if g.State() != InDoubt {
				t.Fatal(g.State())
			}
			begin := time.Now()
			if err := hs[0].m.Settle("g", how); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begin); d > time.Second {
				t.Errorf("decision %d was carried out after %v", how, d)
			}
			if here := w.where("g") == hs[0]; here != (how == SettleResume) {
				t.Errorf("decision %d: runs here: %v", how, here)
			}
			time.Sleep(2 * simTiming.Step)
			for len(asked) > 0 {
				(<-asked).conn.Close()
			}
			p.end(w)
		})
	}
}

func TestADecisionThatAHostGoingDownDoesNotCarryOutIsAnError(t *testing.T) {
	for _, how := range []Settlement{SettleResume, SettleRelease} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := &pipes{wrap: func(conn net.Conn) net.Conn { return &loseCommit{Conn: conn} }}
			hs := p.add(w, "a", "b")
			dials := 0
			hs[0].m.cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
				if dials++; dials == 1 {
					return p.dial(ctx, address)
				}
				return nil, errors.New("nobody there")
			}
			hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: 20 * time.Millisecond}, small...)
			g, err := hs[0].m.Start("g", "b", Options{})
			if err != nil {
				t.Fatal(err)
			}
			<-g.doubt
			hs[0].m.Close()
			if err := g.Settle(how); err == nil || !strings.Contains(err.Error(), "stays in doubt") {
				t.Errorf("decision %d: %v", how, err)
			}
			time.Sleep(2 * simTiming.Step)
			p.end(w)
		})
	}
}

// loseCommit is a line that breaks as Commit is to be sent.
type loseCommit struct{ net.Conn }

func (l *loseCommit) Write(b []byte) (int, error) {
	if len(b) >= headerSize && msgType(b[5]) == msgCommit {
		l.Close()
		return 0, net.ErrClosed
	}
	return l.Conn.Write(b)
}

// sluggish is a line on which, once the guest stands still, each write takes nearly as long as a write may.
type sluggish struct {
	net.Conn
	g    func() *Migration
	slow time.Duration
}

func (s *sluggish) Write(b []byte) (int, error) {
	if g := s.g(); g != nil && g.State() == Sending {
		for half := range 2 { // what is taken in between is no silence
			time.Sleep(s.slow)
			if half == 0 {
				if n, err := s.Conn.Write(b[:len(b)/2]); err != nil {
					return n, err
				}
			}
		}
		n, err := s.Conn.Write(b[len(b)/2:])
		return len(b)/2 + n, err
	}
	time.Sleep(10 * time.Millisecond) // so that the guest gets to write
	return s.Conn.Write(b)
}

// A target that is never silent for too long, and never done, must not keep the guest standing.
func TestATargetThatDragsItOutIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := &pipes{}
		hs := p.add(w, "a", "b")
		var g *Migration
		p.wrap = func(c net.Conn) net.Conn {
			return &sluggish{c, func() *Migration { return hs[0].m.leavingGuest("g") }, simTiming.Silence * 2 / 5}
		}
		hs[0].addGuest("g", load{cpus: 1, burst: 32, pause: 2 * time.Millisecond}, Region{0, 16 << 20})
		stood := time.Time{}
		g, err := hs[0].m.Start("g", "b", Options{MaxRounds: 1, Notify: func(r Report) {
			if r.State == "Sending" {
				stood = time.Now()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		<-g.Done()
		if d := time.Since(stood); g.State() != Failed || w.where("g") != hs[0] || d > 2*simTiming.Step || !strings.Contains(g.Report().Error, "stood still") {
			t.Errorf("%v after the guest stood still for %v: %v", g.State(), d, g.Report().Error)
		}
		time.Sleep(2 * simTiming.Step)
		p.end(w)
	})
}
