// Package pic is the pair of 8259A interrupt controllers of a PC, with the edge
// and level control registers that EISA added.
// Reference: Intel 8259A datasheet (231468-003); ELCR: PIIX4 datasheet
// (290562-001), "edge and level control registers".
package pic

import (
	"fmt"
	"math/bits"
	"sync"

	"godwit/vmm/device"
	"godwit/vmm/state"
)

// Ports. Each chip has two; the ELCR has one for each chip.
const (
	Master = 0x20
	Slave  = 0xa0
	ELCR   = 0x4d0
)

// cascade is the master's input that the slave drives.
const cascade = 2

// elcrWritable: IRQ 0, 1, 2, 8 and 13 are always edges.
var elcrWritable = [2]uint8{0xf8, 0xde}

// A PIC is both chips. It implements apic.INTA.
type PIC struct {
	out device.Line // INTR

	mu      sync.Mutex
	chip    [2]chip
	asserts bool // what out was last set to
}

// chip is one 8259A.
type chip struct {
	lines   uint8 // levels of the inputs
	irr     uint8
	imr     uint8
	isr     uint8
	elcr    uint8
	base    uint8 // vector of input 0
	lowest  uint8 // input with the lowest priority
	init    uint8 // next ICW expected, 0 if none
	icw4    bool  // ICW1 announced an ICW4
	single  bool  // ICW1: no ICW3
	readISR bool
	poll    bool
	special bool // special mask mode
	autoEOI bool
	rotate  bool // in auto-EOI mode
	nested  bool // special fully nested mode
}

// New makes a PIC that drives out.
func New(out device.Line) *PIC {
	p := &PIC{out: out}
	p.Reset()
	return p
}

// Reset implements device.Device.
func (p *PIC) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.chip {
		p.chip[i] = chip{lowest: 7, imr: 0}
	}
	p.chip[1].base = 0 // undefined until ICW2, as the master's
	p.asserts = false
	p.out.Set(false)
}

// Firmware puts the PIC into the state that a PC's firmware leaves: vectors 08h
// and 70h, all inputs but the cascade masked.
func (p *PIC) Firmware() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chip[0].base, p.chip[0].imr = 0x08, 0xff&^(1<<cascade)
	p.chip[1].base, p.chip[1].imr = 0x70, 0xff
	p.update()
}

// Line is input irq, 0 to 15.
func (p *PIC) Line(irq int) Line {
	if irq < 0 || irq > 15 || irq == cascade {
		panic(fmt.Sprintf("pic: there is no input %d", irq))
	}
	return Line{p, uint8(irq)}
}

// A Line implements device.Line.
type Line struct {
	p   *PIC
	irq uint8
}

// Set implements device.Line.
func (l Line) Set(level bool) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.chip[l.irq>>3].set(l.irq&7, level) {
		l.p.update()
	}
}

// set changes an input and tells whether anything changed.
func (c *chip) set(n uint8, level bool) bool {
	bit := uint8(1) << n
	if level == (c.lines&bit != 0) {
		return false
	}
	c.lines ^= bit
	if level {
		c.irr |= bit
	} else {
		// The request goes with the line, in edge mode too: the edge sense
		// latch only remembers that there was an edge while the line stays up.
		c.irr &^= bit
	}
	return true
}

// order turns input n into its rank, 0 the most urgent.
func (c *chip) order(n uint8) uint8 { return (n - c.lowest - 1) & 7 }

// best is the most urgent of a set of inputs; ok is false for none.
func (c *chip) best(set uint8) (n uint8, ok bool) {
	if set == 0 {
		return 0, false
	}
	first := (c.lowest + 1) & 7
	return (uint8(bits.TrailingZeros8(bits.RotateLeft8(set, -int(first)))) + first) & 7, true
}

// request is the input that the chip asks for now.
func (c *chip) request() (n uint8, ok bool) {
	n, ok = c.best(c.irr &^ c.imr)
	if !ok {
		return 0, false
	}
	isr := c.isr
	if c.special {
		isr &^= c.imr
	}
	if c.nested && n == cascade {
		// The slave may ask for a more urgent input while it is in service; what
		// is less urgent than the slave may not.
		isr &^= 1 << cascade
	}
	if busy, some := c.best(isr); some && c.order(busy) <= c.order(n) {
		return 0, false
	}
	return n, true
}

// acknowledge takes input n into service.
func (c *chip) acknowledge(n uint8) {
	bit := uint8(1) << n
	if c.autoEOI {
		if c.rotate {
			c.lowest = n
		}
	} else {
		c.isr |= bit
	}
	if c.elcr&bit == 0 {
		c.irr &^= bit
	}
}

// update passes the slave's request to the master and the master's on. mu is held.
func (p *PIC) update() {
	_, slave := p.chip[1].request()
	p.chip[0].set(cascade, slave)
	_, intr := p.chip[0].request()
	if p.chip[0].init != 0 {
		intr = false
	}
	if intr != p.asserts {
		p.asserts = intr
		p.out.Set(intr)
	}
}

// Pending implements apic.INTA.
func (p *PIC) Pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asserts
}

// Acknowledge implements apic.INTA: the processor's two INTA cycles. A request
// that is gone by then gives the spurious vector 7 of the chip that lost it.
func (p *PIC) Acknowledge() uint8 {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.update()
	m, s := &p.chip[0], &p.chip[1]
	n, ok := m.request()
	if !ok {
		return m.base + 7
	}
	if n != cascade {
		m.acknowledge(n)
		return m.base + n
	}
	k, ok := s.request()
	m.acknowledge(cascade)
	if !ok {
		return s.base + 7
	}
	s.acknowledge(k)
	// The slave's line drops with the INTA and rises anew for a further request.
	m.set(cascade, false)
	return s.base + k
}

// In implements device.PortDevice.
func (p *PIC) In(port uint16, size int) uint32 {
	p.mu.Lock()
	c := &p.chip[port>>7&1]
	v := c.irr
	switch {
	case port&^1 == ELCR:
		v = p.chip[port&1].elcr
	case c.poll:
		v = p.polled(c)
	case port&1 != 0:
		v = c.imr
	case c.readISR:
		v = c.isr
	}
	p.mu.Unlock()
	return uint32(v)
}

// polled: the read after a poll command is an acknowledge (datasheet, "poll command").
func (p *PIC) polled(c *chip) uint8 {
	c.poll = false
	n, ok := c.request()
	if !ok {
		return 0
	}
	c.acknowledge(n)
	p.update()
	return 0x80 | n
}

// Out implements device.PortDevice.
func (p *PIC) Out(port uint16, size int, v32 uint32) {
	v := uint8(v32)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.update()
	if port&^1 == ELCR {
		c := &p.chip[port&1]
		c.elcr = v & elcrWritable[port&1]
		c.irr |= c.lines & c.elcr // a level asks, if its edge was served already
		return
	}
	i := port >> 7 & 1
	c := &p.chip[i]
	switch {
	case port&1 != 0:
		c.data(v)
		if i == 1 {
			c.nested = false // means something to a master only
		}
	case v&0x10 != 0:
		c.icw1(v)
		if i == 1 {
			p.chip[0].set(cascade, false)
		}
	case v&0x08 != 0:
		c.ocw3(v)
	default:
		c.ocw2(v)
	}
}

// icw1 starts the initialization sequence (datasheet, "initialization command
// words": what ICW1 clears). A level that is asserted asks again.
func (c *chip) icw1(v uint8) {
	*c = chip{lines: c.lines, elcr: c.elcr, base: c.base, lowest: 7, init: 2}
	c.irr = c.lines & c.elcr
	c.icw4 = v&1 != 0
	c.single = v&2 != 0
}

// data is a write to the odd port: ICW2 to ICW4 in turn, else the mask.
func (c *chip) data(v uint8) {
	switch c.init {
	case 2:
		c.base = v & 0xf8
		c.init = 3
		if c.single {
			c.init = 4
		}
	case 3: // how the cascade is wired: as it is
		c.init = 4
	case 4:
		c.nested = v&0x10 != 0
		c.autoEOI = v&2 != 0
		c.init = 0
	default:
		c.imr = v
	}
	if c.init == 4 && !c.icw4 {
		c.init = 0
	}
}

func (c *chip) ocw2(v uint8) {
	n := v & 7
	switch v >> 5 {
	case 0: // rotate in auto-EOI mode: clear
		c.rotate = false
	case 4: // and set
		c.rotate = true
	case 1, 5: // non-specific EOI, 5 with rotation
		isr := c.isr
		if c.special {
			isr &^= c.imr
		}
		if n, ok := c.best(isr); ok {
			c.isr &^= 1 << n
			if v>>5 == 5 {
				c.lowest = n
			}
		}
	case 3: // specific EOI
		c.isr &^= 1 << n
	case 7: // with rotation
		c.isr &^= 1 << n
		c.lowest = n
	case 6: // set priority
		c.lowest = n
	}
}

func (c *chip) ocw3(v uint8) {
	c.poll = v&4 != 0
	if v&2 != 0 {
		c.readISR = v&1 != 0
	}
	if v&0x40 != 0 {
		c.special = v&0x20 != 0
	}
}

// StateName implements state.Device.
func (p *PIC) StateName() string { return "pic" }

// StateVersion implements state.Device.
func (p *PIC) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (p *PIC) SaveState(w *state.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.chip {
		c := &p.chip[i]
		for _, v := range []uint8{c.lines, c.irr, c.imr, c.isr, c.elcr, c.base, c.lowest, c.init} {
			w.U8(v)
		}
		for _, v := range []bool{c.icw4, c.single, c.readISR, c.poll, c.special, c.autoEOI, c.rotate, c.nested} {
			w.Bool(v)
		}
	}
	w.Bool(p.asserts)
}

// LoadState implements state.Device.
func (p *PIC) LoadState(_ uint16, r *state.Reader) error {
	var chips [2]chip
	for i := range chips {
		c := &chips[i]
		for _, v := range []*uint8{&c.lines, &c.irr, &c.imr, &c.isr, &c.elcr, &c.base, &c.lowest, &c.init} {
			*v = r.U8()
		}
		for _, v := range []*bool{&c.icw4, &c.single, &c.readISR, &c.poll, &c.special, &c.autoEOI, &c.rotate, &c.nested} {
			*v = r.Bool()
		}
		switch {
		case c.irr&^c.lines != 0:
			r.Fail(fmt.Errorf("chip %d: requests %#x without lines %#x", i, c.irr, c.lines))
		case c.elcr&^elcrWritable[i] != 0:
			r.Fail(fmt.Errorf("chip %d: ELCR is %#x", i, c.elcr))
		case c.base&7 != 0 || c.lowest > 7:
			r.Fail(fmt.Errorf("chip %d: vector base %#x, lowest input %d", i, c.base, c.lowest))
		case c.init == 1 || c.init > 4:
			r.Fail(fmt.Errorf("chip %d: expects ICW%d", i, c.init))
		}
	}
	asserts := r.Bool()
	if r.Err() != nil {
		return r.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chip, p.asserts = chips, asserts
	return nil
}
