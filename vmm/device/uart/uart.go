// Package uart is a 16550A serial port.
// Reference: National Semiconductor PC16550D datasheet (TL/C/8652, June 1995),
// section 8.
//
// Transmission takes no time: what the guest writes is out at once, and the line
// status reads 0x60. So a guest that polls before every byte polls once.
package uart

import (
	"io"
	"sync"

	"godwit/vmm/device"
)

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
	bursts  int  // THR-empty interrupts reported in a row
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
	u.thre, u.asserts, u.bursts = false, false, 0
	u.head, u.count, u.input = 0, 0, nil
	u.irq.Set(false)
	u.signalRoom()
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
		// Enabling the THR-empty interrupt with an empty THR raises it, which drivers
		// test for.
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
