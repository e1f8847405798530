package e1000

import (
	"unsafe"

	"godwit/vnet/frame"
)

// rxState is the receive ring. Only the service goroutine touches it.
type rxState struct {
	bus   uint64
	desc  *[rxRing]rxDesc
	held  [rxRing]*frame.Frame // the buffer each descriptor points to
	next  int                  // the first descriptor the device still has
	skip  bool                 // in the middle of a frame too long for a buffer
	batch [rxBatch]*frame.Frame
}

func (x *rxState) allocate(m frame.Memory) error {
	bus, mem, err := m.Alloc(rxRing*descSize, 4096)
	if err != nil {
		return err
	}
	x.bus, x.desc = bus, (*[rxRing]rxDesc)(unsafe.Pointer(&mem[0]))
	return nil
}

func (x *rxState) free(m frame.Memory) {
	for i, f := range x.held {
		if f != nil {
			f.Release()
			x.held[i] = nil
		}
	}
	if x.desc != nil {
		m.Free(x.bus, rxRing*descSize)
		x.desc = nil
	}
}

// initReceive is 8254x 14.4, without the last step, enabling.
func (d *Device) initReceive() {
	r, x := d.regs, &d.rx
	// A descriptor that is not filled points nowhere, so that a device that
	// fetches too early does no harm.
	for i := range x.desc {
		x.desc[i] = rxDesc{address: ^uint64(0)}
	}
	for i := range x.held {
		if x.held[i] == nil {
			// There are more buffers than descriptors, and only a started device
			// hands them out: there is one.
			x.held[i] = d.rxPool.Get()
			if x.held[i] == nil {
				break
			}
		}
		x.desc[i] = rxDesc{address: x.held[i].Segments[0].Bus}
	}
	x.next, x.skip = 0, false
	r.Write32(regRDBAL, uint32(x.bus))
	r.Write32(regRDBAH, uint32(x.bus>>32))
	r.Write32(regRDLEN, rxRing*descSize)
	r.Write32(regRDH, 0)
	r.Write32(regRDT, 0)
	// 8254x 13.4.30: RDTR other than 0 is discouraged; ITR moderates.
	r.Write32(regRDTR, 0)
	r.Write32(regRADV, 0)
	r.Write32(regRXDCTL, dctlGranule|dctlWriteBack1)
	r.Write32(regRXCSUM, rxcsumIP|rxcsumTCP)
}

// receiveControl is RCTL for the filter that is set: 2 KiB buffers, frames up to
// 1522 bytes, check sequence stripped. filterMu is held.
func (d *Device) receiveControl() uint32 {
	v := uint32(rctlEN | rctlBAM | rctlSECRC)
	if d.filter.Promiscuous {
		v |= rctlUPE | rctlMPE
	}
	if d.filter.AllMulticast {
		v |= rctlMPE
	}
	return v
}

// receive hands on the frames that have arrived, and reports how many, and whether
// more may wait: it takes a ring's worth at most, or a peer that sends faster than
// frames are handed on would keep its caller from everything else.
func (d *Device) receive() (frames int, more bool) {
	more = true
	for taken := 0; more && taken < rxRing; taken += rxBatch {
		var n int
		if n, more = d.receiveBatch(); n > 0 {
			frames += n
			d.handler.Receive(d.rx.batch[:n])
			clear(d.rx.batch[:n])
		}
	}
	return frames, more
}

// receiveBatch collects frames into rx.batch and gives their descriptors back
// with fresh buffers. It reports how many there are, and whether more may wait.
//
// When no fresh buffer is free a frame is dropped rather than its descriptor left
// empty: the ring is always full, and who holds frames too long loses new ones.
func (d *Device) receiveBatch() (n int, more bool) {
	x, c := &d.rx, &d.counters
	taken := 0
	for taken < rxBatch {
		desc := &x.desc[x.next]
		status := load(&desc.status)
		if status&rxDone == 0 {
			break
		}
		length := int(desc.length)
		held := x.held[x.next]
		switch {
		case status&rxEnd == 0 || x.skip:
			// 2 KiB hold any frame the device is told to accept: what does not
			// end in its first buffer is none of them.
			x.skip = status&rxEnd == 0
			if !x.skip {
				c.rxErrors.Add(1)
			}
		case status&rxErrors != 0 || length < 14 || length > rxSize:
			c.rxErrors.Add(1)
		default:
			fresh := d.rxPool.Get()
			if fresh == nil {
				c.rxNoBuffer.Add(1)
				break
			}
			held.Trim(length)
			if status&(rxIgnore|rxTCPSum|rxIPSum|rxTCPError|rxIPError) == rxTCPSum|rxIPSum {
				held.Flags = frame.ChecksumGood
			}
			x.batch[n] = held
			n++
			c.rxFrames.Add(1)
			c.rxBytes.Add(uint64(length))
			held = fresh
		}
		x.held[x.next] = held
		*desc = rxDesc{address: held.Segments[0].Bus}
		x.next = (x.next + 1) % rxRing
		taken++
	}
	if taken > 0 {
		// One descriptor always stays the driver's: head equal to tail means an
		// empty ring; 8254x 3.2.6.
		d.regs.Write32(regRDT, uint32((x.next+rxRing-1)%rxRing))
	}
	return n, taken == rxBatch
}
