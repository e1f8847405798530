package e1000

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// reset stops the device and brings its registers to their initial state;
// 8254x 14.3 and 82574 "Global Reset and General Configuration". On return it
// neither reaches memory nor interrupts.
//
// Emulators reset nothing, or not all, on CTRL.RST: everything that matters is
// written too, here and in initialize.
func (d *Device) reset() error {
	r := d.regs
	if r.Read32(regSTATUS) == statusAbsent {
		return errGone
	}
	r.Write32(regIMC, intAll)
	r.Write32(regRCTL, 0)
	r.Write32(regTCTL, tctlPSP)
	r.Read32(regSTATUS) // the writes have arrived
	if d.cfg.Model == I82574L {
		// 82574 "Master Disable": let requests under way end, or the reset can
		// hang the bus.
		r.Write32(regCTRL, r.Read32(regCTRL)|ctrlNoGIO)
		d.poll(10*time.Millisecond, func() bool { return r.Read32(regSTATUS)&statusGIO == 0 })
	}
	r.Write32(regCTRL, r.Read32(regCTRL)|ctrlRST)
	// 8254x 13.4.1: wait a microsecond before touching the device again.
	d.cfg.Sleep(10 * time.Microsecond)
	if !d.poll(20*time.Millisecond, func() bool {
		c := r.Read32(regCTRL)
		return c&ctrlRST == 0
	}) {
		if r.Read32(regSTATUS) == statusAbsent {
			return errGone
		}
		return errors.New("e1000: the device's reset did not end in 20 ms")
	}
	if d.cfg.Model == I82574L {
		if !d.poll(20*time.Millisecond, func() bool { return r.Read32(regEECD)&eecdAutoRead != 0 }) {
			return errors.New("e1000: the 82574L did not load its configuration from NVM in 20 ms")
		}
	} else {
		// 8254x 14.3: the EEPROM is read anew, which takes up to 5 ms; MAC
		// registers are not to be relied on before.
		d.cfg.Sleep(5 * time.Millisecond)
	}
	r.Write32(regIMC, intAll)
	r.Read32(regICR)
	return nil
}

// stop resets the device and takes memory from it.
func (d *Device) stop() error {
	d.filterMu.Lock()
	d.running = false
	d.filterMu.Unlock()
	err := d.reset()
	d.cfg.BusMaster(false)
	return err
}

// poll waits until a condition holds.
func (d *Device) poll(limit time.Duration, ok func() bool) bool {
	const step = 100 * time.Microsecond
	for waited := time.Duration(0); ; waited += step {
		if ok() {
			return true
		}
		if waited >= limit {
			return false
		}
		d.cfg.Sleep(step)
	}
}

// readMAC reads the address from words 0 to 2 of the EEPROM, 8254x 5.6.1. The
// receive address registers hold it too on hardware and in QEMU, but are zero at
// reset in Bochs.
func (d *Device) readMAC() (net.HardwareAddr, error) {
	var mac net.HardwareAddr
	for word := range uint32(3) {
		v, ok := d.readEEPROM(word)
		if !ok {
			break
		}
		mac = append(mac, byte(v), byte(v>>8))
	}
	if len(mac) == 6 && goodMAC(mac) {
		return mac, nil
	}
	lo, hi := d.regs.Read32(regRAL), d.regs.Read32(regRAH)
	fallback := net.HardwareAddr{byte(lo), byte(lo >> 8), byte(lo >> 16), byte(lo >> 24), byte(hi), byte(hi >> 8)}
	if hi&rahValid != 0 && goodMAC(fallback) {
		return fallback, nil
	}
	return nil, fmt.Errorf("e1000: no MAC address: EEPROM has %v, receive address register 0 %v", mac, fallback)
}

// goodMAC tells whether an address can be a station's own: not a group, not
// zero.
func goodMAC(a net.HardwareAddr) bool {
	var any byte
	for _, b := range a {
		any |= b
	}
	return any != 0 && a[0]&1 == 0
}

// readEEPROM reads one word; 8254x 5.3.1 and 13.4.4.
func (d *Device) readEEPROM(word uint32) (v uint16, ok bool) {
	var done, shift uint32 = eerd8254xDone, eerd8254xAddress
	if d.cfg.Model == I82574L {
		done, shift = eerd82574Done, eerd82574Address
	}
	d.regs.Write32(regEERD, word<<shift|eerdStart)
	var r uint32
	if !d.poll(5*time.Millisecond, func() bool {
		r = d.regs.Read32(regEERD)
		return r&done != 0
	}) {
		return 0, false
	}
	return uint16(r >> eerdData), true
}

// initialize brings a reset device to work; its rings must be allocated. It is
// used again after the device hung.
func (d *Device) initialize() {
	r := d.regs
	// 8254x 14.3, general configuration: link up, speed and duplex by
	// auto-negotiation, no VLAN mode.
	ctrl := r.Read32(regCTRL)
	ctrl &^= ctrlLRST | ctrlPHYRST | ctrlILOS | ctrlVME | ctrlFRCSPD | ctrlFRCDPLX | ctrlRFCE | ctrlTFCE | ctrlNoGIO
	ctrl |= ctrlSLU | ctrlFD
	if d.cfg.Model == I82540EM {
		ctrl |= ctrlASDE
	} else {
		ctrl &^= ctrlASDE
		r.Write32(regCTRLX, r.Read32(regCTRLX)|ctrlxDriverLoaded)
	}
	r.Write32(regCTRL, ctrl)
	// 8254x 14.3: no flow control, the registers are all zero.
	for _, reg := range []uint64{regFCAL, regFCAH, regFCT, regFCTTV, regFCRTL, regFCRTH} {
		r.Write32(reg, 0)
	}
	r.Write32(regWUC, 0)
	d.clearStatistics() // 8254x 14.8

	d.initReceive()
	d.tx.mu.Lock()
	d.initTransmit()
	d.tx.mu.Unlock()

	d.cfg.BusMaster(true)
	d.filterMu.Lock()
	d.programFilter()
	r.Write32(regRCTL, d.receiveControl())
	d.running = true
	d.filterMu.Unlock()
	r.Write32(regRDT, rxRing-1) // 8254x 14.4: after the receiver is enabled
	r.Write32(regTCTL, d.transmitControl())

	r.Write32(regITR, moderation)
	r.Read32(regICR)
	r.Write32(regIMS, intIdle)
}
