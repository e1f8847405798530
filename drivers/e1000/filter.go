package e1000

import (
	"net"

	"godwit/vnet/nic"
)

// SetFilter changes what is received.
func (d *Device) SetFilter(f nic.Filter) {
	d.filterMu.Lock()
	defer d.filterMu.Unlock()
	d.filter = f
	if d.running { // else initialize does it
		d.programFilter()
		// QEMU's 82540EM receives nothing for a second after RCTL is written:
		// only when it changes.
		if v := d.receiveControl(); v != d.regs.Read32(regRCTL) {
			d.regs.Write32(regRCTL, v)
		}
	}
}

// programFilter writes the receive addresses, 8254x 13.5.2, and the multicast
// table, 13.5.1. filterMu is held.
func (d *Device) programFilter() {
	r, m := d.regs, d.mac
	r.Write32(regRAL, uint32(m[0])|uint32(m[1])<<8|uint32(m[2])<<16|uint32(m[3])<<24)
	r.Write32(regRAH, uint32(m[4])|uint32(m[5])<<8|rahValid)
	for i := uint64(1); i < addressRegisters; i++ {
		r.Write32(regRAH+8*i, 0)
		r.Write32(regRAL+8*i, 0)
	}
	var table [multicastRegisters]uint32
	for _, a := range d.filter.Multicast {
		if len(a) == 6 {
			h := multicastHash(a)
			table[h>>5] |= 1 << (h & 31)
		}
	}
	for i, v := range table {
		r.Write32(regMTA+4*uint64(i), v)
	}
}

// multicastHash picks a bit of the table: bits 47 to 36 of the address, with
// RCTL.MO 0; 8254x 13.5.1.
func multicastHash(a net.HardwareAddr) uint16 {
	return (uint16(a[4])>>4 | uint16(a[5])<<4) & 0xfff
}
