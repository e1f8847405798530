// Package i8042 is the keyboard controller of a PC with nothing plugged in: it
// passes its self-test, answers every byte for a keyboard or mouse with a time-out,
// and resets the machine when asked to.
// Reference: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and
// Auxiliary Device Controller".
package i8042

import (
	"fmt"
	"sync"

	"godwit/vmm/device"
	"godwit/vmm/state"
)

// Ports.
const (
	Data    = 0x60
	Command = 0x64 // status when read
)

// Status bits.
const (
	statusOutput  = 1 << 0 // a byte waits in the output buffer
	statusSystem  = 1 << 2 // self-test passed
	statusCommand = 1 << 3 // the last write was a command
	statusUnlock  = 1 << 4 // the keyboard is not locked
	statusAux     = 1 << 5 // the byte in the output buffer is the mouse's
	statusTimeout = 1 << 6
)

// Command byte (RAM location 0).
const (
	modeKeyIRQ = 1 << 0
	modeAuxIRQ = 1 << 1
	modeSystem = 1 << 2
	modeKeyOff = 1 << 4
	modeAuxOff = 1 << 5
)

// resend is what the controller puts out for a device that does not answer.
const resend = 0xfe

// A Controller is the keyboard controller.
type Controller struct {
	reset    func()
	key, aux device.Line

	mu      sync.Mutex
	mode    uint8
	status  uint8
	out     uint8
	pending uint8 // command that waits for its data byte, 0 if none
	asserts [2]bool
}

// New makes a controller that interrupts through key (IRQ 1) and aux (IRQ 12);
// reset is called without its lock.
func New(key, aux device.Line, reset func()) *Controller {
	c := &Controller{key: key, aux: aux, reset: reset}
	c.Reset()
	return c
}

// Reset implements device.Device.
func (c *Controller) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = modeKeyIRQ | modeSystem
	c.status = statusSystem | statusUnlock
	c.out, c.pending = 0, 0
	c.update()
}

func (c *Controller) update() {
	full := c.status&statusOutput != 0
	fromAux := c.status&statusAux != 0
	for i, level := range [2]bool{
		full && !fromAux && c.mode&modeKeyIRQ != 0,
		full && fromAux && c.mode&modeAuxIRQ != 0,
	} {
		if level != c.asserts[i] {
			c.asserts[i] = level
			[2]device.Line{c.key, c.aux}[i].Set(level)
		}
	}
}

// put fills the output buffer.
func (c *Controller) put(v uint8, flags uint8) {
	c.out = v
	c.status = c.status&^(statusAux|statusTimeout) | statusOutput | flags
}

// In implements device.PortDevice.
func (c *Controller) In(port uint16, size int) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if port == Command {
		return uint32(c.status)
	}
	c.status &^= statusOutput | statusAux | statusTimeout
	c.update()
	return uint32(c.out)
}

// Out implements device.PortDevice.
func (c *Controller) Out(port uint16, size int, v uint32) {
	c.mu.Lock()
	reset := false
	if port == Command {
		c.status |= statusCommand
		reset = c.command(uint8(v))
	} else {
		c.status &^= statusCommand
		reset = c.data(uint8(v))
	}
	c.update()
	c.mu.Unlock()
	if reset {
		c.reset()
	}
}

// command is a byte written to port 64h; true asks for a reset.
func (c *Controller) command(v uint8) (reset bool) {
	c.pending = 0
	switch {
	case v == 0x20: // read the command byte
		c.put(c.mode, 0)
	case v == 0x60, v == 0xd1, v == 0xd2, v == 0xd3, v == 0xd4: // take a byte
		c.pending = v
	case v == 0xa7:
		c.mode |= modeAuxOff
	case v == 0xa8:
		c.mode &^= modeAuxOff
	case v == 0xa9: // test the mouse's interface: no error
		c.put(0, 0)
	case v == 0xaa: // self-test: passed
		c.status |= statusSystem
		c.put(0x55, 0)
	case v == 0xab: // test the keyboard's interface: no error
		c.put(0, 0)
	case v == 0xad:
		c.mode |= modeKeyOff
	case v == 0xae:
		c.mode &^= modeKeyOff
	case v == 0xc0: // input port: not locked
		c.put(0x80, 0)
	case v == 0xd0: // output port: not in reset, A20 on
		c.put(0x03, 0)
	case v >= 0xf0: // pulse output lines; bit 0 clear pulses reset
		return v&1 == 0
	}
	return false
}

// data is a byte written to port 60h; true asks for a reset.
func (c *Controller) data(v uint8) (reset bool) {
	p := c.pending
	c.pending = 0
	switch p {
	case 0x60:
		c.mode = v & 0x77
	case 0xd1: // output port: A20 stays on, bit 0 low resets
		return v&1 == 0
	case 0xd2:
		c.put(v, 0)
	case 0xd3:
		c.put(v, statusAux)
	case 0xd4: // to the mouse
		c.put(resend, statusAux|statusTimeout)
	default: // to the keyboard, which a byte enables
		c.mode &^= modeKeyOff
		c.put(resend, statusTimeout)
	}
	return false
}

// StateName implements state.Device.
func (c *Controller) StateName() string { return "i8042" }

// StateVersion implements state.Device.
func (c *Controller) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (c *Controller) SaveState(w *state.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.U8(c.mode)
	w.U8(c.status)
	w.U8(c.out)
	w.U8(c.pending)
	w.Bool(c.asserts[0])
	w.Bool(c.asserts[1])
}

// LoadState implements state.Device.
func (c *Controller) LoadState(_ uint16, r *state.Reader) error {
	mode, status, out, pending := r.U8(), r.U8(), r.U8(), r.U8()
	asserts := [2]bool{r.Bool(), r.Bool()}
	switch pending {
	case 0, 0x60, 0xd1, 0xd2, 0xd3, 0xd4:
	default:
		r.Fail(fmt.Errorf("command %#x waits for data", pending))
	}
	const all = statusOutput | statusSystem | statusCommand | statusUnlock | statusAux | statusTimeout
	if mode&^0x77 != 0 || status&^all != 0 || status&statusUnlock == 0 {
		r.Fail(fmt.Errorf("mode %#x, status %#x", mode, status))
	}
	if r.Err() != nil {
		return r.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode, c.status, c.out, c.pending, c.asserts = mode, status, out, pending, asserts
	return nil
}
