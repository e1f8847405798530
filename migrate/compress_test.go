package migrate

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// movedOver moves 16 MiB over a line.
func movedOver(t *testing.T, wrap func(net.Conn) net.Conn) (r Report) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := &pipes{wrap: wrap}
		hs := p.add(w, "a", "b")
		hs[0].m.cfg.Timing, hs[1].m.cfg.Timing = DefaultTiming, DefaultTiming
		hs[0].addGuest("g", load{cpus: 1, burst: 1, pause: time.Second}, Region{0, 16 << 20})
		var err error
		if r, err = hs[0].m.Migrate(context.Background(), "g", "b", Options{Verify: true}); err != nil || w.where("g") != hs[1] {
			t.Errorf("%v: %+v", err, r)
		}
		p.end(w)
	})
	return r
}

func TestASlowLineHasPagesCompressed(t *testing.T) {
	r := movedOver(t, func(c net.Conn) net.Conn { return shaped{c, 1e6, 0} })
	if data := r.Pages - r.Zero; r.Packed < data/2 || r.Bytes > data*PageSize/2 {
		t.Errorf("of %d pages with data %d were compressed, %d bytes sent", data, r.Packed, r.Bytes)
	}
}

func TestATargetThatDoesNotKnowS2GetsNone(t *testing.T) {
	w := newWorld(t)
	h := w.newHost("b", nil)
	s := wholeMove(t)
	// The same move, but the source has not offered it.
	old := hello{min: 1, max: 1, features: featVerify, purpose: purposeMove, id: id{1}, host: id{2}}.frame()
	putHeader(old, msgHello, 0, old[headerSize:])
	all := s.frames()
	feed(t, h, append(old, all[len(old):]...))
	if w.where("g") != nil {
		t.Error("compressed pages were taken from a source that did not offer to send them")
	}
}

// slowGuest takes its time to be read.
type slowGuest struct{ *flat }

func (g slowGuest) ReadPages(first uint64, dst []byte) {
	time.Sleep(time.Millisecond)
	g.flat.ReadPages(first, dst)
}

func TestALineThatWaitsForPagesGetsThemAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages = 2048
		src, dst := slowGuest{newFlat(pages, 0)}, newFlat(pages, 100)
		to := NewManager(Config{Target: dst})
		from := NewManager(Config{
			Find: func(string) (Guest, error) { return src, nil },
			Dial: func(context.Context, string) (net.Conn, error) {
				x, y := net.Pipe()
				go to.ServeConn(y)
				return x, nil
			},
		})
		r, err := from.Migrate(context.Background(), "flat", "b", Options{})
		if err != nil || r.Pages < pages || r.Packed != 0 {
			t.Errorf("%v; of %d pages %d were compressed", err, r.Pages, r.Packed)
		}
		from.Close()
		to.Close()
	})
}

// The image a kernel was unpacked from is still in its guest's memory, below all else,
// and is not to be compressed again.
func TestPagesThatDoNotCompressDoNotDecideForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages, random = 4096, 1024
		src, dst := newFlat(pages, 0), newFlat(pages, 100)
		rand.NewChaCha8([32]byte{}).Read(src.data[:random*PageSize])
		to := NewManager(Config{Target: dst})
		from := NewManager(Config{
			Find: func(string) (Guest, error) { return src, nil },
			Dial: func(context.Context, string) (net.Conn, error) {
				x, y := net.Pipe()
				go to.ServeConn(y)
				return shaped{x, 1e6, 0}, nil
			},
		})
		r, err := from.Migrate(context.Background(), "flat", "b", Options{})
		if err != nil || r.Packed < pages-random-depth*batchPages || r.Packed > pages-random {
			t.Errorf("%v; of %d pages %d were compressed, where %d can be", err, r.Pages, r.Packed, pages-random)
		}
		from.Close()
		to.Close()
	})
}
