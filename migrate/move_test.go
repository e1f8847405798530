package migrate

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestAGuestMovesTenTimesBackAndForthAndOnToAThird(t *testing.T) {
	n := runtime.NumGoroutine()
	w := newWorld(t)
	var p pipes
	hs := p.add(w, "a", "b", "c")
	hs[0].addGuest("g", load{cpus: 2, burst: 8, pause: 100 * time.Microsecond}, small...)
	at := 0
	for i := range 12 {
		to := 1 - at
		if i >= 10 {
			to = at + 1
		}
		if i == 10 {
			at, to = 0, 1
		}
		r, err := hs[at].m.Migrate(context.Background(), "g", hs[to].name, Options{Verify: true})
		if err != nil {
			t.Fatalf("move %d, %s to %s: %v", i, hs[at].name, hs[to].name, err)
		}
		if w.where("g") != hs[to] || r.State != "Done" || len(r.Rounds) < 2 || r.Downtime.Total <= 0 {
			t.Fatalf("move %d: %+v", i, r)
		}
		if hs[at].pages() != 0 || hs[to].pages() != 64 {
			t.Fatalf("move %d: %d pages here, %d there", i, hs[at].pages(), hs[to].pages())
		}
		at = to
	}
	before := hs[2].guest("g").writes.Load()
	for hs[2].guest("g").writes.Load() == before {
		time.Sleep(time.Millisecond)
	}
	p.end(w)
	checkGoroutines(t, n)
}

func TestTCPCarriesABusyGuest(t *testing.T) {
	n := runtime.NumGoroutine()
	w := newWorld(t)
	dial := func(ctx context.Context, a string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", a)
	}
	a, b := w.newHost("a", dial), w.newHost("b", dial)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- b.m.Serve(ln) }()
	a.addGuest("g", load{cpus: 2, burst: 64}, Region{0, 16 << 20}, Region{1 << 32, 8 << 20})
	r, err := a.m.Migrate(context.Background(), "g", ln.Addr().String(), Options{Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	if w.where("g") != b {
		t.Fatal("not there")
	}
	t.Logf("%+v", r)
	a.m.Close()
	b.m.Close()
	ln.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	g := b.guest("g")
	g.halt()
	if g.bad.Load() {
		t.Error("memory changed")
	}
	checkGoroutines(t, n)
}

// A test of the tests: a host whose Harvest forgets to flush translation caches
// must be found out by the guest's sums, or they would prove nothing.
func TestAMissingFlushIsFoundOut(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		var p pipes
		hs := p.add(w, "a", "b")
		hs[0].lazy = true
		source := hs[0].addGuest("g", load{cpus: 2, burst: 64}, small...)
		p.wrap = func(c net.Conn) net.Conn { return &busy{c, source} }
		_, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{MaxRounds: 5, Downtime: 1})
		g := hs[1].guest("g")
		if err != nil || g == nil {
			t.Fatal(err)
		}
		bad := g.bad.Swap(false)
		g.halt()
		g.bad.Store(false)
		p.end(w)
		if bad {
			return
		}
	}
	t.Error("50 moves without flushing, and no guest saw a difference")
}

// busy is a line on which the guest writes between any two messages, even where one processor has to do all.
type busy struct {
	net.Conn
	g *simGuest
}

func (b *busy) Write(p []byte) (int, error) {
	for enough := b.g.writes.Load() + 200; b.g.writes.Load() < enough && !b.g.stop.Load(); {
		runtime.Gosched()
	}
	return b.Conn.Write(p)
}

func TestFailuresOfTheMachineLeaveTheGuestAtTheSource(t *testing.T) {
	for _, c := range []struct {
		host int
		what string
	}{{1, "prepare"}, {0, "pause"}, {0, "save"}, {1, "load"}, {1, "start"}} {
		t.Run(c.what, func(t *testing.T) {
			n := runtime.NumGoroutine()
			w := newWorld(t)
			var p pipes
			hs := p.add(w, "a", "b")
			hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: time.Millisecond}, small...)
			hs[c.host].breaks[c.what] = errors.New("broken on purpose")
			r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{})
			if err == nil || !strings.Contains(err.Error(), "broken on purpose") || r.State != "Failed" {
				t.Fatalf("%v, %+v", err, r)
			}
			// What failed at the source the target has yet to hear of.
			for try := 0; c.host == 0 && hs[1].pages() != 0 && try < 5000; try++ {
				time.Sleep(time.Millisecond)
			}
			if w.where("g") != hs[0] || hs[1].pages() != 0 {
				t.Fatalf("it runs on %v; %d pages on b", w.where("g"), hs[1].pages())
			}
			// At once again.
			hs[c.host].mu.Lock()
			delete(hs[c.host].breaks, c.what)
			hs[c.host].mu.Unlock()
			if _, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{}); err != nil {
				t.Fatalf("again: %v", err)
			}
			if w.where("g") != hs[1] || hs[0].pages() != 0 {
				t.Fatal("not there")
			}
			p.end(w)
			checkGoroutines(t, n)
		})
	}
}

func TestCancelWorksInEveryStateUpToTheCommit(t *testing.T) {
	for s := Connecting; s <= Committing; s++ {
		t.Run(s.String(), func(t *testing.T) {
			n := runtime.NumGoroutine()
			w := newWorld(t)
			var p pipes
			hs := p.add(w, "a", "b")
			hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: time.Millisecond}, small...)
			var told error
			o := Options{Notify: func(r Report) {
				if r.State == s.String() {
					told = hs[0].m.Cancel("g")
				}
			}}
			r, err := hs[0].m.Migrate(context.Background(), "g", "b", o)
			if s < Committing {
				if told != nil || !errors.Is(err, ErrCancelled) || r.State != "Cancelled" || w.where("g") != hs[0] {
					t.Fatalf("cancel: %v; migrate: %v, %+v", told, err, r)
				}
			} else if told != ErrTooLate || err != nil || w.where("g") != hs[1] {
				t.Fatalf("cancel: %v; migrate: %v, %+v", told, err, r)
			}
			p.end(w)
			if got := hs[0].pages() + hs[1].pages(); got != 64 {
				t.Errorf("%d pages in all", got)
			}
			checkGoroutines(t, n)
		})
	}
}

func TestAContextCancels(t *testing.T) {
	w := newWorld(t)
	var p pipes
	hs := p.add(w, "a", "b")
	hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: time.Millisecond}, small...)
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{Notify: func(r Report) {
		if r.State == "Copying" {
			cancel()
			for hs[0].m.leavingGuest("g").ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
	}}
	if _, err := hs[0].m.Migrate(ctx, "g", "b", o); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) {
		t.Fatal(err)
	}
	if w.where("g") != hs[0] {
		t.Fatal("gone")
	}
	p.end(w)
}

func TestAGuestThatNeverConvergesIsGivenUpOrStoppedAnyway(t *testing.T) {
	for policy, where := range map[Policy]string{GiveUp: "a", StopAnyway: "b"} {
		w := newWorld(t)
		var p pipes
		hs := p.add(w, "a", "b")
		g := hs[0].addGuest("g", load{cpus: 2, burst: 64}, small...)
		// No line meets a nanosecond.
		r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Downtime: 1, NonConvergent: policy})
		if got := w.where("g"); got == nil || got.name != where || (err == nil) != (where == "b") {
			t.Fatalf("policy %d: on %v, %v", policy, got, err)
		}
		if len(r.Rounds) > defaultRounds+1 {
			t.Errorf("%d rounds", len(r.Rounds))
		}
		if where == "a" {
			before := g.writes.Load()
			for g.writes.Load() == before {
				time.Sleep(time.Millisecond)
			}
		}
		p.end(w)
	}
}

func TestATargetRefusesWhatItCannotTake(t *testing.T) {
	w := newWorld(t)
	var p pipes
	hs := p.add(w, "a", "b")
	slow := load{cpus: 1, burst: 1, pause: time.Millisecond}
	hs[0].addGuest("g", slow, small...)
	check := func(host *simHost, want string) {
		t.Helper()
		before := hs[1].pages()
		_, err := host.m.Migrate(context.Background(), "g", "b", Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
		if w.where("g") != host || hs[1].pages() != before {
			t.Error("something has moved")
		}
	}
	hs[1].limit = 63
	check(hs[0], "no memory for 64 pages")
	hs[1].limit = 1 << 20
	hs[1].m.cfg.MaxMemory = 10 * PageSize
	check(hs[0], "limit here")
	hs[1].m.cfg.MaxMemory = 1 << 40
	p.hosts["a"] = hs[1] // so that b dials itself
	hs[1].addGuest("h", slow, small...)
	if _, err := hs[1].m.Migrate(context.Background(), "h", "b", Options{}); err == nil || !strings.Contains(err.Error(), "same host") {
		t.Error(err)
	}
	p.end(w)
}

// A guest that arrives can be refused while it does, by its name or by the migration's ID.
func TestTheTargetsOperatorCancels(t *testing.T) {
	for _, byID := range []bool{false, true} {
		n := runtime.NumGoroutine()
		w := newWorld(t)
		var p pipes
		hs := p.add(w, "a", "b")
		hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: time.Millisecond}, small...)
		told := ErrNoMigration
		o := Options{Notify: func(r Report) {
			if r.State == "Copying" {
				name := "g"
				if byID {
					name = r.ID
				}
				told = hs[1].m.Cancel(name)
			}
		}}
		r, err := hs[0].m.Migrate(context.Background(), "g", "b", o)
		var peer *PeerError
		if told != nil || !errors.As(err, &peer) || peer.code != failCancelled || r.State != "Failed" || w.where("g") != hs[0] {
			t.Fatalf("cancel: %v; migrate: %v, %+v", told, err, r)
		}
		if _, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{}); err != nil || w.where("g") != hs[1] {
			t.Errorf("again: %v", err)
		}
		p.end(w)
		checkGoroutines(t, n)
	}
}

// Each guest that leaves needs memory that the host has set aside for itself. An operator who empties a host by one
// command for each machine must not take all of it.
func TestAHostSendsSoManyGuestsAtOnceAndNoMore(t *testing.T) {
	n := runtime.NumGoroutine()
	w := newWorld(t)
	var p pipes
	hs := p.add(w, "a", "b", "c")
	names := []string{"g0", "g1", "g2", "g3", "g4"}
	for _, g := range names {
		hs[0].addGuest(g, load{cpus: 1, burst: 1, pause: time.Millisecond}, small...)
	}
	on, held := make(chan struct{}), make(chan struct{}, len(names))
	o := Options{Notify: func(r Report) {
		if r.State == "Copying" && len(r.Rounds) == 0 {
			held <- struct{}{}
			<-on
		}
	}}
	var all []*Migration
	for i, g := range names[:4] {
		m, err := hs[0].m.Start(g, []string{"b", "c"}[i%2], o)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
		<-held
	}
	if _, err := hs[0].m.Start("g4", "b", Options{}); err == nil || !strings.Contains(err.Error(), "4 guests are leaving this host already") {
		t.Errorf("a fifth: %v", err)
	}
	close(on)
	for _, m := range all {
		if _, err := m.Wait(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if _, err := hs[0].m.Migrate(context.Background(), "g4", "b", Options{}); err != nil || w.where("g4") != hs[1] {
		t.Errorf("the fifth, then: %v", err)
	}
	p.end(w)
	checkGoroutines(t, n)
}
