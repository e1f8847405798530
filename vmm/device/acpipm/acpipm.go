// Package acpipm is the ACPI fixed hardware of a machine: the power management
// timer, the PM1 event and control registers with the power button, sleep state
// S5, and the reset register.
// Reference: ACPI Specification 6.4, sections 4.8.2 and 4.8.3.
package acpipm

import (
	"encoding/binary"
	"fmt"
	"sync"

	"godwit/vmm/device"
	"godwit/vmm/device/vclock"
	"godwit/vmm/state"
)

// Frequency of the PM timer in Hz, and its width (the FADT's TMR_VAL_EXT is clear).
const (
	Frequency = 3579545
	timerMask = 1<<24 - 1
)

// The register block: the FADT says where its parts are.
const (
	Base = 0x600

	PM1Status  = 0x0 // 16 bits
	PM1Enable  = 0x2 // 16 bits
	PM1Control = 0x4 // 16 bits
	PMTimer    = 0x8 // 32 bits
	Reset      = 0xc // 8 bits

	Ports = 0x10
)

// ResetValue written to Reset resets the machine.
const ResetValue = 0x01

// S5 is the sleep type that powers the machine off: \_S5 in the DSDT says so.
const S5 = 5

// PM1 status and enable bits (sections 4.8.3.1.1 and 4.8.3.1.2).
const (
	pm1Timer  = 1 << 0
	pm1Global = 1 << 5
	pm1Power  = 1 << 8
	pm1Sleep  = 1 << 9
	pm1RTC    = 1 << 10
	pm1Wake   = 1 << 15

	statusBits = pm1Timer | pm1Power | pm1Wake // what this hardware ever sets
	enableBits = pm1Timer | pm1Global | pm1Power | pm1Sleep | pm1RTC
)

// PM1 control bits (section 4.8.3.2.1). SCI_EN is always set: there is no legacy mode.
const (
	cntSCI      = 1 << 0
	cntBusMstr  = 1 << 1
	cntType     = 7 << 10
	cntSleepEn  = 1 << 13
	controlBits = cntBusMstr | cntType
)

// Events are what the guest asks of the machine. They are called from a VCPU's
// goroutine, without the device's lock.
type Events struct {
	PowerOff func()
	Reset    func()
}

// A PM is the fixed hardware.
type PM struct {
	clock device.Clock
	timer device.Timer
	sci   device.Line
	on    Events

	mu      sync.Mutex
	status  uint16
	enable  uint16
	control uint16
	flips   uint64 // changes of the timer's top bit up to which status is set
	asserts bool
}

// New makes the fixed hardware. sci is level-triggered.
func New(clock device.Clock, sci device.Line, on Events) *PM {
	p := &PM{clock: clock, sci: sci, on: on}
	p.timer = clock.NewTimer(p.expired)
	p.Reset()
	return p
}

// Reset implements device.Device.
func (p *PM) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.enable, p.control = 0, 0, 0
	p.flips = p.countFlips()
	p.update()
}

// PressPower presses the power button: a guest with ACPI powers off.
func (p *PM) PressPower() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status |= pm1Power
	p.update()
}

func (p *PM) countFlips() uint64 { return vclock.Ticks(p.clock.Now(), Frequency) >> 23 }

// update sets the timer's status, the SCI line and the next moment to look.
func (p *PM) update() {
	if f := p.countFlips(); f != p.flips {
		p.flips = f
		p.status |= pm1Timer
	}
	if level := p.status&p.enable != 0; level != p.asserts {
		p.asserts = level
		p.sci.Set(level)
	}
	if p.enable&pm1Timer != 0 && p.status&pm1Timer == 0 {
		p.timer.Arm(vclock.Nanoseconds((p.flips+1)<<23, Frequency))
	} else {
		p.timer.Stop()
	}
}

func (p *PM) expired() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update()
}

// In implements device.PortDevice.
func (p *PM) In(port uint16, size int) uint32 {
	off := int(port - Base)
	if off == PMTimer && size == 4 { // the hot one: no lock
		return uint32(vclock.Ticks(p.clock.Now(), Frequency)) & timerMask
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update()
	var b [Ports + 4]byte
	binary.LittleEndian.PutUint16(b[PM1Status:], p.status)
	binary.LittleEndian.PutUint16(b[PM1Enable:], p.enable)
	binary.LittleEndian.PutUint16(b[PM1Control:], p.control|cntSCI)
	binary.LittleEndian.PutUint32(b[PMTimer:], uint32(vclock.Ticks(p.clock.Now(), Frequency))&timerMask)
	return binary.LittleEndian.Uint32(b[off&(Ports-1):]) & (1<<(8*size) - 1)
}

// Out implements device.PortDevice.
func (p *PM) Out(port uint16, size int, v uint32) {
	var event func()
	p.mu.Lock()
	for i := range size {
		if e := p.write(int(port-Base)+i, uint8(v>>(8*i))); e != nil {
			event = e
		}
	}
	p.update()
	p.mu.Unlock()
	if event != nil {
		event()
	}
}

// write changes one byte; what it returns is to be called without the lock.
func (p *PM) write(off int, v uint8) (event func()) {
	shift := 8 * (off & 1)
	w, mask := uint16(v)<<shift, uint16(0xff)<<shift
	switch off &^ 1 {
	case PM1Status: // write one to clear
		p.update()
		p.status &^= w
	case PM1Enable:
		p.enable = p.enable&^mask | w&enableBits
	case PM1Control:
		p.control = p.control&^mask | w&controlBits
		if w&cntSleepEn != 0 && p.control&cntType>>10 == S5 {
			return p.on.PowerOff
		}
	case Reset:
		if off == Reset && v == ResetValue {
			return p.on.Reset
		}
	}
	return nil
}

// StateName implements state.Device.
func (p *PM) StateName() string { return "acpipm" }

// StateVersion implements state.Device.
func (p *PM) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (p *PM) SaveState(w *state.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.U16(p.status)
	w.U16(p.enable)
	w.U16(p.control)
	w.U64(p.flips)
	w.Bool(p.asserts)
}

// LoadState implements state.Device. The Clock has been loaded before.
func (p *PM) LoadState(_ uint16, r *state.Reader) error {
	status, enable, control := r.U16(), r.U16(), r.U16()
	flips, asserts := r.U64(), r.Bool()
	if status&^statusBits != 0 || enable&^enableBits != 0 || control&^controlBits != 0 {
		r.Fail(fmt.Errorf("PM1 status, enable, control are %#x, %#x, %#x", status, enable, control))
	}
	if flips > p.countFlips() {
		r.Fail(fmt.Errorf("the timer overflowed %d times already", flips))
	}
	if r.Err() != nil {
		return r.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.enable, p.control, p.flips, p.asserts = status, enable, control, flips, asserts
	if enable&pm1Timer != 0 {
		p.timer.Arm(p.clock.Now())
	} else {
		p.timer.Stop()
	}
	return nil
}
