// Package sysport has a PC's small ports: 92h, with fast A20 and fast reset, and
// 80h, where firmware and kernels write progress codes or pass a microsecond.
// Reference: PIIX4 datasheet (290562-001), "port 92 register"; IBM PS/2 Hardware
// Interface Technical Reference, "System Control Port A".
package sysport

import (
	"fmt"
	"sync/atomic"

	"godwit/vmm/state"
)

// Ports.
const (
	Port80 = 0x80
	Port92 = 0x92
)

const (
	p92Reset = 1 << 0
	p92A20   = 1 << 1 // always on: no guest of this machine needs addresses to wrap
	p92Kept  = 0xc8   // LEDs and the password lock
)

// Ports are both.
type Ports struct {
	reset func()
	p92   atomic.Uint32
	p80   atomic.Uint32
}

// New makes the ports; reset resets the machine.
func New(reset func()) *Ports { return &Ports{reset: reset} }

// Reset implements device.Device. The progress code stays: it may say why.
func (p *Ports) Reset() { p.p92.Store(0) }

// Progress is the last code written to port 80h.
func (p *Ports) Progress() uint8 { return uint8(p.p80.Load()) }

// In implements device.PortDevice.
func (p *Ports) In(port uint16, size int) uint32 {
	if port == Port80 {
		return p.p80.Load()
	}
	return p.p92.Load() | p92A20
}

// Out implements device.PortDevice.
func (p *Ports) Out(port uint16, size int, v uint32) {
	if port == Port80 {
		p.p80.Store(v & 0xff)
		return
	}
	old := p.p92.Swap(v & (p92Kept | p92Reset))
	if v&^old&p92Reset != 0 { // a rising edge resets
		p.reset()
	}
}

// StateName implements state.Device.
func (p *Ports) StateName() string { return "sysport" }

// StateVersion implements state.Device.
func (p *Ports) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (p *Ports) SaveState(w *state.Writer) {
	w.U8(uint8(p.p92.Load()))
	w.U8(uint8(p.p80.Load()))
}

// LoadState implements state.Device.
func (p *Ports) LoadState(_ uint16, r *state.Reader) error {
	p92, p80 := r.U8(), r.U8()
	if p92&^(p92Kept|p92Reset) != 0 {
		r.Fail(fmt.Errorf("port 92h is %#x", p92))
	}
	if r.Err() != nil {
		return r.Err()
	}
	p.p92.Store(uint32(p92))
	p.p80.Store(uint32(p80))
	return nil
}
