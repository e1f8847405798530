package migrate

import (
	"context"
	"testing"
)

// step1 lets processor 0 write n times, here and now.
func (g *simGuest) step1(n int) {
	for range n {
		g.step(0, g.cpus[0])
	}
}

// A sequential writer takes 1/N of the faults.
func TestGroupsCutASequentialWritersFaultsByTheirSize(t *testing.T) {
	const pages = 4096
	for group := 1; group <= MaxGroup; group *= 4 {
		w := newWorld(t)
		g := newSimGuest(w.newHost("a", nil), Machine{Regions: []Region{{0, pages << PageShift}}}, load{cpus: 1, seq: true})
		g.BeginTracking(group)
		g.step1(pages)
		c := g.Counters()
		if want := uint64(pages / group); c.Faults != want || c.Dirty != pages {
			t.Errorf("group %d: %d faults for %d pages, not %d", group, c.Faults, c.Dirty, want)
		}
	}
}

// And a writer at random costs at most N-1 pages more than it wrote, a fault.
func TestAFaultOpensAtMostItsGroup(t *testing.T) {
	for group := 1; group <= MaxGroup; group *= 2 {
		w := newWorld(t)
		// Regions that do not end on a group's boundary.
		g := newSimGuest(w.newHost("a", nil), Machine{Regions: []Region{{0, 1000 << PageShift}, {3001 << PageShift, 1501 << PageShift}}}, load{cpus: 1})
		g.BeginTracking(group)
		g.step1(500)
		c := g.Counters()
		b := NewBitmap(3001 + 1501)
		if n := g.Harvest(b); uint64(n) != c.Dirty || b.Count() != n {
			t.Errorf("group %d: harvested %d, counted %d", group, n, c.Dirty)
		}
		if c.Opened != c.Dirty || c.Opened > c.Faults*uint64(group) {
			t.Errorf("group %d: %d faults opened %d pages", group, c.Faults, c.Opened)
		}
	}
}

func TestTheGroupShrinksToOnePageAsTheRestShrinks(t *testing.T) {
	last := MaxGroup
	for left := uint64(1 << 24); left > 0; left /= 2 {
		n := groupSize(MaxGroup, 0, left)
		if n > last || n < 1 || n&(n-1) != 0 {
			t.Errorf("%d pages left: group %d after %d", left, n, last)
		}
		if uint64(n-1)*pagesPerGroupPage > left {
			t.Errorf("%d pages left: a fault may add %d", left, n-1)
		}
		last = n
	}
	if last != 1 {
		t.Errorf("in the end %d", last)
	}
	for round, limit := uint32(0), 32; round < 40; round, limit = round+1, limit/2 {
		if n := groupSize(32, round, 1<<30); n != max(limit, 1) {
			t.Errorf("round %d: group %d", round, n)
		}
	}
}

func TestAMoveSetsTheGroupAndReportsIt(t *testing.T) {
	w := newWorld(t)
	var p pipes
	hs := p.add(w, "a", "b")
	hs[0].addGuest("g", load{cpus: 1, burst: 16}, Region{0, 32 << 20})
	r, err := hs[0].m.Migrate(context.Background(), "g", "b", Options{Downtime: 1, MaxRounds: 4})
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range r.Rounds {
		if limit := max(DefaultMaxGroup>>i, 1); !x.Last && (x.Group < 1 || x.Group > limit) {
			t.Errorf("round %d: group %d, limit %d", i, x.Group, limit)
		}
	}
	p.end(w)
}
