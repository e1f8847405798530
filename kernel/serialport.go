package kernel

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/usbarmory/tamago/soc/intel/uart"
)

// A serialPort is COM1 as the console sees it. The UART behind it may be broken or not be there: whatever its registers
// say, nobody spins, and nobody waits for it without end.
type serialPort struct {
	mu    sync.Mutex
	more  sync.Cond
	input []byte

	// The serving goroutine's.
	run    int           // bytes received since the receiver was last empty
	nags   int           // turns in a row after which the UART asked for something, and nothing had been done
	nagged bool          // that has been told
	pause  time.Duration // between two looks where no interrupt tells of anything
	wake   chan struct{} // something was written

	wmu     sync.Mutex
	mute    bool   // the transmitter takes nothing
	dropped uint64 // bytes since then
	nap     func(time.Duration)
	tell    func(string) // a line for the log
}

const (
	// maxInput bounds what is kept of input nobody reads.
	maxInput = 64 << 10
	// rxTurn is what is received before others have their turn.
	rxTurn = 256
	// rxHangs is how many bytes may come without the receiver ever being empty. A line brings 11 in a millisecond, and an
	// emulator's FIFO is empty now and then, too.
	rxHangs = 64 << 10
	// rxProbe is what is read to see whether a receiver that hung is empty now.
	rxProbe = 32
	// nagsMost is how often the UART is served at once without anything coming of it.
	nagsMost = 16
	// txNaps is how often a millisecond is waited for a transmitter that takes nothing at all.
	txNaps = 2000

	rxPause    = time.Millisecond      // after a full turn
	txPause    = time.Millisecond      // where no interrupt tells that a burst of 16 bytes is out
	txLost     = 20 * time.Millisecond // where one does, but may fail to: a burst takes 1.4
	deafPause  = time.Second
	pauseFirst = 5 * time.Millisecond
	pauseLast  = 100 * time.Millisecond // a key waits as long, once
)

var console = struct {
	once sync.Once
	port serialPort
	irq  bool        // the UART's interrupt works
	deaf atomic.Bool // its receiver hangs
}{port: serialPort{wake: make(chan struct{}, 1), nap: time.Sleep, tell: func(s string) { fmt.Fprintln(os.Stderr, "serial console: "+s) }}}

// SerialConsole is COM1: input driven by interrupts, output buffered and flushed
// on panic.
func SerialConsole() io.ReadWriter {
	p := &console.port
	console.once.Do(func() {
		p.more.L = &p.mu
		p.input = append(p.input, early.b[:early.n]...)
		if running {
			go p.serve()
		}
	})
	return p
}

// serve answers the UART's interrupts; where there are none it looks now and then.
func (p *serialPort) serve() {
	irq, err := ISAInterrupt(irqCOM1)
	console.irq = err == nil
	p.greet()
	for {
		d := p.turn()
		if console.irq && p.nags < nagsMost {
			if d != 0 {
				irq.Ack()
				irq.Wait(d)
			}
			continue
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-p.wake:
		}
		t.Stop()
	}
}

// greet tells of a UART that is not there.
func (p *serialPort) greet() {
	if comIn(com1.Base+uart.LSR) == noUART {
		p.tell(fmt.Sprintf("nothing answers at I/O port %#x: this machine has no COM1, or its firmware has it switched off; without it a host is managed with godwitctl, if it was booted with control=insecure-tcp", com1.Base))
	}
}

// turn serves the UART and returns how long to wait for its interrupt, or, where none comes, until the next look; negative:
// for ever; 0: not at all. It waits for the interrupt only once the UART asks for nothing: only then does the line fall,
// and an edge tell of what comes next.
func (p *serialPort) turn() time.Duration {
	got, more := p.receive()
	sent := atomic.LoadUint32(&txHead)
	atPort(transmit, nil)
	sent = atomic.LoadUint32(&txHead) - sent
	if got > 0 || sent > 0 {
		p.nags, p.pause = 0, pauseFirst
	}
	switch deaf := console.deaf.Load(); {
	case more && !deaf:
		return rxPause
	case comIn(com1.Base+iir)&iirNone == 0:
		if p.nags++; p.nags < nagsMost {
			return 0
		}
		if !p.nagged {
			p.nagged = true
			p.tell("the UART asks for attention without end, and there is nothing to do: it is looked at up to ten times a second")
		}
	case console.irq:
		p.nags = 0
		// Some UARTs, those of management controllers above all, do not always tell that the transmitter is empty.
		if atomic.LoadUint32(&txHead) != atomic.LoadUint32(&txTail) {
			return txLost
		}
		if deaf {
			return deafPause
		}
		return -1
	case sent > 0:
		return txPause
	}
	d := max(p.pause, pauseFirst)
	p.pause = min(2*d, pauseLast)
	return d
}

// receive takes what has come, at most a turn's worth: then more is set.
func (p *serialPort) receive() (got int, more bool) {
	if console.deaf.Load() {
		return 0, p.listen()
	}
	p.mu.Lock()
	for more = received(); more && got < rxTurn; more = received() {
		if c := comIn(com1.Base + uart.RBR); len(p.input) < maxInput {
			p.input = append(p.input, c)
		}
		got++
	}
	if p.run += got; !more {
		p.run = 0
	}
	hangs := p.run >= rxHangs
	if hangs {
		p.input = p.input[:0]
	}
	if len(p.input) > 0 {
		p.more.Signal()
	}
	p.mu.Unlock()
	if hangs {
		p.run = 0
		console.deaf.Store(true)
		p.tell(fmt.Sprintf("the receiver hangs: it has never been empty for %d bytes; they are dropped, and it is looked at once a second", rxHangs))
	}
	return got, more
}

// listen looks whether a receiver that hung does so still. What it gives is dropped.
func (p *serialPort) listen() (hangs bool) {
	for range rxProbe {
		if !received() {
			console.deaf.Store(false)
			p.tell("the receiver hangs no more")
			return false
		}
		comIn(com1.Base + uart.RBR)
	}
	return true
}

// atPort calls f with interrupts off.
func atPort(f func(unsafe.Pointer), arg unsafe.Pointer) {
	if running {
		critical(f, arg)
	} else {
		f(arg) // a test's
	}
}

func transmit(unsafe.Pointer) {
	com1Lock.lock()
	drainSerial(false)
	wantInterrupts()
	com1Lock.unlock()
}

// wantInterrupts asks for one when data comes, unless the receiver hangs, and for one at the transmitter's next empty if
// output waits.
func wantInterrupts() {
	if !console.irq {
		return
	}
	var v uint8
	if !console.deaf.Load() {
		v |= ierData
	}
	if txHead != txTail {
		v |= ierEmpty
	}
	comOut(com1.Base+uart.IER, v)
}

// Read waits for input.
func (p *serialPort) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.input) == 0 {
		p.more.Wait()
	}
	n := copy(b, p.input)
	p.input = append(p.input[:0], p.input[n:]...)
	return n, nil
}

type txCall struct {
	data unsafe.Pointer
	n    uintptr
	done uintptr
	head uint32 // of the ring, afterwards
}

// queueOutput takes as much as the ring has room for.
func queueOutput(arg unsafe.Pointer) {
	a := (*txCall)(arg)
	com1Lock.lock()
	for a.done < a.n && txTail-txHead < uint32(len(txRing)) {
		txRing[txTail%uint32(len(txRing))] = *(*byte)(unsafe.Add(a.data, a.done))
		txTail++
		a.done++
	}
	drainSerial(false)
	a.head = txHead
	wantInterrupts()
	com1Lock.unlock()
}

// Write queues output. It waits only while the queue is full, and not for a transmitter that takes nothing: what does not
// fit is dropped then, and nobody's command or guest stands still for it.
func (p *serialPort) Write(b []byte) (int, error) {
	if !running {
		return 0, errNotRunning
	}
	return p.write(b), nil
}

func (p *serialPort) write(b []byte) int {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	naps, head := 0, uint32(0)
	for done := 0; done < len(b); {
		chunk := b[done:min(len(b), done+4096)] // short with interrupts off
		a := txCall{data: unsafe.Pointer(unsafe.SliceData(chunk)), n: uintptr(len(chunk))}
		atPort(queueOutput, unsafe.Pointer(&a))
		done += int(a.done)
		if p.mute && a.done > 0 {
			p.mute = false
			p.tell(fmt.Sprintf("the transmitter takes output again; %d bytes were dropped", p.dropped))
		}
		if int(a.done) == len(chunk) {
			continue
		}
		if a.done > 0 || a.head != head {
			naps, head = 0, a.head
		}
		if naps++; naps > txNaps && !p.mute {
			p.mute, p.dropped = true, 0
			p.tell(fmt.Sprintf("the transmitter has taken nothing for %d ms: what does not fit in the %d KiB that wait for it is dropped", txNaps, len(txRing)>>10))
		}
		if p.mute {
			p.dropped += uint64(len(b) - done)
			break
		}
		p.nap(time.Millisecond)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return len(b)
}
