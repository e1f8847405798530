// Package rtc is the MC146818A real-time clock of a PC and its CMOS memory.
// Reference: Motorola MC146818A datasheet (ADI856R2); the century byte is where
// the ACPI FADT says.
package rtc

import (
	"sync"
	"time"

	"godwit/vmm/device"
	"godwit/vmm/device/vclock"
)

// Ports: 70h is the index, with the NMI mask in bit 7; 71h the data.
const (
	Base  = 0x70
	Ports = 2
)

// Century is the index of the century byte.
const Century = 0x32

// Registers.
const (
	regSecond      = 0x00
	regAlarmSecond = 0x01
	regMinute      = 0x02
	regAlarmMinute = 0x03
	regHour        = 0x04
	regAlarmHour   = 0x05
	regWeekday     = 0x06
	regDay         = 0x07
	regMonth       = 0x08
	regYear        = 0x09
	regA           = 0x0a
	regB           = 0x0b
	regC           = 0x0c
	regD           = 0x0d
)

const (
	aUIP  = 1 << 7
	aRate = 0x0f
	aInit = 0x26 // 32768 Hz time base, 1024 Hz periodic

	bSet    = 1 << 7
	bPIE    = 1 << 6
	bAIE    = 1 << 5
	bUIE    = 1 << 4
	bBinary = 1 << 2
	b24h    = 1 << 1

	cIRQF = 1 << 7
	cPF   = 1 << 6
	cAF   = 1 << 5
	cUF   = 1 << 4

	dValid = 1 << 7
)

// uipTime is how long before an update UIP rises (datasheet, "update cycle").
const uipTime = 244e3 // ns

const second = int64(time.Second)

// An RTC is the clock. Its time follows the host's wall clock, in UTC, plus
// whatever the guest added by setting it.
type RTC struct {
	clock device.Clock
	wall  func() int64
	irq   device.Line

	updates  device.Timer // once a second, while a guest wants to be told
	periodic device.Timer

	mu      sync.Mutex
	index   uint8
	nmi     bool // NMIs are masked
	ram     [128]byte
	offset  int64  // of the guest's time from the wall clock
	seen    int64  // second up to which flags are set
	ticks   uint64 // periodic ticks up to which flags are set
	asserts bool
}

// New makes an RTC that interrupts through irq. wall is the host's time, in
// nanoseconds since 1970.
func New(clock device.Clock, wall func() int64, irq device.Line) *RTC {
	r := &RTC{clock: clock, wall: wall, irq: irq}
	r.updates = clock.NewTimer(r.tick)
	r.periodic = clock.NewTimer(r.tick)
	r.ram[regA] = aInit
	r.ram[regB] = b24h
	r.ram[regD] = dValid
	r.ram[regDay], r.ram[regMonth] = 1, 1
	r.Reset()
	return r
}

// Reset implements device.Device: the chip is battery-backed, so that a reset
// only stops interrupts (datasheet, "RESET"). Firmware then starts a clock that the
// guest before stopped to set it.
func (r *RTC) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index, r.nmi = 0, false
	r.writeB(r.ram[regB] &^ (bPIE | bAIE | bUIE | bSet))
	r.ram[regC] = 0
	r.seen = r.seconds()
	r.update()
}

// SetMemory describes the machine's memory below and above 4 GiB in the CMOS, as
// a PC's firmware does.
func (r *RTC) SetMemory(below, above uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	put := func(i int, v uint64, n int) {
		for k := range n {
			r.ram[i+k] = byte(v >> (8 * k))
		}
	}
	ext := below - min(below, 1<<20)
	put(0x15, 640, 2)                          // KiB of base memory
	put(0x17, min(ext>>10, 0xffff), 2)         // KiB above 1 MiB
	put(0x30, min(ext>>10, 0xffff), 2)         // the same, as found
	high := (below - min(below, 16<<20)) >> 16 // 64 KiB above 16 MiB
	put(0x34, min(high, 0xffff), 2)
	put(0x5b, min(above>>16, 0xffffff), 3) // 64 KiB above 4 GiB
}

// now is the guest's time. mu is held.
func (r *RTC) now() int64 { return r.wall() + r.offset }

func (r *RTC) seconds() int64 { return floorDiv(r.now(), second) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// rate is log2 of 32768 Hz ticks in a periodic interrupt; false for none
// (datasheet, table 5).
func (r *RTC) rate() (uint, bool) {
	switch rs := uint(r.ram[regA] & aRate); {
	case rs == 0:
		return 0, false
	case rs < 3: // 3.9 and 7.8 ms
		return rs + 6, true
	default:
		return rs - 1, true
	}
}

func (r *RTC) periodicTicks(now int64) uint64 {
	if n, ok := r.rate(); ok {
		return vclock.Ticks(now, 32768) >> n
	}
	return 0
}

// advance brings the flags of register C up to date: they are set whether the
// interrupt is enabled or not. mu is held.
func (r *RTC) advance() {
	if r.ram[regB]&bSet == 0 {
		if s := r.seconds(); s > r.seen {
			r.ram[regC] |= cUF
			// A day's seconds hold every alarm there can be.
			for t := max(r.seen+1, s-86400); t <= s; t++ {
				if r.alarmAt(t) {
					r.ram[regC] |= cAF
					break
				}
			}
			r.seen = s
		} else if s < r.seen { // the host's clock was set back
			r.seen = s
		}
	}
	if t := r.periodicTicks(r.clock.Now()); t != r.ticks {
		r.ram[regC] |= cPF
		r.ticks = t
	}
}

// alarmAt tells whether the alarm matches the second t: C0h to FFh match all
// (datasheet, "alarm").
func (r *RTC) alarmAt(t int64) bool {
	s := t - floorDiv(t, 86400)*86400
	match := func(reg int, v int64) bool {
		a := r.ram[reg]
		return a >= 0xc0 || int64(a) == v
	}
	return match(regAlarmSecond, int64(r.encode(int(s%60)))) &&
		match(regAlarmMinute, int64(r.encode(int(s/60%60)))) &&
		match(regAlarmHour, int64(r.encodeHour(int(s/3600))))
}

// tick is both timers' function.
func (r *RTC) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update()
}

// update brings flags, interrupt line and timers up to date. mu is held.
func (r *RTC) update() {
	r.advance()
	b, c := r.ram[regB], &r.ram[regC]
	*c &^= cIRQF
	if *c&b&(cPF|cAF|cUF) != 0 {
		*c |= cIRQF
	}
	r.drive(*c&cIRQF != 0)
	now := r.clock.Now()
	if b&(bAIE|bUIE) != 0 && b&bSet == 0 {
		t := r.now()
		r.updates.Arm(now + second - (t - floorDiv(t, second)*second))
	} else {
		r.updates.Stop()
	}
	// A flag that is up needs no further tick until register C is read.
	if n, ok := r.rate(); ok && b&bPIE != 0 && *c&cPF == 0 {
		r.periodic.Arm(vclock.Nanoseconds((r.ticks+1)<<n, 32768))
	} else {
		r.periodic.Stop()
	}
}

// drive sets the interrupt line. mu is held.
func (r *RTC) drive(level bool) {
	if level != r.asserts {
		r.asserts = level
		r.irq.Set(level)
	}
}

// In implements device.PortDevice.
func (r *RTC) In(port uint16, size int) uint32 {
	if port&1 == 0 {
		return 0xff // write-only
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint32(r.read(r.index))
}

func (r *RTC) read(i uint8) uint8 {
	switch i {
	case regA:
		v := r.ram[regA]
		if t := r.now(); r.ram[regB]&bSet == 0 && t-floorDiv(t, second)*second >= second-uipTime {
			v |= aUIP
		}
		return v
	case regC:
		r.update()
		v := r.ram[regC]
		r.ram[regC] = 0
		// The read releases the line, whatever rises meanwhile (datasheet, "IRQ"): without that edge
		// the controllers would not see another interrupt.
		r.drive(false)
		r.update()
		return v
	}
	if isTime(i) && r.ram[regB]&bSet == 0 {
		r.fill()
	}
	return r.ram[i]
}

// Out implements device.PortDevice.
func (r *RTC) Out(port uint16, size int, v uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port&1 == 0 {
		r.index, r.nmi = uint8(v)&0x7f, v&0x80 != 0
		return
	}
	r.write(r.index, uint8(v))
}

func (r *RTC) write(i, v uint8) {
	switch i {
	case regA:
		r.advance()
		r.ram[regA] = v &^ aUIP
		r.ticks = r.periodicTicks(r.clock.Now())
		r.update()
	case regB:
		r.writeB(v)
	case regC, regD: // read-only
	default:
		if isTime(i) && r.ram[regB]&bSet == 0 {
			t := r.now()
			r.fill()
			r.ram[i] = v
			r.setTime(t - floorDiv(t, second)*second)
			return
		}
		if i <= regYear {
			r.advance() // before an alarm changes
		}
		r.ram[i] = v
	}
}

// writeB: while SET is up the time stands still and can be written; the first
// update comes half a second after (datasheet, "SET" and "divider control").
func (r *RTC) writeB(v uint8) {
	r.advance()
	old := r.ram[regB]
	if v&bSet != 0 {
		if old&bSet == 0 {
			r.fill()
		}
		v &^= bUIE // SET clears it
	}
	r.ram[regB] = v
	if old&bSet != 0 && v&bSet == 0 {
		r.setTime(second / 2)
	}
	r.update()
}

// NMIMasked tells whether the guest masked NMIs through the index port.
func (r *RTC) NMIMasked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nmi
}
