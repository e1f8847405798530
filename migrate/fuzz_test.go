package migrate

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A script is messages of a source: each a type, a u32 length and a payload.
// Fuzzing scripts instead of frames keeps sequence numbers and checksums right,
// so that it gets past them.
type script []byte

func (s *script) add(t msgType, frame []byte) {
	p := frame[headerSize:]
	*s = append(*s, byte(t))
	*s = binary.LittleEndian.AppendUint32(*s, uint32(len(p)))
	*s = append(*s, p...)
}

func (s script) frames() (out []byte) {
	for seq := uint32(0); len(s) >= 5; seq++ {
		n := min(int(binary.LittleEndian.Uint32(s[1:])), len(s)-5)
		f := append(make([]byte, headerSize), s[5:5+n]...)
		putHeader(f, msgType(s[0]), seq, f[headerSize:])
		out = append(out, f...)
		s = s[5+n:]
	}
	return out
}

// wholeMove is what a source sends.
func wholeMove(tb testing.TB) (s script) {
	h := newWorld(tb).newHost("a", nil)
	g := newSimGuest(h, Machine{Name: "g", Regions: small, Config: config(load{cpus: 1, pause: time.Second})}, load{cpus: 1})
	for p := range g.sums {
		if p%5 < 2 {
			g.store(p, p, uint64(p)+1)
		}
	}
	i := id{1}
	s.add(msgHello, hello{min: 1, max: 1, features: knownFeatures, purpose: purposeMove, id: i, host: id{2}}.frame())
	s.add(msgMachine, machineFrame(g.m))
	c := newCopies()
	for round := range uint32(2) {
		c.begin(round, 64, 1e6, false)
		s.add(msgRound, roundStart{round, round == 1, 64}.frame())
		b := newBatch()
		b.copies = c
		g.store(1, 3, uint64(round)) // of the second time only this
		b.add(g, 0, 16)
		if round == 0 {
			b.compress = true
			b.add(g, 16, 16)
			b.compress = false
			b.add(g, 32, 8)
			b.add(g, 256, 24)
		}
		s.add(msgPages, b.frame(round))
		s.add(msgRoundEnd, roundSum{round, b.raw, b.zero}.frame())
	}
	var blob bytes.Buffer
	if err := g.SaveState(&blob); err != nil {
		tb.Fatal(err)
	}
	s.add(msgState, append(make([]byte, headerSize), blob.Bytes()...))
	s.add(msgStateEnd, stateEndFrame(uint64(blob.Len()), checksum(blob.Bytes())))
	s.add(msgCommit, commitFrame(i))
	return s
}

// feed gives a target bytes as if from a source that then goes away.
func feed(tb testing.TB, h *simHost, b []byte) {
	near, far := net.Pipe()
	var all sync.WaitGroup
	all.Add(1)
	go func() { defer all.Done(); io.Copy(io.Discard, near) }()
	all.Add(1)
	go func() { defer all.Done(); near.Write(b); near.Close() }()
	h.m.ServeConn(far)
	near.Close()
	all.Wait()
}

func FuzzServer(f *testing.F) {
	whole := wholeMove(f)
	f.Add([]byte(whole))
	for i := 0; i < len(whole); i += 5 + int(binary.LittleEndian.Uint32(whole[i+1:])) {
		f.Add([]byte(whole[:i]))
	}
	var query script
	query.add(msgHello, hello{min: 1, max: 1, purpose: purposeQuery, id: id{1}, host: id{2}}.frame())
	f.Add([]byte(query))
	f.Fuzz(func(t *testing.T, s []byte) {
		w := newWorld(t)
		h := w.newHost("b", nil)
		h.limit = 4096
		feed(t, h, script(s).frames())
		started := len(w.on) > 0
		for _, g := range h.guests {
			if !g.running {
				t.Errorf("guest %q is left behind", g.m.Name)
			} else {
				g.halt()
			}
		}
		if !started && h.live != 0 {
			t.Errorf("%d pages are left in use", h.live)
		}
		if len(h.m.records.byName) != 0 {
			t.Error("a name is left taken")
		}
		h.m.Close()
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(wholeMove(f).frames())
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize {
			h := *(*[headerSize]byte)(b)
			if hd, err := parseHeader(&h); err == nil && hd.length > maxLength[hd.typ] {
				t.Error("too long")
			}
			b = b[headerSize:]
		}
		parseHello(b)
		parseHelloReply(b)
		parseMachine(b, 1<<30)
		parseRound(b)
		parseRoundSum(b)
		parseStateEnd(b)
		parseCommit(b)
		parseOutcome(b)
		parseFail(b)
		if p, err := parsePages(b); err == nil {
			for ok := true; ok && err == nil; {
				var r run
				var data []byte
				switch r, data, ok, err = p.next(); {
				case ok && r.method == methodS2:
					r.unpack(make([]byte, chunk*PageSize), data)
				case ok && r.method == methodDelta:
					r.change(make([]byte, int(r.pages)*PageSize), data)
				}
			}
		}
	})
}

func TestAWholeMoveByHandStartsTheGuest(t *testing.T) {
	w := newWorld(t)
	h := w.newHost("b", nil)
	feed(t, h, wholeMove(t).frames())
	g := h.guest("g")
	if w.where("g") != h {
		t.Fatal(h.m.List())
	}
	g.halt()
	if g.bad.Load() {
		t.Error("memory differs")
	}
	h.m.Close()
}

func TestEveryTruncationOfAMoveIsAborted(t *testing.T) {
	b := wholeMove(t).frames()
	for n := 0; n < len(b); n += 1 + n%97 {
		w := newWorld(t)
		h := w.newHost("b", nil)
		feed(t, h, b[:n])
		if len(w.on) != 0 || h.live != 0 || len(h.guests) != 0 || len(h.m.records.byName) != 0 {
			t.Fatalf("cut to %d bytes of %d: %d run, %d pages in use", n, len(b), len(w.on), h.live)
		}
		h.m.Close()
	}
}

func TestMessagesOutOfPlaceAreRefused(t *testing.T) {
	whole := wholeMove(t)
	var parts []script
	for i := 0; i < len(whole); {
		n := 5 + int(binary.LittleEndian.Uint32(whole[i+1:]))
		parts = append(parts, whole[i:i+n])
		i += n
	}
	var alive script
	alive.add(msgAlive, newFrame().Bytes())
	for i := range parts {
		for j := range parts {
			if i == j {
				continue
			}
			// Message j in place of message i.
			var s script
			for k, p := range parts {
				if k == i {
					p = parts[j]
				}
				if k > 0 {
					s = append(s, alive...)
				}
				s = append(s, p...)
			}
			w := newWorld(t)
			h := w.newHost("b", nil)
			feed(t, h, s.frames())
			if len(w.on) != 0 || h.live != 0 {
				t.Errorf("%v in place of %v started the guest", msgType(parts[j][0]), msgType(parts[i][0]))
				h.guest("g").halt()
			}
			h.m.Close()
		}
	}
}
