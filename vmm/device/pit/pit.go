// Package pit is the 8254 interval timer of a PC, with port 61h, which gates its
// third channel and reads its output.
// Reference: Intel 8254 datasheet (231164-005).
package pit

import (
	"fmt"
	"sync"

	"godwit/vmm/device"
	"godwit/vmm/device/vclock"
	"godwit/vmm/state"
)

// Frequency in Hz: a third of the NTSC colour subcarrier.
const Frequency = 1193182

// Ports: 40h to 42h are the channels, 43h the control word; 61h is apart.
const (
	Base        = 0x40
	Ports       = 4
	portControl = 0x43
	Port61      = 0x61
)

// Port 61h (PIIX4 datasheet, 290562-001, "NMI status and control register").
const (
	p61Gate    = 1 << 0
	p61Speaker = 1 << 1
	p61Kept    = 0x0f
	p61Refresh = 1 << 4 // toggles with each refresh request
	p61Out     = 1 << 5
)

// refreshHz is the rate of refresh requests: one in 15.085 microseconds.
const refreshHz = Frequency / 18

// minPeriod bounds the rate of interrupts: a guest that asks for more gets that
// many, so that it can not occupy the host with its timer.
const minPeriod = 100e3 // ns

// A PIT is the timer.
type PIT struct {
	clock device.Clock
	timer device.Timer
	irq   device.Line

	mu     sync.Mutex
	ch     [3]channel
	port61 uint8
	level  bool  // of irq
	next   int64 // when channel 0's output rises next, 0 if never
}

// New makes a PIT that interrupts through irq.
func New(clock device.Clock, irq device.Line) *PIT {
	p := &PIT{clock: clock, irq: irq}
	p.timer = clock.NewTimer(p.expired)
	p.Reset()
	return p
}

// Reset implements device.Device. Nothing counts until it is programmed; the
// datasheet leaves the state undefined.
func (p *PIT) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.ch {
		p.ch[i] = channel{mode: 3, rw: rwBoth, gate: i != 2}
	}
	p.port61 = 0
	p.setLevel(false)
	p.schedule(p.clock.Now())
}

func (p *PIT) setLevel(level bool) {
	if level != p.level {
		p.level = level
		p.irq.Set(level)
	}
}

// schedule finds when channel 0's output rises next. mu is held.
func (p *PIT) schedule(now int64) {
	c := &p.ch[0]
	p.next = 0
	if c.counting() {
		e, n := c.elapsed(now), uint64(c.reload)
		switch {
		case c.mode == 2 || c.mode == 3:
			p.next = c.start + vclock.Nanoseconds((e/n+1)*n, Frequency)
			if vclock.Nanoseconds(n, Frequency) < minPeriod {
				p.next = now + minPeriod
			}
		case e < n:
			p.next = c.start + vclock.Nanoseconds(n, Frequency)
		}
	}
	if p.next == 0 {
		p.timer.Stop()
	} else {
		p.timer.Arm(p.next)
	}
}

// expired is the timer's function.
func (p *PIT) expired() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if p.next == 0 || now < p.next {
		return // reprogrammed meanwhile
	}
	p.setLevel(false)
	p.setLevel(true)
	p.schedule(now)
}

// In implements device.PortDevice.
func (p *PIT) In(port uint16, size int) uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	switch port {
	case Port61:
		v := p.port61
		if vclock.Ticks(now, refreshHz)&1 != 0 {
			v |= p61Refresh
		}
		if p.ch[2].out(now) {
			v |= p61Out
		}
		return uint32(v)
	case portControl:
		return 0xff // write-only
	}
	return uint32(p.ch[port&3%3].read(now))
}

// Out implements device.PortDevice.
func (p *PIT) Out(port uint16, size int, v uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	switch port {
	case Port61:
		p.port61 = uint8(v) & p61Kept
		p.ch[2].setGate(v&p61Gate != 0, now)
	case portControl:
		p.control(uint8(v), now)
	default:
		i := port & 3 % 3
		done := p.ch[i].write(uint8(v), now)
		if i == 0 {
			if p.ch[0].mode == 0 {
				p.setLevel(false)
			}
			if done || !p.ch[0].loaded {
				p.schedule(now)
			}
		}
	}
}

func (p *PIT) control(v uint8, now int64) {
	i := v >> 6
	if i == 3 {
		p.readBack(v, now)
		return
	}
	c := &p.ch[i]
	if v>>4&3 == 0 {
		c.latchCount(now)
		return
	}
	c.setMode(v)
	if i == 0 {
		p.setLevel(c.mode != 0)
		p.schedule(now)
	}
}

// readBack latches counts and statuses of several channels.
func (p *PIT) readBack(v uint8, now int64) {
	for i := range p.ch {
		if v>>(i+1)&1 == 0 {
			continue
		}
		if v&(1<<5) == 0 {
			p.ch[i].latchCount(now)
		}
		if v&(1<<4) == 0 {
			p.ch[i].latchStatus(now)
		}
	}
}

// StateName implements state.Device.
func (p *PIT) StateName() string { return "pit" }

// StateVersion implements state.Device.
func (p *PIT) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (p *PIT) SaveState(w *state.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.ch {
		c := &p.ch[i]
		for _, v := range []bool{c.bcd, c.loaded, c.begun, c.gate, c.half, c.readHalf, c.hasStat} {
			w.Bool(v)
		}
		for _, v := range []uint8{c.mode, c.rw, c.low, c.latched, c.status} {
			w.U8(v)
		}
		w.U16(c.latch)
		w.U32(c.reload)
		w.I64(c.start)
		w.U64(c.held)
	}
	w.U8(p.port61)
	w.Bool(p.level)
	w.I64(p.next)
}

// LoadState implements state.Device. The Clock has been loaded before.
func (p *PIT) LoadState(_ uint16, r *state.Reader) error {
	now := p.clock.Now()
	var ch [3]channel
	for i := range ch {
		c := &ch[i]
		for _, v := range []*bool{&c.bcd, &c.loaded, &c.begun, &c.gate, &c.half, &c.readHalf, &c.hasStat} {
			*v = r.Bool()
		}
		for _, v := range []*uint8{&c.mode, &c.rw, &c.low, &c.latched, &c.status} {
			*v = r.U8()
		}
		c.latch = r.U16()
		c.reload = r.U32()
		c.start = r.I64()
		c.held = r.U64()
		switch {
		case c.mode > 5 || c.rw > 3 || c.latched > 2:
			r.Fail(fmt.Errorf("channel %d: mode %d, RW %d, %d bytes latched", i, c.mode, c.rw, c.latched))
		case uint64(c.reload) > c.modulus() || c.loaded && c.reload == 0:
			r.Fail(fmt.Errorf("channel %d: its count is %d", i, c.reload))
		case c.start < -maxAge || c.start > now:
			r.Fail(fmt.Errorf("channel %d: it began at %d, and it is %d", i, c.start, now))
		case c.held > vclock.Ticks(maxAge, Frequency):
			r.Fail(fmt.Errorf("channel %d: counted %d when its gate closed", i, c.held))
		case i != 2 && !c.gate:
			r.Fail(fmt.Errorf("channel %d: its gate is tied high", i))
		}
	}
	port61, level, next := r.U8(), r.Bool(), r.I64()
	if port61&^p61Kept != 0 || ch[2].gate != (port61&p61Gate != 0) {
		r.Fail(fmt.Errorf("port 61h is %#x", port61))
	}
	if next < 0 || next != 0 && !ch[0].counting() {
		r.Fail(fmt.Errorf("channel 0 interrupts at %d", next))
	}
	if r.Err() != nil {
		return r.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ch, p.port61, p.level, p.next = ch, port61, level, next
	if next == 0 {
		p.timer.Stop()
	} else {
		p.timer.Arm(next)
	}
	return nil
}

// maxAge bounds how long a machine can have run, in nanoseconds: a century.
const maxAge = 100 * 366 * 86400 * 1e9
