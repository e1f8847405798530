package e1000

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"godwit/vnet/frame"
)

// model is the device: its registers behave as 8254x chapter 13 says, as far as
// the driver uses them. What hardware forbids fails the test.
type model struct {
	t    *testing.T
	kind Model
	mem  *frame.HeapMemory

	mu       sync.Mutex
	reg      map[uint64]uint32
	eeprom   [64]uint16
	master   bool
	gone     bool // unplugged: reads all ones
	noReset  bool // CTRL.RST resets nothing, as in emulators
	noEEPROM bool
	hang     bool // the transmitter fetches nothing
	wire     [][]byte
	context  txDesc
	irq      *modelInterrupt
	missed   uint32
	keeps    bool // reading statistics does not clear them, as in QEMU
	// early: the device fetched descriptors before it was told to.
	resets int
}

// modelInterrupt is a level-triggered line.
type modelInterrupt struct {
	mu      sync.Mutex
	cond    *sync.Cond
	level   bool
	masked  bool
	closed  bool
	endless bool // Wait's time-out never comes
}

func newModelInterrupt() *modelInterrupt {
	i := &modelInterrupt{}
	i.cond = sync.NewCond(&i.mu)
	return i
}

func (i *modelInterrupt) set(level bool) {
	i.mu.Lock()
	i.level = level
	i.cond.Broadcast()
	i.mu.Unlock()
}

func (i *modelInterrupt) Wait(timeout time.Duration) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	expired := false
	if i.endless {
		timeout = time.Hour
	}
	t := time.AfterFunc(timeout, func() {
		i.mu.Lock()
		expired = true
		i.cond.Broadcast()
		i.mu.Unlock()
	})
	defer t.Stop()
	for !expired && !i.closed {
		if i.level && !i.masked {
			i.masked = true
			return true
		}
		i.cond.Wait()
	}
	return false
}

func (i *modelInterrupt) Ack() {
	i.mu.Lock()
	i.masked = false
	i.cond.Broadcast()
	i.mu.Unlock()
}

func (i *modelInterrupt) Close() {
	i.mu.Lock()
	i.closed = true
	i.cond.Broadcast()
	i.mu.Unlock()
}

func newModel(t *testing.T, kind Model) *model {
	m := &model{t: t, kind: kind, mem: &frame.HeapMemory{}, irq: newModelInterrupt()}
	m.eeprom[0], m.eeprom[1], m.eeprom[2] = 0x5452, 0x1200, 0x5634
	m.powerOn()
	m.reg[regSTATUS] = statusLU | statusFD | 2<<6
	return m
}

func (m *model) powerOn() {
	status := m.reg[regSTATUS]
	m.reg = map[uint64]uint32{
		regSTATUS: status,
		regCTRL:   ctrlLRST | 1<<0,
		regEECD:   eecdAutoRead,
		regTIPG:   0x602008,
	}
}

func (m *model) config() Config {
	return Config{
		Model:     m.kind,
		Registers: m,
		Memory:    m.mem,
		Interrupt: m.irq,
		Log:       func(s string) { m.t.Log(s) },
		Sleep:     func(time.Duration) {},
		BusMaster: func(on bool) {
			m.mu.Lock()
			m.master = on
			m.mu.Unlock()
		},
	}
}

func (m *model) Read32(reg uint64) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return 0xffff_ffff
	}
	switch reg {
	case regICR:
		v := m.reg[regICR]
		m.reg[regICR] = 0
		m.line()
		return v
	case regEERD:
		v := m.reg[regEERD]
		done, shift := uint32(eerd8254xDone), eerd8254xAddress
		if m.kind == I82574L {
			done, shift = eerd82574Done, eerd82574Address
		}
		if v&eerdStart == 0 || m.noEEPROM {
			return 0
		}
		return uint32(m.eeprom[v>>shift&63])<<eerdData | done
	case regMPC, regCRCERRS, regRXERRC, regRUC, regROC:
		v := m.reg[reg]
		if !m.keeps {
			m.reg[reg] = 0
		}
		return v
	}
	return m.reg[reg]
}

func (m *model) Write32(reg uint64, v uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return
	}
	switch reg {
	case regCTRL:
		if v&ctrlRST != 0 {
			m.resets++
			if !m.noReset {
				m.powerOn()
			}
			m.reg[regCTRL] &^= ctrlRST
			return
		}
		if m.kind == I82574L && v&ctrlASDE != 0 {
			m.t.Error("ASDE is reserved on the 82574")
		}
	case regIMS:
		m.reg[regIMS] |= v
		m.line()
		return
	case regIMC:
		m.reg[regIMS] &^= v
		m.line()
		return
	case regICR:
		m.reg[regICR] &^= v
		m.line()
		return
	case regTDH, regRDH, regTDBAL, regTDBAH, regTDLEN, regRDBAL, regRDBAH, regRDLEN:
		if reg >= regTDBAL && m.reg[regTCTL]&tctlEN != 0 || reg < regTDBAL && m.reg[regRCTL]&rctlEN != 0 {
			m.t.Errorf("register %#x written with the unit enabled", reg)
		}
		if reg == regTDLEN || reg == regRDLEN {
			if v%128 != 0 {
				m.t.Errorf("ring length %d is no multiple of 128", v)
			}
		}
	case regTDT:
		m.reg[reg] = v
		m.transmit()
		return
	case regRDT:
		if v != 0 && m.reg[regRCTL]&rctlEN == 0 {
			m.t.Error("receive tail moved before the receiver is enabled")
		}
	}
	m.reg[reg] = v
}

// line drives the interrupt from causes and mask. m.mu is held.
func (m *model) line() { m.irq.set(m.reg[regICR]&m.reg[regIMS] != 0) }

func (m *model) cause(c uint32) {
	m.reg[regICR] |= c
	m.line()
}

// dma returns memory at a bus address, or fails the test.
func (m *model) dma(bus, n uint64) []byte {
	if !m.master {
		m.t.Error("the device was used without bus mastering")
		return nil
	}
	b := m.mem.At(bus, n)
	if b == nil {
		m.t.Errorf("DMA to %#x, %d bytes: no memory there", bus, n)
	}
	return b
}

func (m *model) txDescAt(i uint32) *txDesc {
	base := uint64(m.reg[regTDBAH])<<32 | uint64(m.reg[regTDBAL])
	b := m.dma(base+uint64(i)*descSize, descSize)
	if b == nil {
		return nil
	}
	return (*txDesc)(ptr(b))
}

// transmit sends what lies between head and tail.
func (m *model) transmit() {
	if m.reg[regTCTL]&tctlEN == 0 || m.hang {
		return
	}
	n := m.reg[regTDLEN] / descSize
	var packet []byte
	var options uint32
	var segment, sum, inPacket bool
	for m.reg[regTDH] != m.reg[regTDT] {
		d := m.txDescAt(m.reg[regTDH])
		if d == nil {
			return
		}
		c := d.command
		switch {
		case c&txExtend != 0 && c&txData == 0:
			m.context = *d
		default:
			length := c & 0xfffff
			if c&txExtend == 0 {
				length = c & 0xffff
			}
			if !inPacket {
				inPacket = true
				segment = c&txExtend != 0 && c&txSegment != 0
				options = d.status
				sum = c&txExtend != 0 && options&txSumTCP != 0
			}
			packet = append(packet, m.dma(d.lo, uint64(length))...)
			if c&txEnd != 0 {
				m.send(packet, segment, sum, options)
				packet, inPacket = nil, false
			}
			if c&txReport != 0 {
				storeStatus(&d.status, txDone)
				m.reg[regICR] |= intTXDW
			}
		}
		m.reg[regTDH] = (m.reg[regTDH] + 1) % n
	}
	if inPacket {
		m.t.Error("the tail was left in the middle of a frame")
	}
	m.line()
}

// send puts a frame on the wire, with the offloads of 8254x 3.5 and 3.6.
func (m *model) send(p []byte, segment, sum bool, options uint32) {
	if !segment {
		if sum {
			m.checksum(p)
		}
		m.wire = append(m.wire, p)
		return
	}
	header := int(m.context.status >> 8 & 0xff)
	mss := int(m.context.status >> 16)
	payload := int(m.context.command & 0xfffff)
	if payload != len(p)-header {
		m.t.Errorf("PAYLEN %d, but %d bytes follow the header", payload, len(p)-header)
	}
	v4 := m.context.command&txContextIPv4 != 0
	tcp := int(m.context.lo >> 32 & 0xff)
	for at := 0; at < payload; at += mss {
		n := min(mss, payload-at)
		s := append(append([]byte{}, p[:header]...), p[header+at:header+at+n]...)
		if v4 {
			ip := s[14:]
			binary.BigEndian.PutUint16(ip[2:], uint16(len(s)-14))
			binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(at/mss))
			if options&txSumIP != 0 {
				start, end := m.context.lo&0xff, m.context.lo>>16&0xffff
				binary.BigEndian.PutUint16(s[m.context.lo>>8&0xff:], ^onesSum(s[start:end+1], 0))
			}
		} else {
			binary.BigEndian.PutUint16(s[18:], uint16(len(s)-14-40))
		}
		seq := s[tcp+4:]
		binary.BigEndian.PutUint32(seq, binary.BigEndian.Uint32(seq)+uint32(at))
		if at+n < payload {
			s[tcp+13] &^= 0x09 // FIN, PSH
		}
		check := s[tcp+16:]
		pseudo := uint32(binary.BigEndian.Uint16(check)) + uint32(len(s)-tcp)
		binary.BigEndian.PutUint16(check, uint16(pseudo>>16+pseudo&0xffff))
		m.checksum(s)
		m.wire = append(m.wire, s)
	}
}

func (m *model) checksum(p []byte) {
	start, at := m.context.lo>>32&0xff, m.context.lo>>40&0xff
	binary.BigEndian.PutUint16(p[at:], ^onesSum(p[start:], 0))
}

func onesSum(b []byte, sum uint32) uint16 {
	for i := range b {
		if i&1 == 0 {
			sum += uint32(b[i]) << 8
		} else {
			sum += uint32(b[i])
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// receive is a frame arriving. It reports whether there was room. status is
// added to what the descriptor says.
func (m *model) receive(p []byte, status uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reg[regRCTL]&rctlEN == 0 || !m.accepts(p) {
		return false
	}
	n := m.reg[regRDLEN] / descSize
	for first := true; len(p) > 0 || first; first = false {
		if m.reg[regRDH] == m.reg[regRDT] {
			m.reg[regMPC]++
			m.cause(intRXO)
			return false
		}
		base := uint64(m.reg[regRDBAH])<<32 | uint64(m.reg[regRDBAL])
		b := m.dma(base+uint64(m.reg[regRDH])*descSize, descSize)
		if b == nil {
			return false
		}
		d := (*rxDesc)(ptr(b))
		chunk := min(len(p), 2048)
		copy(m.dma(d.address, uint64(chunk)), p)
		p = p[chunk:]
		d.length = uint16(chunk)
		s := status | rxDone
		if len(p) == 0 {
			s |= rxEnd
		}
		storeStatus(&d.status, s)
		m.reg[regRDH] = (m.reg[regRDH] + 1) % n
	}
	m.cause(intRXT0)
	return true
}

func (m *model) accepts(p []byte) bool {
	rctl := m.reg[regRCTL]
	a := net.HardwareAddr(p[:6])
	switch {
	case a.String() == "ff:ff:ff:ff:ff:ff":
		return rctl&rctlBAM != 0
	case a[0]&1 != 0:
		h := multicastHash(a)
		return rctl&rctlMPE != 0 || m.reg[regMTA+4*uint64(h>>5)]>>(h&31)&1 != 0
	case rctl&rctlUPE != 0:
		return true
	}
	lo, hi := m.reg[regRAL], m.reg[regRAH]
	return hi&rahValid != 0 && lo == binary.LittleEndian.Uint32(a) && uint16(hi) == binary.LittleEndian.Uint16(a[4:])
}

func (m *model) setLink(up bool) {
	m.mu.Lock()
	m.reg[regSTATUS] &^= statusLU
	if up {
		m.reg[regSTATUS] |= statusLU
	}
	m.cause(intLSC)
	m.mu.Unlock()
}

func (m *model) frames() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.wire
	m.wire = nil
	return w
}
