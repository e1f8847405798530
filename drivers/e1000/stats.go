package e1000

import "sync/atomic"

// counters are the driver's own, and the sums of the device's.
type counters struct {
	rxFrames, rxBytes, rxErrors, rxNoBuffer atomic.Uint64
	txFrames, txBytes, txErrors             atomic.Uint64
	interrupts, resets                      atomic.Uint64
	missed, crcErrors                       atomic.Uint64

	tallies [5]tally // the service goroutine's, or of who resets the device
}

// A tally is one of the device's statistics registers. Reading them clears them (8254x 13.7), but not in QEMU: there MPC,
// CRCERRS and RXERRC only grow, on both models, and what was counted once would be added every second. Which it is shows
// when a register is not zero: read again at once, a cleared one has what came within a microsecond.
type tally struct {
	keeps bool   // reading does not clear it
	last  uint32 // what it held when it was looked at last; 0 if it clears
}

// read is what the register has counted since the last time.
func (t *tally) read(get func() uint32) uint32 {
	v := get()
	if v < t.last {
		*t = tally{} // it was reset, or clears after all
	}
	if !t.keeps {
		if v == 0 {
			return 0
		}
		again := get()
		if t.keeps = again >= v; !t.keeps {
			return v + again
		}
		v = again
	}
	n := v - t.last
	t.last = v
	return n
}

// Stats counts what a device did since it was opened.
type Stats struct {
	RxFrames, RxBytes uint64
	RxErrors          uint64 // damaged, too long or too short
	RxCRCErrors       uint64 // of which the device itself dropped for their check sequence
	RxMissed          uint64 // no room in the device, most often because its ring of 255 was full (8254x 13.7, MPC)
	RxNoBuffer        uint64 // the host held all buffers
	TxFrames, TxBytes uint64
	TxErrors          uint64 // frames the device cannot send
	Interrupts        uint64
	Resets            uint64 // the transmitter hung
}

// Stats returns the counters, those the device keeps as of the last second.
func (d *Device) Stats() Stats {
	c := &d.counters
	return Stats{
		RxFrames: c.rxFrames.Load(), RxBytes: c.rxBytes.Load(),
		RxErrors: c.rxErrors.Load(), RxCRCErrors: c.crcErrors.Load(),
		RxMissed: c.missed.Load(), RxNoBuffer: c.rxNoBuffer.Load(),
		TxFrames: c.txFrames.Load(), TxBytes: c.txBytes.Load(), TxErrors: c.txErrors.Load(),
		Interrupts: c.interrupts.Load(), Resets: c.resets.Load(),
	}
}

// readStatistics adds up the registers, 8254x 13.7.
func (d *Device) readStatistics() {
	c := &d.counters
	for i, s := range [...]struct {
		reg uint64
		sum *atomic.Uint64
	}{{regMPC, &c.missed}, {regCRCERRS, &c.crcErrors}, {regRXERRC, &c.rxErrors}, {regRUC, &c.rxErrors}, {regROC, &c.rxErrors}} {
		s.sum.Add(uint64(c.tallies[i].read(func() uint32 { return d.regs.Read32(s.reg) })))
	}
}

// clearStatistics reads away what was counted before; 8254x 14.8.
func (d *Device) clearStatistics() {
	for i, reg := range [...]uint64{regMPC, regCRCERRS, regRXERRC, regRUC, regROC} {
		t := &d.counters.tallies[i]
		*t = tally{}
		t.read(func() uint32 { return d.regs.Read32(reg) })
	}
}

// Counters names the counters for the console.
func (d *Device) Counters() map[string]uint64 {
	s := d.Stats()
	return map[string]uint64{
		"rx_frames": s.RxFrames, "rx_bytes": s.RxBytes, "rx_errors": s.RxErrors, "rx_crc_errors": s.RxCRCErrors,
		"rx_missed": s.RxMissed, "rx_no_buffer": s.RxNoBuffer,
		"tx_frames": s.TxFrames, "tx_bytes": s.TxBytes, "tx_errors": s.TxErrors,
		"interrupts": s.Interrupts, "resets": s.Resets,
	}
}
