package uart

// maxBursts is how often in a row the THR-empty interrupt is reported before the
// transmitter, which is never busy here, seems busy for once. Otherwise a guest
// with enough to send would never leave its interrupt handler: Linux complains
// after 512 rounds ("too much work for irq4").
const maxBursts = 256

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
		return iirTimeout
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

// readIIR identifies the most urgent cause.
func (u *UART) readIIR() uint8 {
	c := u.cause()
	switch {
	case c == iirNone:
		u.bursts = 0
	case c == iirTHRE && u.bursts == maxBursts:
		// Not now, but again at once: the line falls, and its next edge makes
		// another interrupt once this one is done.
		u.bursts = 0
		c = iirNone
		if u.asserts {
			u.irq.Set(false)
			u.irq.Set(true)
		}
	case c == iirTHRE: // reading it is the acknowledgement
		u.bursts++
		u.thre = false
		u.update()
	}
	if u.fcr&fcrEnable != 0 {
		c |= iirFIFO
	}
	return c
}
