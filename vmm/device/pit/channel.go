package pit

import "godwit/vmm/device/vclock"

// How a channel's bytes are read and written (datasheet, "RW" bits).
const (
	rwLow  = 1
	rwHigh = 2
	rwBoth = 3
)

// channel is one of the three counters. Its count is not kept but follows from
// the time since it began.
type channel struct {
	mode   uint8 // 0 to 5
	bcd    bool
	rw     uint8
	loaded bool   // a count has been written since the mode was
	begun  bool   // modes 1 and 5: the gate triggered it
	reload uint32 // 1 to 65536, or to 10000 in BCD
	start  int64  // when it began to count
	gate   bool
	held   uint64 // ticks counted when the gate went low, where that stops it

	half     bool // the next write is the high byte
	low      uint8
	readHalf bool // the next read is the high byte
	latched  uint8
	latch    uint16
	status   uint8
	hasStat  bool
}

// gateStops: a low gate stops counting in these modes.
func (c *channel) gateStops() bool { return c.mode != 1 && c.mode != 5 }

// needsTrigger: only a rising gate starts these modes.
func (c *channel) needsTrigger() bool { return !c.gateStops() }

func (c *channel) counting() bool {
	if c.needsTrigger() {
		return c.loaded && c.begun
	}
	return c.loaded && c.gate
}

// elapsed is how many ticks have been counted.
func (c *channel) elapsed(now int64) uint64 {
	if !c.counting() {
		return c.held
	}
	return vclock.Ticks(max(0, now-c.start), Frequency)
}

// modulus is what the counter wraps at.
func (c *channel) modulus() uint64 {
	if c.bcd {
		return 10000
	}
	return 65536
}

// count is what the counting element holds, in binary.
func (c *channel) count(now int64) uint64 {
	if !c.loaded {
		return 0
	}
	e, n := c.elapsed(now), uint64(c.reload)
	switch c.mode {
	case 2:
		return (n - e%n) % c.modulus()
	case 3: // counts down by two, twice a period
		return (n&^1 - 2*e%max(n&^1, 2)) % c.modulus()
	}
	return (n%c.modulus() + c.modulus() - e%c.modulus()) % c.modulus()
}

// out is the level of the output.
func (c *channel) out(now int64) bool {
	if !c.loaded {
		return c.mode != 0
	}
	e, n := c.elapsed(now), uint64(c.reload)
	switch c.mode {
	case 0:
		return e >= n
	case 1:
		return !c.begun || e >= n
	case 2:
		return !c.gate || e%n != n-1
	case 3:
		return !c.gate || e%n < (n+1)/2
	}
	return !c.counting() || e != n // modes 4 and 5: low for one tick
}

// setGate follows the gate input.
func (c *channel) setGate(level bool, now int64) {
	if level == c.gate {
		return
	}
	e := c.elapsed(now)
	c.gate = level
	switch {
	case c.needsTrigger():
		if level && c.loaded {
			c.begun, c.start = true, now
		}
	case c.mode == 2 || c.mode == 3: // a rising gate reloads
		c.held, c.start = 0, now
	case !level:
		c.held = e
	default: // modes 0 and 4 go on where they were
		c.start = now - vclock.Nanoseconds(c.held, Frequency)
	}
}

// setMode is a control word that is not a latch or read-back command.
func (c *channel) setMode(v uint8) {
	mode := v >> 1 & 7
	if mode > 5 {
		mode -= 4 // bit 2 is a don't care in modes 2 and 3
	}
	*c = channel{mode: mode, bcd: v&1 != 0, rw: v >> 4 & 3, gate: c.gate}
}

// write takes a byte of a count; true when the count is complete.
func (c *channel) write(v uint8, now int64) bool {
	var n uint16
	switch c.rw {
	case rwLow:
		n = uint16(v)
	case rwHigh:
		n = uint16(v) << 8
	default:
		if !c.half {
			c.half, c.low = true, v
			if c.mode == 0 { // the first byte stops the count
				c.loaded, c.held = false, 0
			}
			return false
		}
		c.half = false
		n = uint16(v)<<8 | uint16(c.low)
	}
	c.reload = uint32(n)
	if c.bcd {
		c.reload = fromBCD(n)
	}
	if c.reload == 0 {
		c.reload = uint32(c.modulus())
	}
	// The 8254 lets modes 2 and 3 finish their period first; all software that
	// cares writes the mode before, which restarts it.
	c.loaded, c.held, c.start = true, 0, now
	return true
}

// read gives a byte of the status, of the latched count or of the count.
func (c *channel) read(now int64) uint8 {
	if c.hasStat {
		c.hasStat = false
		return c.status
	}
	var n uint16
	if c.latched > 0 {
		n = c.latch
	} else {
		n = c.value(now)
	}
	high := c.rw == rwHigh
	if c.rw == rwBoth || c.rw == 0 {
		high = c.readHalf
		c.readHalf = !c.readHalf
	}
	if c.latched > 0 {
		c.latched--
	}
	if high {
		return uint8(n >> 8)
	}
	return uint8(n)
}

// value is the count as software reads it.
func (c *channel) value(now int64) uint16 {
	n := c.count(now)
	if c.bcd {
		return toBCD(n)
	}
	return uint16(n)
}

// latchCount keeps the count until it is read; a second command is ignored.
func (c *channel) latchCount(now int64) {
	if c.latched > 0 {
		return
	}
	c.latch = c.value(now)
	c.latched = 1
	if c.rw == rwBoth || c.rw == 0 {
		c.latched = 2
		c.readHalf = false
	}
}

func (c *channel) latchStatus(now int64) {
	if c.hasStat {
		return
	}
	c.status = c.rw<<4 | c.mode<<1
	if c.bcd {
		c.status |= 1
	}
	if !c.loaded {
		c.status |= 1 << 6
	}
	if c.out(now) {
		c.status |= 1 << 7
	}
	c.hasStat = true
}

func fromBCD(n uint16) uint32 {
	v := uint32(0)
	for i := 12; i >= 0; i -= 4 {
		v = v*10 + uint32(n>>i&15)
	}
	return v % 10000 // digits above 9 are undefined: keep them in range
}

func toBCD(n uint64) uint16 {
	return uint16(n/1000%10<<12 | n/100%10<<8 | n/10%10<<4 | n%10)
}
