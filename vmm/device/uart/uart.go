// Package uart is a 16550A serial port.
// Reference: National Semiconductor PC16550D datasheet (TL/C/8652, June 1995),
// section 8.
//
// Transmission takes no time: what the guest writes is at once in the Output, and
// the line status of an idle transmitter reads 0x60. That keeps a guest that polls
// for every byte at one exit a byte.
package uart

import (
	"io"
	"sync"

	"godwit/vmm/device"
)

// Ports of a PC's first serial port, and how many a port has.
const (
	COM1  = 0x3f8
	COM2  = 0x2f8
	Ports = 8
)

// Registers (table II).
const (
	regData = 0 // RBR, THR; DLL if DLAB
	regIER  = 1 // DLM if DLAB
	regIIR  = 2 // FCR when written
	regLCR  = 3
	regMCR  = 4
	regLSR  = 5
	regMSR  = 6
	regSCR  = 7
)

// Interrupt enables and identifications, the latter in order of their priority
// (section 8.6).
const (
	ierData   = 1 << 0
	ierTHRE   = 1 << 1
	ierLine   = 1 << 2
	ierModem  = 1 << 3
	ierAll    = 0x0f
	iirLine   = 0x06
	iirData   = 0x04
	iirTimout = 0x0c
	iirTHRE   = 0x02
	iirModem  = 0x00
	iirNone   = 0x01
	iirFIFO   = 0xc0
)

const (
	fcrEnable  = 1 << 0
	fcrClearRX = 1 << 1
	fcrClearTX = 1 << 2
	fcrKept    = 0xc9 // enable, DMA mode, trigger level
)

const (
	lcrBreak = 1 << 6
	lcrDLAB  = 1 << 7
)

const (
	mcrDTR      = 1 << 0
	mcrRTS      = 1 << 1
	mcrOUT1     = 1 << 2
	mcrOUT2     = 1 << 3 // on a PC: lets the interrupt out
	mcrLoop     = 1 << 4
	mcrWritable = 0x1f
)

const (
	lsrData    = 1 << 0
	lsrOverrun = 1 << 1
	lsrBreak   = 1 << 4
	lsrIdle    = 0x60 // THR and transmitter empty
	lsrErrors  = 0x1e
	lsrLatched = lsrOverrun | lsrBreak // what this model ever sets of them
)

// Modem status: deltas in the lower half, lines in the upper.
const (
	msrTERI  = 1 << 2
	msrCTS   = 1 << 4
	msrDSR   = 1 << 5
	msrRI    = 1 << 6
	msrDCD   = 1 << 7
	msrReady = msrCTS | msrDSR | msrDCD // a terminal that is switched on
)

// fifoSize is the receiver's FIFO.
const fifoSize = 16

// inputSize bounds what Input takes ahead of the guest's reads.
const inputSize = 4096

// triggers are the receiver FIFO's trigger levels (section 8.5).
var triggers = [4]int{1, 4, 8, 14}

// A UART is one port.
type UART struct {
	name string
	base uint16
	irq  device.Line
	out  io.ByteWriter

	mu      sync.Mutex
	ier     uint8
	fcr     uint8
	lcr     uint8
	mcr     uint8
	lsr     uint8 // latched error bits only
	msr     uint8
	scr     uint8
	divisor uint16
	thre    bool // the THR-empty interrupt is pending
	asserts bool // what irq was last set to
	fifo    [fifoSize]byte
	head    uint8 // of fifo
	count   uint8
	input   []byte // waits for room in the FIFO
	room    chan struct{}
}

// New makes a port at base with this state name, which interrupts through irq and
// writes what the guest sends to out. out neither blocks nor calls back.
func New(name string, base uint16, irq device.Line, out io.ByteWriter) *UART {
	u := &UART{name: name, base: base, irq: irq, out: out, room: make(chan struct{}, 1)}
	u.Reset()
	return u
}

// Reset implements device.Device. Input that the guest has not read is lost, as
// bytes in a receiver are.
func (u *UART) Reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ier, u.fcr, u.lcr, u.mcr, u.lsr, u.scr = 0, 0, 0, 0, 0, 0
	u.msr = msrReady
	u.divisor = 12 // 9600 baud
	u.thre, u.asserts = false, false
	u.head, u.count, u.input = 0, 0, nil
	u.irq.Set(false)
	u.signalRoom()
}

// Input gives bytes to the guest and returns how many it took; Room tells when to
// offer the rest. Callable from anywhere.
func (u *UART) Input(p []byte) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := min(len(p), inputSize-len(u.input))
	u.input = append(u.input, p[:n]...)
	u.refill()
	u.update()
	return n
}

// Room has a value after the guest made room for more Input.
func (u *UART) Room() <-chan struct{} { return u.room }

// Break sends a break condition (Linux's SysRq on a serial console).
func (u *UART) Break() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mcr&mcrLoop == 0 {
		u.receive(0)
		u.lsr |= lsrBreak
		u.update()
	}
}

func (u *UART) signalRoom() {
	select {
	case u.room <- struct{}{}:
	default:
	}
}

// capacity is the receiver's: one byte without FIFO.
func (u *UART) capacity() uint8 {
	if u.fcr&fcrEnable == 0 {
		return 1
	}
	return fifoSize
}

// refill moves waiting input into the receiver. In loopback the input pin is cut off.
func (u *UART) refill() {
	if len(u.input) == 0 || u.mcr&mcrLoop != 0 {
		return
	}
	full := len(u.input) == inputSize
	n := 0
	for n < len(u.input) && u.count < u.capacity() {
		u.receive(u.input[n])
		n++
	}
	// Slide down rather than re-slice: the buffer keeps its array.
	u.input = u.input[:copy(u.input, u.input[n:])]
	if full && n > 0 {
		u.signalRoom()
	}
}

// receive takes a byte; if the receiver is full it is an overrun.
func (u *UART) receive(b byte) {
	if u.count >= u.capacity() {
		u.lsr |= lsrOverrun
		if u.fcr&fcrEnable == 0 { // without FIFO the new byte replaces the old
			u.fifo[u.head] = b
		}
		return
	}
	u.fifo[(u.head+u.count)%fifoSize] = b
	u.count++
}

// cause is the interrupt identification, highest priority first (section 8.6).
func (u *UART) cause() uint8 {
	switch {
	case u.ier&ierLine != 0 && u.lsr != 0:
		return iirLine
	case u.ier&ierData != 0 && u.count > 0 && (u.fcr&fcrEnable == 0 || int(u.count) >= triggers[u.fcr>>6]):
		return iirData
	case u.ier&ierData != 0 && u.count > 0:
		// Below the trigger level the datasheet waits four character times:
		// here input comes in bursts, and the time is over at once.
		return iirTimout
	case u.ier&ierTHRE != 0 && u.thre:
		return iirTHRE
	case u.ier&ierModem != 0 && u.msr&0x0f != 0:
		return iirModem
	}
	return iirNone
}

// update drives the interrupt line. OUT2 gates it on a PC, and in loopback it
// stays inactive.
func (u *UART) update() {
	level := u.cause() != iirNone && u.mcr&(mcrOUT2|mcrLoop) == mcrOUT2
	if level != u.asserts {
		u.asserts = level
		u.irq.Set(level)
	}
}

// In implements device.PortDevice. A wider access reads the registers one by one,
// as the bus would.
func (u *UART) In(port uint16, size int) (v uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range size {
		v |= uint32(u.read((port-u.base+uint16(i))%Ports)) << (8 * i)
	}
	return v
}

func (u *UART) read(reg uint16) uint8 {
	switch reg {
	case regData:
		if u.lcr&lcrDLAB != 0 {
			return uint8(u.divisor)
		}
		return u.readData()
	case regIER:
		if u.lcr&lcrDLAB != 0 {
			return uint8(u.divisor >> 8)
		}
		return u.ier
	case regIIR:
		return u.readIIR()
	case regLCR:
		return u.lcr
	case regMCR:
		return u.mcr
	case regLSR:
		return u.readLSR()
	case regMSR:
		return u.readMSR()
	}
	return u.scr
}

func (u *UART) readData() uint8 {
	if u.count == 0 {
		return 0
	}
	b := u.fifo[u.head]
	u.head = (u.head + 1) % fifoSize
	u.count--
	u.refill()
	u.update()
	return b
}

func (u *UART) readIIR() uint8 {
	c := u.cause()
	if c == iirTHRE { // reading it is the acknowledgement
		u.thre = false
		u.update()
	}
	if u.fcr&fcrEnable != 0 {
		c |= iirFIFO
	}
	return c
}

func (u *UART) readLSR() uint8 {
	v := lsrIdle | u.lsr
	if u.count > 0 {
		v |= lsrData
	}
	if u.lsr != 0 {
		u.lsr = 0
		u.update()
	}
	return v
}

func (u *UART) readMSR() uint8 {
	v := u.msr
	if v&0x0f != 0 {
		u.msr &= 0xf0
		u.update()
	}
	return v
}

// Out implements device.PortDevice.
func (u *UART) Out(port uint16, size int, v uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range size {
		u.write((port-u.base+uint16(i))%Ports, uint8(v>>(8*i)))
	}
}

func (u *UART) write(reg uint16, v uint8) {
	switch reg {
	case regData:
		if u.lcr&lcrDLAB != 0 {
			u.divisor = u.divisor&0xff00 | uint16(v)
			return
		}
		u.transmit(v)
	case regIER:
		if u.lcr&lcrDLAB != 0 {
			u.divisor = u.divisor&0x00ff | uint16(v)<<8
			return
		}
		// Enabling the THR-empty interrupt with an empty THR raises it
		//, which drivers test for.
		if v&ierTHRE != 0 && u.ier&ierTHRE == 0 {
			u.thre = true
		}
		u.ier = v & ierAll
	case regIIR:
		u.writeFCR(v)
	case regLCR:
		u.lcr = v
		return
	case regMCR:
		u.writeMCR(v & mcrWritable)
	case regSCR:
		u.scr = v
		return
	default: // LSR and MSR are for factory tests
		return
	}
	u.update()
}

func (u *UART) transmit(b byte) {
	if u.mcr&mcrLoop != 0 {
		u.receive(b)
	} else {
		u.out.WriteByte(b)
	}
	u.thre = true
}

func (u *UART) writeFCR(v uint8) {
	if v&fcrEnable == 0 {
		v = 0 // the other bits count only with the FIFOs enabled
	}
	if (v^u.fcr)&fcrEnable != 0 || v&fcrClearRX != 0 { // changing the mode clears the FIFOs
		u.head, u.count = 0, 0
		u.lsr = 0
	}
	u.fcr = v & fcrKept
	u.refill()
}

// writeMCR: in loopback the modem outputs feed the modem inputs, and the pins
// show nothing (section 8.8).
func (u *UART) writeMCR(v uint8) {
	u.mcr = v
	lines := uint8(msrReady)
	if v&mcrLoop != 0 {
		lines = v&mcrRTS<<3 | v&mcrDTR<<5 | v&mcrOUT1<<4 | v&mcrOUT2<<4
	}
	delta := (u.msr ^ lines) >> 4
	if lines&msrRI != 0 {
		delta &^= msrTERI // trailing edge only
	}
	u.msr = u.msr&0x0f | delta | lines
	u.refill()
}
