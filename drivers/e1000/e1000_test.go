package e1000

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vnet/frame"
	"godwit/vnet/nic"
)

// sink is a Handler that keeps what it gets.
type sink struct {
	mu     sync.Mutex
	got    [][]byte
	flags  []frame.Flags
	hold   bool // keep the frames
	held   []*frame.Frame
	links  []nic.Link
	ready  int
	change chan struct{}
}

func newSink() *sink { return &sink{change: make(chan struct{}, 1)} }

func (s *sink) poke() {
	select {
	case s.change <- struct{}{}:
	default:
	}
}

func (s *sink) Receive(batch []*frame.Frame) {
	s.mu.Lock()
	for _, f := range batch {
		b := make([]byte, f.Length)
		f.Copy(b)
		s.got = append(s.got, b)
		s.flags = append(s.flags, f.Flags)
		if s.hold {
			s.held = append(s.held, f)
		} else {
			f.Release()
		}
	}
	s.mu.Unlock()
	s.poke()
}

func (s *sink) LinkChanged(l nic.Link) {
	s.mu.Lock()
	s.links = append(s.links, l)
	s.mu.Unlock()
	s.poke()
}

func (s *sink) TransmitReady() {
	s.mu.Lock()
	s.ready++
	s.mu.Unlock()
	s.poke()
}

// until waits for a condition on the sink.
func (s *sink) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.change:
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func start(t *testing.T, m *model) (*Device, *sink) {
	t.Helper()
	s := newSink()
	d, err := Open(m.config(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, ErrClosed) && !m.gone {
			t.Error(err)
		}
		s.mu.Lock()
		for _, f := range s.held {
			f.Release()
		}
		s.mu.Unlock()
		if n := m.mem.Live(); n != 0 {
			t.Errorf("%d allocations leaked", n)
		}
		if m.master {
			t.Error("bus mastering left on")
		}
	})
	return d, s
}

var models4test = []Model{I82540EM, I82574L}

func each(t *testing.T, f func(t *testing.T, m *model)) {
	for _, kind := range models4test {
		t.Run(kind.String(), func(t *testing.T) { f(t, newModel(t, kind)) })
	}
}

var ownMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}

// packet makes a frame to a station, of n bytes, numbered.
func packet(to net.HardwareAddr, n, number int) []byte {
	p := make([]byte, n)
	copy(p, to)
	copy(p[6:], []byte{2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	for i := 14; i < n; i++ {
		p[i] = byte(number + i)
	}
	return p
}

// send fills a buffer of the device and transmits it.
func send(t *testing.T, d *Device, p []byte) {
	t.Helper()
	if !trySend(d, p) {
		t.Fatal("no room to send")
	}
}

func trySend(d *Device, p []byte) bool {
	f := d.Buffer(len(p))
	if f == nil {
		return false
	}
	copy(f.Segments[0].Data, p)
	f.Trim(len(p))
	if d.Transmit([]*frame.Frame{f}) == 1 {
		return true
	}
	f.Release()
	return false
}

func TestAddressComesFromTheEEPROM(t *testing.T) {
	each(t, func(t *testing.T, m *model) {
		d, _ := start(t, m)
		if d.MAC().String() != ownMAC.String() {
			t.Errorf("MAC %v", d.MAC())
		}
		if lo, hi := m.Read32(regRAL), m.Read32(regRAH); lo != 0x12005452 || hi != 0x80005634 {
			t.Errorf("receive address %#x %#x", hi, lo)
		}
	})
}

func TestAddressFallsBackToTheReceiveRegister(t *testing.T) {
	m := newModel(t, I82540EM)
	m.noEEPROM, m.noReset = true, true
	m.reg[regRAL], m.reg[regRAH] = 0x33221102, rahValid|0x5544
	d, _ := start(t, m)
	if d.MAC().String() != "02:11:22:33:44:55" {
		t.Errorf("MAC %v", d.MAC())
	}
}

func TestNoAddressIsAnError(t *testing.T) {
	for name, eeprom := range map[string][3]uint16{"zero": {}, "multicast": {0x0001, 2, 3}} {
		m := newModel(t, I82540EM)
		copy(m.eeprom[:], eeprom[:])
		if _, err := Open(m.config(), newSink()); err == nil || !strings.Contains(err.Error(), "no MAC address") {
			t.Errorf("%s: %v", name, err)
		}
		if m.mem.Live() != 0 || m.master {
			t.Errorf("%s: something was left behind", name)
		}
	}
}

func TestFramesArriveInOrderThroughManyWraps(t *testing.T) {
	each(t, func(t *testing.T, m *model) {
		d, s := start(t, m)
		const n = 3*rxRing + 17
		for i := range n {
			for !m.receive(packet(ownMAC, 60+i%1455, i), 0) {
				time.Sleep(time.Millisecond) // the ring is full: the driver is behind
			}
		}
		s.until(t, "all frames", func() bool { return len(s.got) == n })
		for i, p := range s.got {
			if !bytes.Equal(p, packet(ownMAC, 60+i%1455, i)) {
				t.Fatalf("frame %d of %d bytes differs", i, len(p))
			}
		}
		if st := d.Stats(); st.RxFrames != n || st.RxErrors != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestOnlyTheFilterPasses(t *testing.T) {
	m := newModel(t, I82540EM)
	d, s := start(t, m)
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	group := net.HardwareAddr{0x33, 0x33, 0xff, 0x12, 0x34, 0x56}
	try := func(a net.HardwareAddr, want bool) {
		t.Helper()
		if got := m.receive(packet(a, 60, 0), 0); got != want {
			t.Errorf("%v received: %v, want %v", a, got, want)
		}
	}
	try(ownMAC, true)
	try(broadcast, true)
	try(other, false)
	try(group, false)
	d.SetFilter(nic.Filter{Multicast: []net.HardwareAddr{group}})
	try(group, true)
	try(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, false)
	d.SetFilter(nic.Filter{AllMulticast: true})
	try(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, true)
	d.SetFilter(nic.Filter{Promiscuous: true})
	try(other, true)
	d.SetFilter(nic.Filter{})
	try(other, false)
	s.until(t, "five frames", func() bool { return len(s.got) == 5 })
}

func TestDamagedFramesAreDropped(t *testing.T) {
	m := newModel(t, I82540EM)
	d, s := start(t, m)
	m.receive(packet(ownMAC, 60, 1), 0)
	for _, e := range []uint32{1 << 8, 1 << 9, 1 << 10, 1 << 12, 1 << 15} {
		m.receive(packet(ownMAC, 60, 2), e)
	}
	m.receive(packet(ownMAC, 9000, 3), 0) // a giant over several descriptors
	m.receive(packet(ownMAC, 13, 4), 0)   // a runt
	m.receive(packet(ownMAC, 60, 5), 0)
	s.until(t, "two good frames", func() bool { return len(s.got) == 2 })
	if !bytes.Equal(s.got[1], packet(ownMAC, 60, 5)) {
		t.Error("the frame after the giant is wrong")
	}
	if st := d.Stats(); st.RxErrors != 7 || st.RxFrames != 2 {
		t.Errorf("%+v", st)
	}
}

func TestReceiveChecksumIsReported(t *testing.T) {
	m := newModel(t, I82574L)
	_, s := start(t, m)
	m.receive(packet(ownMAC, 60, 0), rxTCPSum|rxIPSum)
	m.receive(packet(ownMAC, 60, 1), rxTCPSum|rxIPSum|rxIgnore)
	m.receive(packet(ownMAC, 60, 2), rxTCPSum|rxIPSum|rxTCPError)
	m.receive(packet(ownMAC, 60, 3), rxIPSum)
	s.until(t, "four frames", func() bool { return len(s.got) == 4 })
	for i, want := range []frame.Flags{frame.ChecksumGood, 0, 0, 0} {
		if s.flags[i] != want {
			t.Errorf("frame %d: flags %v, want %v", i, s.flags[i], want)
		}
	}
}

func TestHoldingFramesLosesNewOnesOnly(t *testing.T) {
	m := newModel(t, I82540EM)
	d, s := start(t, m)
	s.hold = true
	sent := 0
	for i := 0; i < 4*rxBuffers; i++ {
		if m.receive(packet(ownMAC, 60, i), 0) {
			sent++
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	s.until(t, "the pool to run dry", func() bool { return d.Stats().RxNoBuffer > 0 })
	s.until(t, "all to be accounted for", func() bool {
		st := d.Stats()
		return st.RxFrames+st.RxNoBuffer == uint64(sent)
	})
	s.mu.Lock()
	if len(s.held) != rxBuffers-rxRing {
		t.Errorf("%d frames held, want %d", len(s.held), rxBuffers-rxRing)
	}
	for _, f := range s.held {
		f.Release()
	}
	s.held, s.hold = nil, false
	before := len(s.got)
	s.mu.Unlock()
	for !m.receive(packet(ownMAC, 60, 7), 0) {
		time.Sleep(time.Millisecond)
	}
	s.until(t, "frames to flow again", func() bool { return len(s.got) > before })
}

// Where reading does not clear the device's count, it is not added again every second.
func TestMissedFramesAreCountedOnce(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		m := newModel(t, I82540EM)
		m.keeps = keeps
		m.irq.masked = true // the driver is not told
		d, s := start(t, m)
		for i := range rxRing + 40 {
			m.receive(packet(ownMAC, 60, i), 0)
		}
		m.irq.Ack()
		s.until(t, "a ring of frames", func() bool { return len(s.got) == rxRing-1 })
		s.until(t, "the device's count", func() bool { return d.Stats().RxMissed != 0 })
		m.mu.Lock()
		m.reg[regMPC] += 2
		m.mu.Unlock()
		s.until(t, "two more", func() bool { return d.Stats().RxMissed != 41 })
		time.Sleep(2500 * time.Millisecond) // looks every second
		if n := d.Stats().RxMissed; n != 43 {
			t.Errorf("keeps %v: %d missed, of 43", keeps, n)
		}
	}
}

func TestATallyCountsWhatARegisterCounts(t *testing.T) {
	var reg uint32
	keeps := false
	get := func() uint32 {
		v := reg
		if !keeps {
			reg = 0
		}
		return v
	}
	for _, keeps = range []bool{false, true} {
		var c tally
		reg = 0
		sum := uint64(0)
		for _, n := range []uint32{0, 1, 0, 0, 1000, 5, 0, 7} {
			reg += n
			sum += uint64(c.read(get))
		}
		if sum != 1013 {
			t.Errorf("keeps %v: %d of 1013", keeps, sum)
		}
		reg = 3 // after a reset
		if n := c.read(get); n != 3 {
			t.Errorf("keeps %v: after a reset %d of 3", keeps, n)
		}
	}
}

func TestFramesGoOutInOrderThroughManyWraps(t *testing.T) {
	each(t, func(t *testing.T, m *model) {
		d, _ := start(t, m)
		const n = 3*txRing + 5
		for i := range n {
			send(t, d, packet(ownMAC, 60+i%1455, i))
		}
		w := m.frames()
		if len(w) != n {
			t.Fatalf("%d frames on the wire, want %d", len(w), n)
		}
		for i, p := range w {
			if !bytes.Equal(p, packet(ownMAC, 60+i%1455, i)) {
				t.Fatalf("frame %d differs", i)
			}
		}
	})
}

func TestScatteredFrameIsGathered(t *testing.T) {
	m := newModel(t, I82540EM)
	d, _ := start(t, m)
	bus, data, _ := m.mem.Alloc(16384, 4096)
	defer m.mem.Free(bus, 16384)
	p := packet(ownMAC, 1514, 3)
	f := frame.New(nil)
	rest := p
	for i, n := range []int{1, 13, 600, 7, 893} {
		at := i*3000 + 5
		copy(data[at:], rest[:n])
		f.Append(frame.Segment{Data: data[at : at+n], Bus: bus + uint64(at)})
		rest = rest[n:]
	}
	if d.Transmit([]*frame.Frame{f}) != 1 {
		t.Fatal("not taken")
	}
	if w := m.frames(); len(w) != 1 || !bytes.Equal(w[0], p) {
		t.Errorf("%d frames; differs", len(w))
	}
}

// owner counts what comes back.
type owner struct {
	mu   sync.Mutex
	back int
	s    *sink
}

func (o *owner) Recycle(*frame.Frame) {
	o.s.mu.Lock()
	o.back++
	o.s.mu.Unlock()
	o.s.poke()
}

func TestFullRingPushesBackAndGoesOn(t *testing.T) {
	m := newModel(t, I82540EM)
	d, s := start(t, m)
	m.hang = true
	bus, data, _ := m.mem.Alloc(2048, 4096)
	defer m.mem.Free(bus, 2048)
	copy(data, packet(ownMAC, 60, 0))
	o := &owner{s: s}
	made := func() *frame.Frame {
		f := frame.New(o)
		f.Append(frame.Segment{Data: data[:60], Bus: bus})
		return f
	}
	taken := 0
	for d.Transmit([]*frame.Frame{made()}) == 1 {
		if taken++; taken > txRing {
			t.Fatal("a full ring took more")
		}
	}
	if taken < txRing-8 {
		t.Errorf("the ring took %d frames only", taken)
	}
	s.mu.Lock()
	if s.ready != 0 || o.back != 0 {
		t.Error("ready with a hanging transmitter")
	}
	s.mu.Unlock()
	m.mu.Lock()
	m.hang = false
	m.transmit()
	m.mu.Unlock()
	s.until(t, "ready", func() bool { return s.ready > 0 })
	s.until(t, "all frames back", func() bool { return o.back == taken })
	if n := len(m.frames()); n != taken {
		t.Errorf("%d frames on the wire, want %d", n, taken)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reg[regIMS]&intTXDW != 0 {
		t.Error("the transmit interrupt stays on with nobody waiting")
	}
}

func TestNotifyReleasesSoon(t *testing.T) {
	m := newModel(t, I82540EM)
	m.irq.endless = true // else the look of each second releases it, too
	d, s := start(t, m)
	bus, data, _ := m.mem.Alloc(2048, 4096)
	defer m.mem.Free(bus, 2048)
	copy(data, packet(ownMAC, 60, 0))
	o := &owner{s: s}
	f := frame.New(o)
	f.Append(frame.Segment{Data: data[:60], Bus: bus})
	f.Notify = true
	d.Transmit([]*frame.Frame{f})
	s.until(t, "the frame back", func() bool { return o.back == 1 })
}

func TestUnsendableFramesAreDroppedAndCounted(t *testing.T) {
	m := newModel(t, I82540EM)
	d, s := start(t, m)
	o := &owner{s: s}
	bus, data, _ := m.mem.Alloc(8192, 4096)
	defer m.mem.Free(bus, 8192)
	bad := map[string]func(f *frame.Frame){
		"empty":  func(f *frame.Frame) {},
		"no DMA": func(f *frame.Frame) { f.Append(frame.Segment{Data: data[:60], Bus: frame.NoDMA}) },
		"empty segment": func(f *frame.Frame) {
			f.Append(frame.Segment{Data: data[:60], Bus: bus})
			f.Append(frame.Segment{Bus: bus})
		},
		"too long":     func(f *frame.Frame) { f.Append(frame.Segment{Data: data[:1600], Bus: bus}) },
		"wrong length": func(f *frame.Frame) { f.Append(frame.Segment{Data: data[:60], Bus: bus}); f.Length = 70 },
		"checksum past the end": func(f *frame.Frame) {
			f.Append(frame.Segment{Data: data[:60], Bus: bus})
			f.Flags, f.ChecksumStart, f.ChecksumOffset = frame.NeedsChecksum, 44, 15
		},
		"segments without a checksum": func(f *frame.Frame) {
			f.Append(frame.Segment{Data: data[:3000], Bus: bus})
			f.Flags, f.GSOSize, f.HeaderLength, f.NetworkHeader = frame.SegmentTCP4, 1000, 54, 14
		},
		"segments of nothing": func(f *frame.Frame) { f.Append(frame.Segment{Data: data[:3000], Bus: bus}); tcp4(f, 0) },
		"segments too long":   func(f *frame.Frame) { f.Append(frame.Segment{Data: data[:3000], Bus: bus}); tcp4(f, 1461) },
		"headers in two pieces": func(f *frame.Frame) {
			f.Append(frame.Segment{Data: data[:30], Bus: bus})
			f.Append(frame.Segment{Data: data[30:3000], Bus: bus + 30})
			tcp4(f, 1460)
		},
	}
	for name, build := range bad {
		f := frame.New(o)
		build(f)
		before := d.Stats().TxErrors
		if d.Transmit([]*frame.Frame{f}) != 1 || d.Stats().TxErrors != before+1 {
			t.Errorf("%s: not refused", name)
		}
	}
	if o.back != len(bad) || len(m.frames()) != 0 {
		t.Errorf("%d of %d frames back", o.back, len(bad))
	}
}

// tcp4 describes a frame of headers of 14, 20 and 20 bytes to be segmented.
func tcp4(f *frame.Frame, size uint32) {
	f.Flags = frame.NeedsChecksum | frame.SegmentTCP4
	f.NetworkHeader, f.HeaderLength = 14, 54
	f.ChecksumStart, f.ChecksumOffset = 34, 16
	f.GSOSize = size
}

// segmentable makes a TCP frame with n bytes of payload and its pseudo-header's
// sum in place.
func segmentable(v6 bool, n int) (p []byte, header int) {
	header = 54
	if v6 {
		header = 74
	}
	p = packet(ownMAC, header+n, 1)
	tcp := header - 20
	var sum uint32
	if v6 {
		p[12], p[13] = 0x86, 0xdd
		clear(p[14:22])
		p[14], p[20], p[21] = 0x60, 6, 64
		binary.BigEndian.PutUint16(p[18:], uint16(20+n))
		sum = uint32(onesSum(p[22:54], 6))
	} else {
		p[12], p[13] = 8, 0
		p[14], p[23] = 0x45, 6
		binary.BigEndian.PutUint16(p[16:], uint16(40+n))
		sum = uint32(onesSum(p[26:34], 6))
	}
	p[tcp+12], p[tcp+13] = 0x50, 0x19 // FIN, PSH, ACK
	pseudo := onesSum(nil, sum+uint32(20+n))
	binary.BigEndian.PutUint16(p[tcp+16:], pseudo)
	return p, header
}

func TestSegmentationOffload(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		m := newModel(t, I82540EM)
		d, _ := start(t, m)
		const n, mss = 40000, 1400
		p, header := segmentable(v6, n)
		f := d.Buffer(len(p))
		copy(f.Segments[0].Data, p)
		f.Trim(len(p))
		tcp4(f, mss)
		if v6 {
			f.Flags = frame.NeedsChecksum | frame.SegmentTCP6
			f.HeaderLength, f.ChecksumStart = 74, 54
		}
		if d.Transmit([]*frame.Frame{f}) != 1 {
			t.Fatal("not taken")
		}
		send(t, d, packet(ownMAC, 1514, 9)) // the one after is whole too
		w := m.frames()
		if want := (n+mss-1)/mss + 1; len(w) != want {
			t.Fatalf("v6 %v: %d frames on the wire, want %d", v6, len(w), want)
		}
		if !bytes.Equal(w[len(w)-1], packet(ownMAC, 1514, 9)) {
			t.Error("the frame after the segmented one differs")
		}
		var payload []byte
		seq := binary.BigEndian.Uint32(p[header-16:])
		for i, s := range w[:len(w)-1] {
			tcp := s[header-20:]
			if got := binary.BigEndian.Uint32(tcp[4:]); got != seq {
				t.Fatalf("segment %d: sequence number %d, want %d", i, got, seq)
			}
			seq += uint32(len(s) - header)
			payload = append(payload, s[header:]...)
			addresses := s[26:34]
			if v6 {
				addresses = s[22:54]
			} else if onesSum(s[14:34], 0) != 0xffff {
				t.Fatalf("segment %d: IP checksum wrong", i)
			}
			pseudo := uint32(onesSum(addresses, 6)) + uint32(len(tcp))
			if onesSum(tcp, pseudo) != 0xffff {
				t.Fatalf("v6 %v: segment %d: TCP checksum wrong", v6, i)
			}
		}
		if !bytes.Equal(payload, p[header:]) {
			t.Error("payload differs")
		}
	}
}

func TestChecksumOffload(t *testing.T) {
	m := newModel(t, I82540EM)
	d, _ := start(t, m)
	p, header := segmentable(false, 1000)
	f := d.Buffer(len(p))
	copy(f.Segments[0].Data, p)
	f.Trim(len(p))
	f.Flags, f.ChecksumStart, f.ChecksumOffset = frame.NeedsChecksum, 34, 16
	d.Transmit([]*frame.Frame{f})
	w := m.frames()
	if len(w) != 1 || !bytes.Equal(w[0][header:], p[header:]) {
		t.Fatal("frame differs")
	}
	if onesSum(w[0][34:], uint32(onesSum(w[0][26:34], 6))+1020) != 0xffff {
		t.Error("TCP checksum wrong")
	}
}

func TestLinkChangesAreTold(t *testing.T) {
	each(t, func(t *testing.T, m *model) {
		d, s := start(t, m)
		s.until(t, "the first state", func() bool { return len(s.links) == 1 && s.links[0].Up })
		if l := d.Link(); l.String() != "1000 Mb/s full duplex" {
			t.Errorf("link %v", l)
		}
		m.setLink(false)
		s.until(t, "down", func() bool { return len(s.links) == 2 && !s.links[1].Up })
		m.setLink(true)
		s.until(t, "up", func() bool { return len(s.links) == 3 && s.links[2].Mbps == 1000 })
	})
}

func TestHungTransmitterIsReset(t *testing.T) {
	m := newModel(t, I82540EM)
	d, s := start(t, m)
	m.mu.Lock()
	m.hang = true
	m.mu.Unlock()
	send(t, d, packet(ownMAC, 60, 0))
	for range hangTicks - 1 {
		d.watchForTest()
	}
	if d.Stats().Resets != 0 {
		t.Error("reset too soon")
	}
	m.mu.Lock()
	m.hang = false
	m.mu.Unlock()
	for range 2 {
		d.watchForTest()
	}
	if st := d.Stats(); st.Resets != 1 {
		t.Fatalf("%d resets", st.Resets)
	}
	if d.smallTx.InUse() != 0 {
		t.Error("the frame that hung was lost")
	}
	m.frames()
	send(t, d, packet(ownMAC, 60, 1))
	if w := m.frames(); len(w) != 1 || !bytes.Equal(w[0], packet(ownMAC, 60, 1)) {
		t.Error("nothing goes out after the reset")
	}
	m.receive(packet(ownMAC, 60, 2), 0)
	s.until(t, "a frame received after the reset", func() bool { return len(s.got) == 1 })
}

// A machine that routes the interrupt elsewhere: what comes is found, if not as cheaply.
func TestFramesArriveWithoutInterrupts(t *testing.T) {
	m := newModel(t, I82540EM)
	m.irq.masked = true
	var log []string
	var mu sync.Mutex
	told := func(what string) bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.ContainsFunc(log, func(l string) bool { return strings.Contains(l, what) })
	}
	cfg, s := m.config(), newSink()
	cfg.Log = func(l string) { mu.Lock(); log = append(log, l); mu.Unlock() }
	d, err := Open(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range lostTicks {
		if d.watchForTest(); told("interrupt does not") {
			t.Fatalf("told after %d frames", i)
		}
		m.receive(packet(ownMAC, 60, i), 0)
		d.watchForTest()
	}
	if !told("interrupt does not") {
		t.Fatalf("told: %q", log)
	}
	for i := range 100 {
		m.receive(packet(ownMAC, 60, i), 0)
		s.until(t, "a frame", func() bool { return len(s.got) == lostTicks+i+1 })
	}
	m.irq.Ack()
	m.receive(packet(ownMAC, 60, 0), 0)
	s.until(t, "a frame with an interrupt", func() bool { return len(s.got) == lostTicks+101 && told("come again") })
}

func TestDeviceThatResetsNothing(t *testing.T) {
	m := newModel(t, I82540EM)
	m.noReset = true
	m.reg[regRDH], m.reg[regTDH], m.reg[regIMS] = 77, 88, intAll // firmware left it running
	m.reg[regRAH+8] = rahValid
	d, s := start(t, m)
	send(t, d, packet(ownMAC, 60, 1))
	m.receive(packet(ownMAC, 60, 2), 0)
	s.until(t, "a frame", func() bool { return len(s.got) == 1 })
	if len(m.frames()) != 1 || m.reg[regRAH+8] != 0 {
		t.Error("left as it was")
	}
}

func TestAbsentDevice(t *testing.T) {
	m := newModel(t, I82540EM)
	m.gone = true
	if _, err := Open(m.config(), newSink()); !errors.Is(err, errGone) {
		t.Error(err)
	}
}

func TestDeviceThatVanishes(t *testing.T) {
	m := newModel(t, I82540EM)
	d, _ := start(t, m)
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	d.watchForTest()
	send(t, d, packet(ownMAC, 60, 1))
	if err := d.Close(); !errors.Is(err, errGone) {
		t.Errorf("Close: %v", err)
	}
}

func TestCloseWithFramesEverywhere(t *testing.T) {
	each(t, func(t *testing.T, m *model) {
		d, s := start(t, m)
		s.hold = true
		m.receive(packet(ownMAC, 60, 1), 0)
		s.until(t, "a frame", func() bool { return len(s.held) == 1 })
		m.mu.Lock()
		m.hang = true
		m.mu.Unlock()
		send(t, d, packet(ownMAC, 60, 2))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); !errors.Is(err, ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if m.receive(packet(ownMAC, 60, 3), 0) || m.reg[regIMS] != 0 {
			t.Error("the device still works")
		}
		if f := d.Buffer(60); f != nil {
			t.Error("a closed device gave a buffer")
		}
	})
}

// flood is a peer that sends a new frame for each that is handed on.
type flood struct {
	*sink
	m       *model
	batches atomic.Int64
}

func (f *flood) Receive(batch []*frame.Frame) {
	for _, b := range batch {
		b.Release()
		f.m.receive(packet(ownMAC, 60, 1), 0)
	}
	f.batches.Add(1)
	f.poke()
}

func TestFloodKeepsNobodyFromSendingOrClosing(t *testing.T) {
	each(t, func(t *testing.T, m *model) {
		f := &flood{sink: newSink(), m: m}
		d, err := Open(m.config(), f)
		if err != nil {
			t.Fatal(err)
		}
		for range rxRing / 2 {
			m.receive(packet(ownMAC, 60, 1), 0)
		}
		f.until(t, "the flood goes on", func() bool { return f.batches.Load() > 100 })
		d.tx.mu.Lock()
		d.tx.blocked = true // as after a Transmit without room
		d.tx.mu.Unlock()
		f.until(t, "who waits to send may go on", func() bool { return f.ready > 0 })
		m.setLink(false)
		f.until(t, "the link goes down", func() bool { return len(f.links) > 1 && !f.links[len(f.links)-1].Up })
		closed := make(chan error, 1)
		go func() { closed <- d.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("Close hangs")
		}
	})
}

func TestSendingFromManySides(t *testing.T) {
	m := newModel(t, I82540EM)
	d, _ := start(t, m)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 1000; {
				if trySend(d, packet(ownMAC, 60+g, i)) {
					i++
				}
			}
		}()
	}
	wg.Wait()
	if n := len(m.frames()); n != 4000 {
		t.Errorf("%d frames on the wire, want 4000", n)
	}
}

func TestMemoryThatRunsOutIsGivenBack(t *testing.T) {
	for left := 0; ; left++ {
		m := newModel(t, I82540EM)
		c := m.config()
		c.Memory = &scarceMemory{m.mem, left}
		d, err := Open(c, newSink())
		if err == nil {
			d.Close()
			if left < 4 {
				t.Errorf("only %d allocations?", left)
			}
			return
		}
		if n := m.mem.Live(); n != 0 {
			t.Fatalf("after %d: %d allocations leaked", left, n)
		}
	}
}

type scarceMemory struct {
	*frame.HeapMemory
	left int
}

func (s *scarceMemory) Alloc(size, align uint64) (uint64, []byte, error) {
	if s.left--; s.left < 0 {
		return 0, nil, errors.New("no memory")
	}
	return s.HeapMemory.Alloc(size, align)
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	m := newModel(t, I82540EM)
	d, _ := start(t, m)
	one := make([]*frame.Frame, 1)
	if n := testing.AllocsPerRun(200, func() {
		f := d.Buffer(60)
		f.Trim(60)
		one[0] = f
		d.tx.mu.Lock()
		d.reclaim()
		d.queue(f)
		for i := range d.tx.desc {
			d.tx.desc[i].status = txDone
		}
		d.tx.mu.Unlock()
	}); n != 0 {
		t.Errorf("transmit: %v allocations", n)
	}
}
