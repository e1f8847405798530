package migrate

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A guest with so many pages that hold no zero and do not compress.
func (h *simHost) addFull(name string, l load, r Region) {
	g := newSimGuest(h, Machine{Name: name, Regions: []Region{r}, Config: config(l)}, l)
	rng := rand.New(rand.NewPCG(3, 4))
	for p := range g.sums {
		for w := range wordsPerPage {
			g.store(p, w, rng.Uint64())
		}
	}
	h.mu.Lock()
	h.guests[name] = g
	h.live += int64(len(g.sums))
	h.mu.Unlock()
	g.run()
}

// All of its pages are written in the time that the line takes for them, but a few words
// in each: what differs is little.
func TestAGuestThatWritesAFewWordsOfManyPagesMovesOverAThinLine(t *testing.T) {
	for _, line := range []struct {
		name string
		wrap func(net.Conn) net.Conn
	}{
		{"shaped", func(c net.Conn) net.Conn { return shaped{c, 10e6 / 8, 20 * time.Microsecond} }},
		{"deep", func(c net.Conn) net.Conn { return newDeep(c, 10e6/8, 256<<10) }},
		{"slow frames", func(c net.Conn) net.Conn { return framed{c, time.Millisecond} }},
	} {
		t.Run(line.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := &pipes{wrap: line.wrap}
				hs := p.add(w, "a", "b")
				hs[0].m.cfg.Timing, hs[1].m.cfg.Timing = DefaultTiming, DefaultTiming
				hs[0].addFull("g", load{cpus: 1, burst: 20, pause: 10 * time.Millisecond}, Region{0, 400 << PageShift})
				const limit = 300 * time.Millisecond
				r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Downtime: limit, NonConvergent: GiveUp, Verify: true})
				if err != nil || w.where("g") != hs[1] {
					t.Fatalf("%v: %+v", err, r)
				}
				if r.Downtime.Total > limit || r.Deltas == 0 {
					t.Errorf("it stood still for %v, foretold %v; of %d pages only changes went", r.Downtime.Total, r.Estimate, r.Deltas)
				}
				t.Logf("rounds %d, %d bytes, total %v, downtime %v, estimate %v", len(r.Rounds), r.Bytes, r.Total, r.Downtime, r.Estimate)
				p.end(w)
			})
		})
	}
}

// framed is a line that takes a moment for each frame, however short.
type framed struct {
	net.Conn
	each time.Duration
}

func (f framed) Write(b []byte) (int, error) {
	const mss = 1460
	time.Sleep(time.Duration((len(b)+mss-1)/mss) * f.each)
	return f.Conn.Write(b)
}

// A source and a target without what lies between: what is in memory after each round
// must be the same on both, whatever copies were dropped, and whatever went without.
func TestPagesOfWhichOnlyChangesGoArriveAsTheyWere(t *testing.T) {
	const pages = 3 * maxCopies
	src, dst := newFlat(pages, 30), newFlat(pages, 100)
	s := &session{features: knownFeatures, machine: src.m, in: dst, have: []Bitmap{NewBitmap(pages)}, raw: []Bitmap{NewBitmap(pages)}, missing: pages}
	c, b := newCopies(), newBatch()
	rng := rand.New(rand.NewPCG(5, 6))
	var deltas, same uint64
	without := 0
	const rounds = 60
	for round := range uint32(rounds) {
		last := round == rounds-1
		todo := NewBitmap(pages)
		n := rng.IntN(maxCopies)
		if round == 0 || last || rng.IntN(15) == 0 {
			n = pages
		}
		for range n {
			p := rng.IntN(pages/8) * (1 + rng.IntN(8))
			if round == 0 {
				p = todo.Count()
			}
			todo.Set(uint64(p))
			page := src.data[p<<PageShift:][:PageSize]
			switch k := rng.IntN(20); {
			case k < 3: // written, and as it was
			case k == 3:
				clear(page)
			case k == 4:
				for i := 0; i < PageSize; i += 8 {
					binary.LittleEndian.PutUint64(page[i:], rng.Uint64())
				}
			default:
				page[rng.IntN(PageSize)]++
			}
		}
		var keep *copies
		if c.begin(round, uint64(todo.Count()), 1e6, last) {
			keep = c
		} else {
			without++
		}
		s.sum = roundSum{round: round}
		send := func() {
			if !b.empty() {
				if err := s.pages(b.frame(round)[headerSize:]); err != nil {
					t.Fatal(err)
				}
			}
			deltas, same = deltas+b.deltas, same+b.same
			b.reset()
			b.copies, b.compress = keep, rng.IntN(2) == 0
		}
		b.reset()
		b.copies = keep
		for p, ok := todo.Next(0); ok; {
			if b.full() {
				send()
			}
			n := uint64(1)
			for n < chunk && p+n < pages && todo.Has(p+n) {
				n++
			}
			b.add(src, p, n)
			p, ok = todo.Next(p + n)
		}
		send()
		if !bytes.Equal(src.data, dst.data) {
			t.Fatalf("round %d: memory differs", round)
		}
		if len(c.held) > maxCopies || len(c.slot) != len(c.held) || len(c.mem)*slab > maxCopies {
			t.Fatalf("round %d: %d copies, %d found, in %d slabs", round, len(c.held), len(c.slot), len(c.mem))
		}
	}
	if deltas == 0 || same == 0 || without < 2 || c.now != rounds-1 {
		t.Errorf("of %d pages only changes went, %d were unchanged, %d rounds without copies", deltas, same, without)
	}
}

func TestChangesThatTakeLongerThanTheyGainAreNotLookedForForAWhile(t *testing.T) {
	c := newCopies()
	c.begin(0, 1, 1e6, false)
	c.keep(0, make([]byte, PageSize))
	c.in, c.out, c.took = 1<<20, 1<<17, time.Millisecond
	if !c.begin(1, 1, 100e6, false) {
		t.Error("8 ms are saved for 1 ms of work, and not taken")
	}
	for i := range uint32(untried) {
		if c.begin(2+i, 1, 10e9, false) {
			t.Fatalf("round %d: 1 ms of work to save a tenth of it", 2+i)
		}
	}
	if !c.begin(2+untried, 1, 10e9, false) || c.has(0) {
		t.Error("not tried again, or with copies of what was sent since then")
	}
}

func TestATargetThatDoesNotKnowChangesGetsNone(t *testing.T) {
	w := newWorld(t)
	h := w.newHost("b", nil)
	old := hello{min: 1, max: 1, features: featVerify | featS2, purpose: purposeMove, id: id{1}, host: id{2}}.frame()
	putHeader(old, msgHello, 0, old[headerSize:])
	all := wholeMove(t).frames()
	feed(t, h, append(old, all[len(old):]...))
	if w.where("g") != nil {
		t.Error("changes were taken from a source that did not offer to send them")
	}
}

func TestChangesOfAPageThatNeverCameAreRefused(t *testing.T) {
	src, dst := newFlat(64, 0), newFlat(64, 100)
	s := &session{features: knownFeatures, machine: src.m, in: dst, have: []Bitmap{NewBitmap(64)}, raw: []Bitmap{NewBitmap(64)}, missing: 64}
	c, b := newCopies(), newBatch()
	c.begin(0, 4, 1e6, false)
	b.copies = c
	for range 2 { // what came the first time is lost
		b.reset()
		b.copies = c
		b.add(src, 8, 4)
		src.data[8<<PageShift]++
		src.data[12<<PageShift-1]++
	}
	err := s.pages(b.frame(0)[headerSize:])
	if b.deltas != 4 || b.data != 2+8+3+8 || err == nil || !strings.Contains(err.Error(), "never came") || s.missing != 64 {
		t.Errorf("%d pages in %d bytes: %v", b.deltas, b.data, err)
	}
}

func TestChangesThatDoNotFitAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"half a number", []byte{0x80}},
		{"no second number", []byte{1}},
		{"nothing changes", []byte{1, 0}},
		{"behind the last word", append([]byte{0x80, 8, 1}, make([]byte, 8)...)}, // 1024 stay
		{"over the end", append([]byte{0xff, 7, 2}, make([]byte, 16)...)},        // 1023 stay
		{"too few words", append([]byte{0, 2}, make([]byte, 15)...)},
		{"a number without end", bytes.Repeat([]byte{0xff}, 12)},
		{"numbers that wrap", append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2}, make([]byte, 16)...)},
	} {
		if err := (run{first: 5, pages: 2, method: methodDelta}).change(make([]byte, 2*PageSize), c.data); err == nil {
			t.Errorf("%s: taken", c.name)
		}
	}
	pages := make([]byte, 2*PageSize)
	last := append([]byte{0xff, 7, 1}, 1, 2, 3, 4, 5, 6, 7, 8)
	if err := (run{first: 5, pages: 2, method: methodDelta}).change(pages, last); err != nil || pages[2*PageSize-1] != 8 {
		t.Errorf("the last word: %v", err)
	}
}

// hot is a guest that writes all its pages faster than any of them is sent.
type hot struct{ *flat }

func (h hot) Written(uint64) bool { return true }
func (h hot) Counters() Counters  { return Counters{Dirty: h.m.Regions[0].pages()} }
func (h hot) Harvest(dirty Bitmap) int {
	n := h.m.Regions[0].pages()
	dirty.SetRange(0, n)
	for p := range n {
		h.data[p<<PageShift]++
	}
	return int(n)
}

// Pages that are always written again before their turn comes wait for the guest to stand
// still. It must not wait for all of each then.
func TestThePagesWrittenMostDoNotGoWholeInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, dst := hot{newFlat(512, 0)}, newFlat(512, 100)
		to := NewManager(Config{Target: dst})
		from := NewManager(Config{
			Find: func(string) (Guest, error) { return src, nil },
			Dial: func(context.Context, string) (net.Conn, error) {
				x, y := net.Pipe()
				go to.ServeConn(y)
				return shaped{x, 1e6, 0}, nil
			},
		})
		r, err := from.Migrate(context.Background(), "flat", "b", Options{Verify: true})
		if err != nil {
			t.Fatal(err)
		}
		if last := r.Rounds[len(r.Rounds)-1]; last.Raw != 512 || last.Bytes > 512*100 || r.Deltas != 512 || r.Packed > 512 {
			t.Errorf("of %d pages only changes went; in the end %+v", r.Deltas, last)
		}
		from.Close()
		to.Close()
	})
}

// moody is a guest that writes the same few pages for a while, in some round others as well, and some more at the last moment.
type moody struct {
	*flat
	few    uint64
	others map[int]Region // what it writes beside them in a round, in pages
	late   Region
	round  int
	wrote  Bitmap // since the last Harvest
}

func newMoody(few uint64) *moody {
	return &moody{flat: newFlat(2048, 0), few: few, wrote: NewBitmap(2048)}
}

func (m *moody) Written(page uint64) bool { return m.wrote.Has(page) }
func (m *moody) Counters() Counters       { return Counters{Dirty: uint64(m.wrote.Count())} }

func (m *moody) Harvest(dirty Bitmap) int {
	for i, w := range m.wrote {
		dirty[i] |= w
	}
	defer clear(m.wrote)
	return m.wrote.Count()
}

func (m *moody) write(r Region) {
	m.wrote.SetRange(r.Start, r.Size)
	for p := r.Start; p < r.Start+r.Size; p++ {
		m.data[p<<PageShift]++
	}
}

func (m *moody) Pause(context.Context) error { m.write(m.late); return nil }

// workful is a line that has the guest work before the end of each round.
type workful struct {
	net.Conn
	m     *moody
	stood *bool
}

func (w workful) Write(b []byte) (int, error) {
	if len(b) >= headerSize && msgType(b[5]) == msgRoundEnd && !*w.stood {
		w.m.write(Region{0, w.m.few})
		w.m.write(w.m.others[w.m.round])
		w.m.round++
	}
	return w.Conn.Write(b)
}

// move moves it over a line of a megabyte a second, so many times.
func (m *moody) move(t *testing.T, limit time.Duration, target Target, times int) (rs []Report) {
	synctest.Test(t, func(t *testing.T) {
		to := NewManager(Config{Target: target})
		stood := false
		from := NewManager(Config{
			Find: func(string) (Guest, error) { return m, nil },
			Dial: func(context.Context, string) (net.Conn, error) {
				x, y := net.Pipe()
				go to.ServeConn(y)
				return workful{shaped{x, 1e6, 0}, m, &stood}, nil
			},
		})
		for range times {
			m.round = 0
			r, err := from.Migrate(context.Background(), "flat", "b", Options{Downtime: limit, Verify: true, Notify: func(r Report) { stood = r.State == "Sending" }})
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range r.Rounds {
				t.Logf("round %d: %+v", i, x)
			}
			t.Logf("it stood still for %v, foretold %v", r.Downtime.Total, r.Estimate)
			rs = append(rs, r)
		}
		from.Close()
		to.Close()
	})
	return rs
}

// What is foretold counts on changes. A few pages too many must not make all of them go whole.
func TestAFewPagesMoreThanThereAreCopiesOfDoNotMakeAllGoWholeInTheEnd(t *testing.T) {
	m := newMoody(maxCopies - 24)
	m.late = Region{maxCopies, 40}
	const limit = 300 * time.Millisecond
	r := m.move(t, limit, newFlat(2048, 100), 1)[0]
	if last := r.Rounds[len(r.Rounds)-1]; last.Raw != maxCopies+16 || last.Bytes > 40*PageSize+maxCopies*100 || r.Downtime.LastPass > limit || r.Estimate > limit {
		t.Errorf("it stood still for %v, foretold %v; in the end %+v", r.Downtime.Total, r.Estimate, last)
	}
}

// Of the few pages only changes have gone, which is next to nothing. The many are not like them.
func TestPagesThatNeverWentBeforeAreNotForetoldAsChanges(t *testing.T) {
	m := newMoody(400)
	const round = 4
	m.others = map[int]Region{round: {1000, 600}}
	const limit = 100 * time.Millisecond
	r := m.move(t, limit, newFlat(2048, 100), 1)[0]
	if r.Downtime.LastPass > limit || len(r.Rounds) < round+2 || r.Rounds[round+1].Last {
		t.Errorf("it stood still for %v, foretold %v", r.Downtime.Total, r.Estimate)
	}
}

// slowToLoad is a target that takes a while for the state.
type slowToLoad struct {
	*flat
	takes []time.Duration // move by move
}

func (s *slowToLoad) Prepare(context.Context, Machine) (Incoming, error) { return s, nil }

func (s *slowToLoad) LoadState(ctx context.Context, r io.Reader) error {
	time.Sleep(s.takes[0])
	s.takes = s.takes[1:]
	return s.flat.LoadState(ctx, r)
}

// ReadPages takes its time with pages that the guest does not write: for the sums of all, while the state waits.
func (s *slowToLoad) ReadPages(first uint64, dst []byte) {
	if first >= 1000 {
		time.Sleep(time.Millisecond)
	}
	s.flat.ReadPages(first, dst)
}

// What the state took is known from the guests before, and room is left for it. But one that was held up does not
// count, and what is more than allowed keeps nobody from moving.
func TestWhatTheStateTookBeforeIsForetold(t *testing.T) {
	const limit, usual, heldUp = 300 * time.Millisecond, 120 * time.Millisecond, 5 * time.Second
	target := &slowToLoad{newFlat(2048, 100), []time.Duration{usual, usual, heldUp, usual, heldUp, heldUp, usual}}
	rs := newMoody(100).move(t, limit, target, len(target.takes))
	for i, r := range rs {
		known := []time.Duration{0, usual, usual, usual, usual, usual, heldUp}[i]
		if r.Estimate < known || r.Estimate > known+limit {
			t.Errorf("move %d: foretold %v", i, r.Estimate)
		}
		if rounds := len(rs[0].Rounds); i > 0 && (len(r.Rounds) <= rounds || len(r.Rounds) > 2*rounds) {
			t.Errorf("move %d: %d rounds, without knowing %d", i, len(r.Rounds), rounds)
		}
	}
}
