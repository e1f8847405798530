package migrate

import (
	"context"
	"io"
	"math"
	"net"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

// collecting tells whether garbage would be collected.
func collecting() bool {
	m := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(m)
	return m[0].Value.Uint64() != math.MaxUint64
}

// sensitive is a guest, and a target, to which garbage must not be collected while it stands still.
type sensitive struct {
	*flat
	t *testing.T
}

func (s sensitive) Counters() Counters { return Counters{Dirty: 1} }
func (s sensitive) Harvest(dirty Bitmap) int {
	dirty.Set(0)
	return 1
}
func (s sensitive) quiet(what string) {
	if collecting() {
		s.t.Errorf("garbage is collected: %s", what)
	}
}
func (s sensitive) Pause(context.Context) error { s.quiet("as it is paused"); return nil }
func (s sensitive) SaveState(w io.Writer) error {
	s.quiet("as it is saved")
	return s.flat.SaveState(w)
}
func (s sensitive) LoadState(ctx context.Context, r io.Reader) error {
	s.quiet("as it is loaded")
	return s.flat.LoadState(ctx, r)
}
func (s sensitive) Start() error { s.quiet("as it is started"); return nil }

func (s sensitive) Prepare(context.Context, Machine) (Incoming, error) { return s, nil }

func TestNoGarbageIsCollectedWhileAGuestStandsStill(t *testing.T) {
	src, dst := sensitive{newFlat(64, 0), t}, sensitive{newFlat(64, 100), t}
	to := NewManager(Config{Target: dst})
	served := make(chan struct{}, 1)
	from := NewManager(Config{
		Find: func(string) (Guest, error) { return src, nil },
		Dial: func(context.Context, string) (net.Conn, error) {
			x, y := net.Pipe()
			go func() { to.ServeConn(y); served <- struct{}{} }()
			return x, nil
		},
	})
	if _, err := from.Migrate(context.Background(), "flat", "b", Options{}); err != nil {
		t.Fatal(err)
	}
	<-served
	if !collecting() {
		t.Error("afterwards no garbage is collected any more")
	}
	from.Close()
	to.Close()
}

// agree is a target that says what a target must, and does nothing.
func (e *enemy) agree() {
	for {
		typ, b := e.hear()
		frame := append(newFrame().Bytes(), b...)
		switch typ {
		case 0:
			return
		case msgHello:
			e.say(msgHelloReply, helloReply{version: 1, features: knownFeatures, host: newID()}.frame())
		case msgMachine:
			e.say(msgReady, newFrame().Bytes())
		case msgRoundEnd:
			e.say(msgRoundDone, frame)
		case msgStateEnd:
			e.say(msgPrepared, u64Frame(0))
		case msgCommit:
			e.say(msgStarted, u64Frame(0))
		}
	}
}

func TestTheSourceAloneCollectsNoGarbageEither(t *testing.T) {
	from := NewManager(Config{
		Find: func(string) (Guest, error) { return sensitive{newFlat(64, 0), t}, nil },
		Dial: func(context.Context, string) (net.Conn, error) {
			x, y := net.Pipe()
			go (&enemy{conn: y}).agree()
			return x, nil
		},
	})
	if _, err := from.Migrate(context.Background(), "flat", "b", Options{}); err != nil {
		t.Fatal(err)
	}
	from.Close()
	if !collecting() {
		t.Error("afterwards no garbage is collected any more")
	}
}

func TestASourceThatNeverComesToTheEndLetsNoGarbagePileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.newHost("b", nil)
		e := attack(t, h)
		e.say(msgRound, roundStart{round: 0, pages: 2}.frame())
		synctest.Wait()
		if collecting() {
			t.Fatal("the target collects garbage though little is left: this tests nothing")
		}
		go io.Copy(io.Discard, e.conn)
		begin := time.Now()
		for n := uint32(0); !collecting(); n++ {
			e.say(msgRoundEnd, roundSum{round: n}.frame())
			e.say(msgRound, roundStart{round: n + 1, pages: 2}.frame())
			time.Sleep(simTiming.Tick)
			if d := time.Since(begin); d > 2*simTiming.Step {
				t.Fatalf("no garbage collected for %v", d)
			}
		}
		e.conn.Close()
		synctest.Wait()
	})
}

func TestAMoveThatFailsNearItsEndLetsGarbageBeCollected(t *testing.T) {
	w := newWorld(t)
	var p pipes
	hs := p.add(w, "a", "b")
	hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: time.Millisecond}, small...)
	hs[0].breaks["pause"] = io.ErrUnexpectedEOF
	met := false
	_, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Notify: func(r Report) { met = met || r.State == "Stopping" && !collecting() }})
	if err == nil || !met {
		t.Errorf("%v; garbage was not collected: %v", err, met)
	}
	p.end(w)
	if !collecting() {
		t.Error("no garbage is collected any more")
	}
}

func TestATargetCollectsNoGarbageThoughTheFirstRoundOfFewPagesIsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := attack(t, w.newHost("b", nil))
		e.say(msgRound, roundStart{round: 0, last: true, pages: 2}.frame())
		synctest.Wait()
		if collecting() {
			t.Error("garbage is collected")
		}
		e.conn.Close()
		synctest.Wait()
		if !collecting() {
			t.Error("the source has gone, and no garbage is collected any more")
		}
	})
}
