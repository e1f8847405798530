package migrate

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

func TestZeroedBytesAreNoFrame(t *testing.T) {
	var b [headerSize]byte
	if _, err := parseHeader(&b); err == nil {
		t.Error("a zeroed header is accepted")
	}
	putHeader(b[:], 0, 0, nil)
	if _, err := parseHeader(&b); err == nil || !strings.Contains(err.Error(), "message type 0") {
		t.Errorf("type zero: %v", err)
	}
}

func TestEveryFlippedBitOfAFrameIsRefused(t *testing.T) {
	good := hello{min: 1, max: 1, purpose: purposeMove, id: id{1}, host: id{2}}.frame()
	putHeader(good, msgHello, 0, good[headerSize:])
	try := func(b []byte) error {
		near, far := net.Pipe()
		l := newLink(context.Background(), far, simTiming, nil)
		go func() { near.Write(b); near.Close() }()
		_, p, err := l.recv(func() place { return greeting })
		if err == nil {
			_, err = parseHello(p)
		}
		l.close(net.ErrClosed)
		return err
	}
	if err := try(good); err != nil {
		t.Fatal(err)
	}
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		var p *ProtocolError
		if err := try(b); !errors.As(err, &p) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
	}
}

func TestLengthsAreBelievedOnlyUpToEachMessagesLimit(t *testing.T) {
	for typ := msgType(1); typ < numMsgs; typ++ {
		var b [headerSize]byte
		for _, over := range []uint32{0, 1} {
			putHeader(b[:], typ, 0, make([]byte, maxLength[typ]+over))
			if _, err := parseHeader(&b); (err == nil) != (over == 0) {
				t.Errorf("%v with %d bytes over its limit: %v", typ, over, err)
			}
		}
	}
}

func TestABatchCarriesPagesOfAllKindsInAnyOrder(t *testing.T) {
	w := newWorld(t)
	h := w.newHost("a", nil)
	rng := rand.New(rand.NewPCG(1, 2))
	b := newBatch()
	for range 200 {
		g := newSimGuest(h, Machine{Name: "g", Regions: []Region{{0, 600 << PageShift}}}, load{cpus: 1})
		for p := range g.sums {
			if rng.IntN(2) == 0 {
				g.store(p, rng.IntN(wordsPerPage), rng.Uint64())
			}
			if rng.IntN(8) == 0 { // what can not be compressed
				for i := range wordsPerPage {
					g.store(p, i, rng.Uint64())
				}
			}
		}
		got := make([]byte, len(g.mem)*8)
		want := make([]byte, len(g.mem)*8)
		b.reset()
		var raw, zero, packed uint64
		for page := uint64(0); page < 600; {
			n := min(b.room(), 1+rng.Uint64N(chunk), 600-page)
			if n == 0 {
				break
			}
			b.compress = rng.IntN(3) > 0
			b.add(g, page, n)
			g.ReadPages(page, want[page*PageSize:(page+n)*PageSize])
			page += n + rng.Uint64N(3)
		}
		p, err := parsePages(b.frame(9)[headerSize:])
		if err != nil || p.round != 9 {
			t.Fatal(p.round, err)
		}
		for {
			r, data, ok, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			switch r.method {
			case methodZero:
				zero += uint64(r.pages)
			case methodS2:
				packed += uint64(r.pages)
				if data, err = r.unpack(make([]byte, chunk*PageSize), data); err != nil {
					t.Fatal(err)
				}
				fallthrough
			case methodRaw:
				raw += uint64(r.pages)
			}
			copy(got[r.first*PageSize:], data)
		}
		if !bytes.Equal(got, want) || raw != b.raw || zero != b.zero || packed != b.packed || packed == 0 || packed == raw {
			t.Fatalf("differs; %d, %d and %d pages, not %d, %d and %d", raw, zero, packed, b.raw, b.zero, b.packed)
		}
	}
}

func TestABadTableOfRunsIsRefused(t *testing.T) {
	w := newWorld(t)
	g := newSimGuest(w.newHost("a", nil), Machine{Name: "g", Regions: small}, load{cpus: 1})
	g.store(1, 0, 1)
	b := newBatch()
	b.add(g, 0, 4) // zero, raw, zero
	good := bytes.Clone(b.frame(0)[headerSize:])
	table := PageSize
	for _, c := range []struct {
		at   int
		to   byte
		want string
	}{
		{table + 8, 0, "empty run"},
		{table + 10, 0, "encoding 0"},
		{table + 10, byte(numMethods), "does not exist"},
		{table + 11, 1, "reserved"},
		{table + 12, 1, "bytes for"},
		{table + runSize + 8, 2, "bytes for"},
		{table + 3*runSize + 4, 0, "table of 0 runs"},
		{table + 3*runSize + 6, 1, "table of"},
		{table + 3*runSize + 4, 2, "belong to no run"},
	} {
		bad := bytes.Clone(good)
		bad[c.at] = c.to
		p, err := parsePages(bad)
		for ok := true; ok && err == nil; {
			_, _, ok, err = p.next()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("byte %#x set to %d: %v, not %q", c.at, c.to, err, c.want)
		}
	}
}

func TestABadCompressedBlockIsRefused(t *testing.T) {
	w := newWorld(t)
	g := newSimGuest(w.newHost("a", nil), Machine{Name: "g", Regions: small}, load{cpus: 1})
	g.store(0, 0, 1)
	g.store(1, 0, 2)
	b := newBatch()
	b.compress = true
	b.add(g, 0, 2)
	good := bytes.Clone(b.frame(0)[headerSize:])
	if b.packed != 2 || len(b.runs) != 1 {
		t.Fatalf("%d pages compressed, in %d runs", b.packed, len(b.runs))
	}
	table := b.data
	for _, c := range []struct {
		at   int
		to   byte
		want string
	}{
		{table + 8, 1, "not 4096"},              // fewer pages than the block has
		{table + 8, 3, "not 12288"},             // more
		{table + 8, chunk + 1, "17 compressed"}, // more than a block may have
		{table + 9, 255, "compressed"},          // far more
		{table + 12, 0, "0 bytes for 2"},        // none
		{table + 13, 0x20, "for 2 compressed"},  // more than the pages themselves
		{0, 0, "block of 0 bytes"},              // another length in the block
		{2, 0xff, "block at page 0x0"},          // damaged inside
	} {
		bad := bytes.Clone(good)
		bad[c.at] = c.to
		p, err := parsePages(bad)
		var r run
		var data []byte
		for ok := true; ok && err == nil; {
			if r, data, ok, err = p.next(); ok {
				_, err = r.unpack(make([]byte, chunk*PageSize), data)
			}
		}
		if err == nil {
			t.Errorf("byte %#x set to %d: taken", c.at, c.to)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("byte %#x set to %d: %v, not %q", c.at, c.to, err, c.want)
		}
	}
}

func TestRegionsThatMakeNoSenseAreRefused(t *testing.T) {
	const m = 1 << 20
	for want, rs := range map[string][]Region{
		"0 memory regions": {},
		"whole pages":      {{0, 4095}},
		"is not made":      {{0, 0}},
		"overlaps":         {{0, 2 * m}, {m, m}},
		"out of order":     {{4 * m, m}, {0, m}},
		"beyond":           {{1 << 63, 1 << 63}},
		"ends beyond":      {{maxAddress, m}},
		"limit here":       {{0, 65 * m}},
		"holes":            {{9 << 30, m}},
		"65 memory":        make([]Region, 65),
	} {
		if err := CheckRegions(rs, 64*m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, not %q", rs, err, want)
		}
	}
	if err := CheckRegions([]Region{{0, 32 * m}, {4 << 30, 32 * m}}, 64*m); err != nil {
		t.Error(err)
	}
}

func TestBitmapRanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		n := 1 + rng.Uint64N(300)
		b, want := NewBitmap(n), make([]bool, n)
		for range 3 {
			first := rng.Uint64N(n)
			k := rng.Uint64N(n - first + 1)
			b.SetRange(first, k)
			for i := range k {
				want[first+i] = true
			}
		}
		next, ok := b.Next(0)
		count := 0
		for i := range n {
			if b.Has(i) != want[i] {
				t.Fatalf("bit %d", i)
			}
			if want[i] {
				count++
				if !ok || next != i {
					t.Fatalf("Next is %d, not %d", next, i)
				}
				next, ok = b.Next(i + 1)
			}
		}
		if ok || b.Count() != count {
			t.Fatal("count")
		}
		first := rng.Uint64N(n)
		k := rng.Uint64N(n - first + 1)
		c := uint64(0)
		for i := range k {
			if want[first+i] {
				c++
			}
		}
		if got := b.countRange(first, k); got != c {
			t.Fatalf("%d set in %d+%d, not %d", got, first, k, c)
		}
	}
}

// Both machines' tables are complete, and a step outside them is loud.
func TestImpossibleTransitionsPanic(t *testing.T) {
	loud := func(f func()) (ok bool) {
		defer func() { ok = recover() != nil }()
		f()
		return
	}
	for from := range numStates {
		for to := range numStates {
			legal := false
			for _, n := range stateNext[from] {
				legal = legal || n == to
			}
			g := &Migration{state: from, rep: &liveReport{}, ctx: context.Background()}
			if loud(func() { g.enter(to) }) == legal {
				t.Errorf("source from %v to %v: legal %v", from, to, legal)
			}
		}
	}
	for from := range numTargetStates {
		for to := range numTargetStates {
			legal := to == aborted && from != started
			for _, n := range targetNext[from] {
				legal = legal || n == to
			}
			s := &session{state: from}
			if loud(func() { s.enter(to) }) == legal {
				t.Errorf("target from %v to %v: legal %v", from, to, legal)
			}
		}
	}
	if !loud(func() { r := newRecords(); r.settle(&record{}, verdictStarted) }) {
		t.Error("an open record can be settled")
	}
}
