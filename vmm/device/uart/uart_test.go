package uart

import (
	"bytes"
	"strings"
	"testing"

	"godwit/vmm/device/consolering"
	"godwit/vmm/device/devicetest"
)

func port() (*UART, *devicetest.Line, *bytes.Buffer) {
	irq, out := &devicetest.Line{}, &bytes.Buffer{}
	return New("uart0", COM1, irq, out), irq, out
}

func (u *UART) get(reg uint16) uint8    { return uint8(u.In(COM1+reg, 1)) }
func (u *UART) put(reg uint16, v uint8) { u.Out(COM1+reg, 1, uint32(v)) }
func (u *UART) drain() (s string) {
	for u.get(regLSR)&lsrData != 0 {
		s += string(u.get(regData))
	}
	return s
}

// What Linux 6.1's 8250 driver does in autoconfig, in its order.
func TestLinuxAutoconfigFindsA16550A(t *testing.T) {
	u, _, _ := port()
	u.put(regIER, 0)
	if v := u.get(regIER) & 0x0f; v != 0 {
		t.Errorf("IER is %#x after 0", v)
	}
	u.put(regIER, 0x0f)
	if v := u.get(regIER) & 0x0f; v != 0x0f {
		t.Errorf("IER is %#x after 0fh", v)
	}
	u.put(regIER, 0)
	u.put(regMCR, mcrLoop|0x0a)
	if v := u.get(regMSR) & 0xf0; v != 0x90 {
		t.Errorf("loopback MSR is %#x, want 90h", v)
	}
	u.put(regMCR, 0)
	u.put(regLCR, 0xbf)
	u.put(regIIR, 0) // EFR of other chips
	u.put(regLCR, 0)
	u.put(regIIR, fcrEnable)
	if v := u.get(regIIR) >> 6; v != 3 {
		t.Errorf("IIR's FIFO bits are %d: not a 16550A", v)
	}
	// Not a 16650 (EFR), nor a 16750 (64-byte FIFO), nor an XScale (UUE).
	u.put(regLCR, 0x80)
	if u.get(regIIR) == 0 {
		t.Error("there is an EFR")
	}
	u.put(regIIR, fcrEnable|0x20)
	if u.get(regIIR)>>5 == 7 {
		t.Error("64-byte FIFO")
	}
	u.put(regLCR, 0)
	u.put(regIER, 0x40)
	if u.get(regIER) != 0 {
		t.Error("IER bit 6 sticks")
	}
	u.put(regSCR, 0xa5)
	if u.get(regSCR) != 0xa5 {
		t.Error("no scratch register")
	}
}

// The tests for UART_BUG_THRE and UART_BUG_TXEN in the driver's startup.
func TestLinuxFindsNoTransmitterBugs(t *testing.T) {
	u, irq, _ := port()
	u.put(regMCR, mcrOUT2)
	for range 2 {
		u.put(regIER, ierTHRE)
		if !irq.Level {
			t.Fatal("no interrupt when THRE is enabled")
		}
		if v := u.get(regIIR); v != iirTHRE {
			t.Errorf("IIR is %#x: UART_BUG_THRE", v)
		}
		u.put(regIER, 0)
	}
	u.put(regIER, ierTHRE)
	if lsr, iir := u.get(regLSR), u.get(regIIR); lsr != 0x60 || iir != iirTHRE {
		t.Errorf("LSR %#x, IIR %#x: UART_BUG_TXEN", lsr, iir)
	}
}

func TestTransmitterInterruptsOncePerBurst(t *testing.T) {
	u, irq, out := port()
	u.put(regMCR, mcrOUT2)
	u.put(regIIR, fcrEnable)
	u.put(regIER, ierTHRE)
	for range 3 {
		if u.get(regIIR) != iirTHRE|iirFIFO || irq.Level {
			t.Fatal("THRE is not acknowledged by reading IIR")
		}
		if u.get(regIIR) != iirNone|iirFIFO {
			t.Fatal("THRE twice")
		}
		before := irq.Edges
		for range 16 {
			u.put(regData, 'x')
		}
		if irq.Edges != before+1 {
			t.Errorf("%d interrupts for one burst", irq.Edges-before)
		}
	}
	if out.String() != strings.Repeat("x", 48) {
		t.Errorf("sent %q", out)
	}
	if u.get(regLSR) != 0x60 {
		t.Errorf("idle LSR is %#x", u.get(regLSR))
	}
}

// Linux's interrupt handler goes round while there is a cause, and gives up with a
// complaint after 512 rounds. A writer on another processor keeps it supplied.
func TestHandlerComesToAnEndWhileThereIsMoreToSend(t *testing.T) {
	u, irq, out := port()
	u.put(regMCR, mcrOUT2)
	u.put(regIIR, fcrEnable)
	u.put(regIER, ierTHRE)
	for range 10 {
		rounds := 0
		edges := irq.Edges
		for u.get(regIIR)&iirNone == 0 {
			if rounds++; rounds > 512 {
				t.Fatal("too much work for irq4")
			}
			for range 16 {
				u.put(regData, 'x')
			}
		}
		if !irq.Level || irq.Edges == edges {
			t.Fatal("no further interrupt: the rest is never sent")
		}
	}
	if out.Len() != 10*maxBursts*16 {
		t.Errorf("%d bytes sent", out.Len())
	}
}

func TestInterruptPriorities(t *testing.T) {
	u, irq, _ := port()
	u.put(regIIR, fcrEnable|2<<6) // trigger at 8
	u.put(regIER, ierAll)
	u.put(regMCR, mcrOUT2|mcrLoop) // a delta of the modem lines
	u.put(regMCR, mcrOUT2)
	u.Input([]byte("1234567"))
	u.Break()
	for _, want := range []uint8{iirLine, iirData, iirTHRE, iirModem, iirNone} {
		if (want != iirNone) != irq.Level {
			t.Errorf("line %v before cause %#x", irq.Level, want)
		}
		if v := u.get(regIIR) &^ iirFIFO; v != want {
			t.Fatalf("IIR is %#x, want %#x", v, want)
		}
		switch want {
		case iirLine:
			if u.get(regLSR)&lsrBreak == 0 {
				t.Error("no break in LSR")
			}
		case iirData:
			u.get(regData)
			if v := u.get(regIIR) &^ iirFIFO; v != iirTimeout {
				t.Errorf("below the trigger level IIR is %#x", v)
			}
			u.drain()
		case iirModem:
			u.get(regMSR)
		}
	}
}

func TestOUT2GatesTheInterrupt(t *testing.T) {
	u, irq, _ := port()
	u.put(regIER, ierData)
	u.Input([]byte("a"))
	if irq.Level {
		t.Error("interrupt without OUT2")
	}
	u.put(regMCR, mcrOUT2)
	if !irq.Level {
		t.Error("no interrupt with OUT2")
	}
	u.get(regData)
	if irq.Level {
		t.Error("interrupt after the last byte")
	}
}

func TestLoopback(t *testing.T) {
	u, _, out := port()
	u.put(regIIR, fcrEnable)
	u.put(regMCR, mcrLoop)
	u.Input([]byte("outside"))
	for _, b := range []byte("inside") {
		u.put(regData, b)
	}
	if got := u.drain(); got != "inside" || out.Len() != 0 {
		t.Errorf("received %q, sent %q", got, out)
	}
	u.put(regMCR, 0)
	if got := u.drain(); got != "outside" {
		t.Errorf("after loopback %q", got)
	}
	u.put(regMCR, mcrLoop)
	for range 17 {
		u.put(regData, 'x')
	}
	if u.get(regLSR)&lsrOverrun == 0 || u.get(regLSR)&lsrOverrun != 0 {
		t.Error("the overrun is not reported once")
	}
}

func TestInputIsHeldBackNotLost(t *testing.T) {
	u, _, _ := port()
	text := bytes.Repeat([]byte("0123456789"), 1000)
	rest := text
	var got strings.Builder
	for got.Len() < len(text) {
		n := u.Input(rest)
		rest = rest[n:]
		if len(rest) > 0 && n == 0 {
			select {
			case <-u.Room():
				t.Fatal("room is announced, but there is none")
			default:
			}
		}
		got.WriteString(string(u.get(regData)))
	}
	if got.String() != string(text) {
		t.Error("bytes were lost or mixed up")
	}
	select {
	case <-u.Room():
	default:
		t.Error("room was never announced")
	}
}

func TestClearingTheFIFO(t *testing.T) {
	u, _, _ := port()
	u.put(regIIR, fcrEnable)
	u.Input([]byte("abc"))
	u.put(regIIR, fcrEnable|fcrClearRX)
	if u.get(regLSR) != 0x60 {
		t.Error("data in a cleared FIFO")
	}
	u.put(regIIR, 0)
	if u.get(regIIR) != iirNone {
		t.Errorf("IIR without FIFO is %#x", u.get(regIIR))
	}
}

func TestDivisorLatch(t *testing.T) {
	u, _, out := port()
	u.put(regLCR, lcrDLAB|3)
	u.put(regData, 0x34)
	u.put(regIER, 0x12)
	if u.get(regData) != 0x34 || u.get(regIER) != 0x12 || out.Len() != 0 {
		t.Error("DLL and DLM")
	}
	u.put(regLCR, 3)
	if u.get(regIER) != 0 {
		t.Error("DLM went to IER")
	}
	if v := u.In(COM1, 4); v != uint32(3)<<24|uint32(iirNone)<<16 {
		t.Errorf("four registers at once are %#x", v)
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, _, _ := port()
	z, irq, _ := port()
	a.put(regIIR, fcrEnable|0xc0)
	a.put(regMCR, mcrOUT2|mcrRTS)
	a.put(regIER, ierTHRE|ierData)
	a.put(regSCR, 9)
	for range 20 { // so that the FIFO's start is not at its array's
		a.Input([]byte("x"))
		a.get(regData)
	}
	a.Input(bytes.Repeat([]byte("input"), 10))
	devicetest.RoundTrip(t, a, z)
	if x, y := a.drain(), z.drain(); x != y || len(x) != 50 {
		t.Errorf("input is %q, after the move %q", x, y)
	}
	z.get(regIIR)
	if z.asserts || irq.Level {
		t.Error("the line is up with no cause")
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 0, 0x10, "IER")
	devicetest.Refused(t, z, good, 1, 0xc0, "FCR without FIFOs")
	devicetest.Refused(t, z, good, 3, 0x80, "MCR")
	devicetest.Refused(t, z, good, 4, 0x60, "LSR")
}

func TestTransmitDoesNotAllocate(t *testing.T) {
	u := New("uart0", COM1, &devicetest.Line{}, consolering.New())
	u.put(regIIR, fcrEnable)
	u.put(regData, 'x')
	if n := testing.AllocsPerRun(1000, func() { u.Out(COM1, 1, 'x'); u.In(COM1+regLSR, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTransmit(b *testing.B) {
	u := New("uart0", COM1, &devicetest.Line{}, consolering.New())
	b.ReportAllocs()
	for b.Loop() {
		u.Out(COM1, 1, 'x')
	}
}
