package e1000

import "sync/atomic"

// counters are the driver's own, and the device's since they clear on reading.
type counters struct {
	rxFrames, rxBytes, rxErrors, rxNoBuffer atomic.Uint64
	txFrames, txBytes, txErrors             atomic.Uint64
	interrupts, resets                      atomic.Uint64
	missed, crcErrors                       atomic.Uint64
}

// Stats counts what a device did since it was opened.
type Stats struct {
	RxFrames, RxBytes uint64
	RxErrors          uint64 // damaged, too long or too short
	RxCRCErrors       uint64 // of which the device itself dropped for their check sequence
	RxMissed          uint64 // no room in the device or its ring
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
	r, c := d.regs, &d.counters
	c.missed.Add(uint64(r.Read32(regMPC)))
	c.crcErrors.Add(uint64(r.Read32(regCRCERRS)))
	c.rxErrors.Add(uint64(r.Read32(regRXERRC)) + uint64(r.Read32(regRUC)) + uint64(r.Read32(regROC)))
}

// clearStatistics reads away what was counted before; 8254x 14.8.
func (d *Device) clearStatistics() {
	for _, reg := range []uint64{regMPC, regCRCERRS, regRXERRC, regRUC, regROC} {
		d.regs.Read32(reg)
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
