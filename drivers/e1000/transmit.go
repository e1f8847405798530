package e1000

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"godwit/vnet/frame"
)

// txState is the transmit ring.
type txState struct {
	bus  uint64
	desc *[txRing]txDesc

	mu sync.Mutex // guards what follows, and the tail register
	// sent holds, at the first descriptor of each frame, the frame and its last
	// descriptor.
	sent    [txRing]sentFrame
	clean   int  // first descriptor not taken back
	next    int  // first free descriptor
	used    int  // descriptors between the two
	blocked bool // a Transmit could not take all
	notify  int  // frames in the ring that somebody waits for
	armed   bool // the interrupt for written-back descriptors is enabled
	paused  bool // the device is being reset
	stopped bool // the device is closed
	// afterTSO: the last frame was segmented. See sentinel.
	afterTSO bool
	stalled  int // ticks of the watchdog without progress
}

type sentFrame struct {
	frame *frame.Frame
	last  int
}

func (t *txState) allocate(m frame.Memory) error {
	bus, mem, err := m.Alloc(txRing*descSize, 4096)
	if err != nil {
		return err
	}
	t.bus, t.desc = bus, (*[txRing]txDesc)(unsafe.Pointer(&mem[0]))
	return nil
}

func (t *txState) free(m frame.Memory) {
	if t.desc != nil {
		m.Free(t.bus, txRing*descSize)
		t.desc = nil
	}
}

// initTransmit is 8254x 14.5, without enabling. tx.mu is held.
func (d *Device) initTransmit() {
	r, t := d.regs, &d.tx
	for i := range t.desc {
		t.desc[i] = txDesc{lo: ^uint64(0), status: txDone}
	}
	t.clean, t.next, t.used, t.notify = 0, 0, 0, 0
	t.armed, t.afterTSO, t.stalled, t.paused = false, false, 0, false
	r.Write32(regTDBAL, uint32(t.bus))
	r.Write32(regTDBAH, uint32(t.bus>>32))
	r.Write32(regTDLEN, txRing*descSize)
	r.Write32(regTDH, 0)
	r.Write32(regTDT, 0)
	r.Write32(regTIDV, 0)
	r.Write32(regTADV, 0)
	txdctl := uint32(dctlGranule | dctlWriteBack1)
	if d.cfg.Model == I82574L {
		txdctl |= txdctl82574
	}
	r.Write32(regTXDCTL, txdctl)
	r.Write32(regTIPG, tipgCopper)
}

func (d *Device) transmitControl() uint32 {
	v := uint32(tctlEN | tctlValue)
	if d.cfg.Model == I82574L {
		v |= tctlMULR
	}
	return v
}

// Transmit takes over frames to send, in order, and reports how many it took. If
// not all, TransmitReady of the handler follows when there is room again; the
// rest is still the caller's. Frames the device cannot send are dropped and
// counted. Any goroutine may call it, the handler too.
//
// A frame to be segmented has its headers in one piece in its first segment, and
// they are changed.
func (d *Device) Transmit(frames []*frame.Frame) int {
	t := &d.tx
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped || d.closing.Load() {
		for _, f := range frames {
			f.Release()
		}
		return len(frames)
	}
	if t.paused {
		t.blocked = true
		return 0
	}
	if t.used > txRing/2 {
		d.reclaim()
	}
	start := t.next
	n := 0
	for ; n < len(frames); n++ {
		if !d.queue(frames[n]) {
			t.blocked = true
			break
		}
	}
	if t.next != start {
		d.regs.Write32(regTDT, uint32(t.next))
	}
	d.arm()
	return n
}

// arm enables the interrupt for sent frames while somebody waits for them; with
// nobody waiting they are taken back on the way. tx.mu is held.
func (d *Device) arm() {
	t := &d.tx
	if (t.blocked || t.notify > 0) && !t.armed && !t.paused {
		t.armed = true
		// Causes that came before show now: ICR keeps them while masked.
		d.regs.Write32(regIMS, intTXDW)
	}
}

// queue writes a frame's descriptors. It reports false when there is no room.
func (d *Device) queue(f *frame.Frame) bool {
	t := &d.tx
	need := 0
	for i := range f.Segments {
		need += (len(f.Segments[i].Data) + txMaxLength - 1) / txMaxLength
	}
	need += 2 // context, sentinel
	if need > txRing-1 || !sendable(f) {
		d.counters.txErrors.Add(1)
		f.Release()
		return true
	}
	if need > txRing-1-t.used {
		d.reclaim()
		if need > txRing-1-t.used {
			return false
		}
	}
	first := t.next
	command, options := uint32(txFCS), uint32(0)
	tso := f.Segmented()
	if f.Flags&(frame.NeedsChecksum|frame.SegmentTCP4|frame.SegmentTCP6) != 0 {
		context, opts := offload(f)
		t.put(context)
		command |= txExtend | txData
		options = opts
		if tso {
			command |= txSegment
		}
	}
	sentinel := tso || t.afterTSO
	last := first
	for i := range f.Segments {
		s := &f.Segments[i]
		for at := 0; at < len(s.Data); {
			n := min(len(s.Data)-at, txMaxLength)
			end := at+n == len(s.Data) && i == len(f.Segments)-1
			if end && sentinel && n > 8 {
				// After a segmentation the controller can report a frame as sent
				// before it has fetched the end of its last buffer. Four bytes
				// in a descriptor of their own are the known way around.
				n -= 4
				end, sentinel = false, false
			}
			c := command | uint32(n)
			if end {
				c |= txEnd | txReport
			}
			last = t.put(txDesc{lo: s.Bus + uint64(at), command: c, status: options})
			at += n
		}
	}
	t.afterTSO = tso
	t.sent[first] = sentFrame{f, last}
	if f.Notify {
		t.notify++
	}
	d.counters.txFrames.Add(1)
	d.counters.txBytes.Add(uint64(f.Length))
	return true
}

// put writes the next descriptor and returns its index.
func (t *txState) put(desc txDesc) int {
	i := t.next
	t.desc[i] = desc
	t.next = (i + 1) % txRing
	t.used++
	return i
}

// sendable tells whether the device can send a frame as it is described.
func sendable(f *frame.Frame) bool {
	var sum uint64
	for i := range f.Segments {
		s := &f.Segments[i]
		if len(s.Data) == 0 || s.Bus == frame.NoDMA {
			return false
		}
		sum += uint64(len(s.Data))
	}
	if sum != uint64(f.Length) || sum < 14 {
		return false
	}
	// 8254x 3.3.6: positions have 8 bits.
	if f.Flags&frame.NeedsChecksum != 0 {
		at := int(f.ChecksumStart) + int(f.ChecksumOffset)
		if f.ChecksumStart > 255 || at > 255 || at+2 > int(f.Length) {
			return false
		}
	}
	if !f.Segmented() {
		return sum <= maxFrame
	}
	h, ip := int(f.HeaderLength), int(f.NetworkHeader)
	minimum := 20
	if f.Flags&frame.SegmentTCP6 != 0 {
		minimum = 40
	}
	return f.Flags&frame.NeedsChecksum != 0 && h <= 240 && h <= len(f.Segments[0].Data) &&
		ip >= 14 && ip+minimum <= int(f.ChecksumStart) && int(f.ChecksumStart)+20 <= h &&
		f.ChecksumOffset == 16 && f.GSOSize > 0 && h-14+int(f.GSOSize) <= MTU &&
		sum-uint64(h) <= txMaxPayload
}

// offload makes the context descriptor for a frame, 8254x 3.3.6, and its data
// descriptors' options. For segmentation it puts the headers in the form that
// 8254x 3.5.7 wants: lengths and IP checksum zero, and a pseudo-header's sum
// without the length, which the device adds for each segment.
func offload(f *frame.Frame) (context txDesc, options uint32) {
	start := uint64(f.ChecksumStart)
	context.lo = start<<32 | (start+uint64(f.ChecksumOffset))<<40 // TUCSE 0: to the end
	context.command = txExtend
	if f.ChecksumOffset == 16 { // TCP's, RFC 9293 3.1
		context.command |= txContextTCP
	}
	options = txSumTCP
	if !f.Segmented() {
		return context, options
	}
	h := f.Segments[0].Data[:f.HeaderLength]
	ip := h[f.NetworkHeader:]
	if f.Flags&frame.SegmentTCP4 != 0 {
		n := uint64(f.NetworkHeader)
		context.lo |= n | (n+10)<<8 | (start-1)<<16
		context.command |= txContextIPv4
		options |= txSumIP
		binary.BigEndian.PutUint16(ip[2:], 0)  // total length, RFC 791
		binary.BigEndian.PutUint16(ip[10:], 0) // header checksum
	} else {
		binary.BigEndian.PutUint16(ip[4:], 0) // payload length, RFC 8200
	}
	sum := h[start+uint64(f.ChecksumOffset):]
	length := f.Length - uint32(start)
	binary.BigEndian.PutUint16(sum, subtract(binary.BigEndian.Uint16(sum), length))
	payload := f.Length - uint32(f.HeaderLength)
	context.command |= txSegment | payload
	context.status = uint32(f.HeaderLength)<<8 | f.GSOSize<<16
	return context, options
}

// subtract takes a 32-bit number's two halves from a one's complement sum.
func subtract(sum uint16, n uint32) uint16 {
	s := uint32(sum) + uint32(^uint16(n>>16)) + uint32(^uint16(n))
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// reclaim releases frames the device is done with. tx.mu is held.
func (d *Device) reclaim() {
	t := &d.tx
	for t.used > 0 {
		s := &t.sent[t.clean]
		if load(&t.desc[s.last].status)&txDone == 0 {
			return
		}
		n := (s.last-t.clean+txRing)%txRing + 1
		t.clean = (t.clean + n) % txRing
		t.used -= n
		t.stalled = 0
		f := s.frame
		if f.Notify {
			t.notify--
		}
		*s = sentFrame{}
		f.Release()
	}
}

// transmitted is the service goroutine's part after an interrupt: it takes back
// frames and reports whether a sender that had to wait may go on.
func (d *Device) transmitted() (ready bool) {
	t := &d.tx
	t.mu.Lock()
	defer t.mu.Unlock()
	d.reclaim()
	ready = t.blocked && t.used <= txRing/2
	if ready {
		t.blocked = false
	}
	if t.armed && !t.blocked && t.notify == 0 {
		t.armed = false
		d.regs.Write32(regIMC, intTXDW)
	}
	return ready
}

// dropAll releases the frames of a device that was reset. tx.mu is held.
func (t *txState) dropAll() {
	for i := range t.sent {
		if f := t.sent[i].frame; f != nil {
			t.sent[i] = sentFrame{}
			f.Release()
		}
	}
	t.clean, t.next, t.used, t.notify = 0, 0, 0, 0
}
