package kernel

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/usbarmory/tamago/soc/intel/uart"
)

// A badUART is a UART as tests want it.
type badUART struct {
	line     []byte // what has been typed
	stuck    bool   // its data-ready bit
	full     bool   // it never has room
	nags     bool   // it always asks for attention
	all      *uint8 // every register reads so
	gap      int    // the receiver is empty once after so many bytes
	ier      uint8
	accesses int
	sent     bytes.Buffer

	since int
}

func (u *badUART) in(port uint16) uint8 {
	u.accesses++
	if u.all != nil {
		return *u.all
	}
	switch port - com1.Base {
	case uart.RBR:
		if len(u.line) == 0 {
			return 'x'
		}
		c := u.line[0]
		u.line = u.line[1:]
		u.since++
		return c
	case uart.LSR:
		v := uint8(0)
		if u.gap > 0 && u.since == u.gap {
			u.since = 0
		} else if u.stuck || len(u.line) > 0 {
			v |= 1 << uart.LSR_DR
		}
		if !u.full {
			v |= 1 << uart.LSR_THRE
		}
		return v
	case iir:
		if u.nags || u.stuck && u.ier&ierData != 0 {
			return iirFIFOs | 4
		}
		return iirFIFOs | iirNone
	}
	return 0
}

func (u *badUART) out(port uint16, v uint8) {
	u.accesses++
	switch port - com1.Base {
	case uart.THR:
		u.sent.WriteByte(v)
	case uart.IER:
		u.ier = v
	}
}

// attach puts it behind a serial port with or without an interrupt.
func attach(t *testing.T, u *badUART, irq bool) (p *serialPort, log *[]string) {
	log = new([]string)
	p = &serialPort{wake: make(chan struct{}, 1), nap: func(time.Duration) {}, tell: func(s string) { *log = append(*log, s) }}
	p.more.L = &p.mu
	comIn, comOut = u.in, u.out
	console.irq = irq
	t.Cleanup(func() {
		comIn, comOut = In8, Out8
		console.irq = false
		console.deaf.Store(false)
		txHead, txTail = 0, 0
	})
	return p, log
}

func (p *serialPort) typed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := string(p.input)
	p.input = nil
	return s
}

func TestAReceiverThatIsNeverEmptyIsGivenUpAndComesBack(t *testing.T) {
	for _, irq := range []bool{true, false} {
		u := &badUART{stuck: true}
		p, log := attach(t, u, irq)
		for i := 0; !console.deaf.Load(); i++ {
			u.accesses = 0
			if d := p.turn(); d == 0 || i > 2*rxHangs/rxTurn {
				t.Fatalf("turn %d: it spins", i)
			}
			if u.accesses > 4*rxTurn {
				t.Fatalf("%d accesses in a turn", u.accesses)
			}
		}
		if s := p.typed(); s != "" {
			t.Errorf("%d bytes of it are kept", len(s))
		}
		for range 100 {
			u.accesses = 0
			if d := p.turn(); d < pauseFirst || u.accesses > 4*rxProbe {
				t.Fatalf("given up, it is looked at after %v, with %d accesses", d, u.accesses)
			}
		}
		if irq && u.ier != 0 {
			t.Errorf("its interrupt is still asked for: IER %#x", u.ier)
		}
		if d := p.turn(); irq && d != deafPause || !irq && d != pauseLast {
			t.Errorf("in the end it is looked at every %v", d)
		}
		// The other direction goes on.
		if p.write([]byte("hello")); u.sent.String() != "hello" {
			t.Errorf("sent: %q", u.sent.String())
		}
		u.stuck = false
		p.turn()
		u.line = []byte("vm list\r")
		p.turn()
		if s := p.typed(); s != "vm list\r" {
			t.Errorf("typed afterwards: %q", s)
		}
		if irq && u.ier != ierData {
			t.Errorf("afterwards IER is %#x", u.ier)
		}
		if len(*log) != 2 || !strings.Contains((*log)[0], "the receiver hangs: ") || !strings.Contains((*log)[1], "hangs no more") {
			t.Errorf("told: %q", *log)
		}
	}
}

func TestALongPasteIsNoReceiverThatHangs(t *testing.T) {
	u := &badUART{line: bytes.Repeat([]byte("0123456789abcdef"), 5*rxHangs/16), gap: 16}
	p, log := attach(t, u, true)
	n := 0
	for range 10 * rxHangs / rxTurn * 16 {
		p.turn()
		if n += len(p.typed()); n == 5*rxHangs {
			break
		}
	}
	if n != 5*rxHangs || len(*log) != 0 {
		t.Errorf("%d of %d bytes arrived; told: %q", n, 5*rxHangs, *log)
	}
}

func TestNoUARTIsToldAndLeftAlone(t *testing.T) {
	ones := uint8(noUART)
	u := &badUART{all: &ones}
	p, log := attach(t, u, true)
	p.greet()
	if d := p.turn(); d >= 0 || u.accesses > 10 {
		t.Errorf("looked at again after %v, %d accesses", d, u.accesses)
	}
	p.write(make([]byte, 1<<20)) // returns
	if p.typed() != "" || len(*log) != 1 || !strings.Contains((*log)[0], "nothing answers at I/O port 0x3f8") {
		t.Errorf("told: %q", *log)
	}
}

// What reads as zeroes always asks for attention and never has anything.
func TestAUARTThatAsksWithoutEndIsPolledEverMoreRarely(t *testing.T) {
	zero := uint8(0)
	for name, u := range map[string]*badUART{"nags": {nags: true}, "reads zero": {all: &zero}} {
		p, log := attach(t, u, true)
		var pauses []time.Duration
		for range nagsMost + 20 {
			pauses = append(pauses, p.turn())
		}
		if d := pauses[nagsMost]; d < pauseFirst {
			t.Errorf("%s: after %d turns for nothing the next comes after %v", name, nagsMost, d)
		}
		if d := pauses[len(pauses)-1]; d != pauseLast {
			t.Errorf("%s: in the end it is looked at every %v", name, d)
		}
		if len(*log) != 1 {
			t.Errorf("%s: told: %q", name, *log)
		}
		if name == "nags" {
			u.line = []byte("a")
			if p.turn(); p.typed() != "a" || len(*log) != 1 {
				t.Errorf("what is typed does not arrive; told: %q", *log)
			}
		}
	}
}

func TestATransmitterThatTakesNothingHoldsNobodyUp(t *testing.T) {
	u := &badUART{full: true}
	p, log := attach(t, u, true)
	naps := 0
	p.nap = func(time.Duration) { naps++ }
	text := bytes.Repeat([]byte("godwit\n"), 100_000)
	for range 3 {
		if n := p.write(text); n != len(text) {
			t.Errorf("%d written", n)
		}
	}
	if naps > txNaps {
		t.Errorf("%d naps for a transmitter that takes nothing", naps)
	}
	if len(*log) != 1 || !strings.Contains((*log)[0], "has taken nothing") {
		t.Errorf("told: %q", *log)
	}
	u.full = false
	p.turn()
	p.write([]byte("here again"))
	p.turn()
	if s := u.sent.String(); len(s) != len(txRing)+10 || !strings.HasSuffix(s, "here again") {
		t.Errorf("%d bytes were sent", len(s))
	}
	if len(*log) != 2 || !strings.Contains((*log)[1], "takes output again") {
		t.Errorf("told: %q", *log)
	}
}

// Its interrupt is lost when the transmitter has room again: what waits is sent all the same.
func TestAUARTThatDoesNotTellOfRoomIsLookedAt(t *testing.T) {
	u := &badUART{full: true}
	p, log := attach(t, u, true)
	p.write([]byte("hello"))
	if d := p.turn(); d != txLost {
		t.Errorf("with output waiting it is looked at after %v", d)
	}
	u.full = false
	if d := p.turn(); d != -1 || u.sent.String() != "hello" || len(*log) != 0 {
		t.Errorf("sent: %q; looked at again after %v; told: %q", u.sent.String(), d, *log)
	}
}

// A slow line is not a dead one: whoever writes waits for it.
func TestASlowTransmitterLosesNothing(t *testing.T) {
	u := &badUART{full: true}
	p, log := attach(t, u, true)
	naps := 0
	p.nap = func(time.Duration) {
		if naps++; naps%(txNaps/2) == 0 {
			u.full = false
			transmit(nil)
			u.full = true
		}
	}
	p.write(make([]byte, 3*len(txRing)))
	if len(*log) != 0 {
		t.Errorf("told: %q", *log)
	}
	u.full = false
	p.turn()
	if n := u.sent.Len(); n != 3*len(txRing) {
		t.Errorf("%d of %d bytes were sent", n, 3*len(txRing))
	}
}
