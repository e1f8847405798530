package lan

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Flood is a machine on the network that does harm to another: see the kinds below.
type Flood struct {
	end  context.CancelFunc
	done chan struct{}
	sent [len(hostileKinds)]atomic.Uint64
}

// hostileKinds are what a flood is made of, in turns.
var hostileKinds = [...]struct {
	name  string
	frame func(*target) []byte
}{
	{"IP fragments that never complete", (*target).fragment},
	{"SYNs", (*target).syn},
	{"ARP from many addresses", (*target).arp},
	{"broadcast garbage", (*target).garbage},
	{"frames too long or too short", (*target).misfit},
}

// target is whom the flood is for, and where its random numbers come from: the same in each run.
type target struct {
	mac     tcpip.LinkAddress
	address netip.Addr
	ports   []uint16
	r       *rand.Rand
}

// Flood lets a hostile machine send burst frames every millisecond to the machine with card n, until Stop. ports are
// those that the victim listens on.
func (l *LAN) Flood(n netip.Addr, ports []uint16, burst int) *Flood {
	ctx, cancel := context.WithCancel(l.ctx)
	f := &Flood{end: cancel, done: make(chan struct{})}
	t := &target{address: n, ports: ports, r: rand.New(rand.NewPCG(1, 2))}
	l.mu.RLock()
	for m, c := range l.nics {
		if c.address == n {
			t.mac = tcpip.LinkAddress(m[:])
		}
	}
	l.mu.RUnlock()
	p := &port{send: func([]byte) {}} // answers are of no interest to it
	l.plug(p)
	go func() {
		defer close(f.done)
		for tick := time.NewTicker(time.Millisecond); ; {
			for i := range burst {
				kind := i % len(hostileKinds)
				l.forward(p, hostileKinds[kind].frame(t))
				f.sent[kind].Add(1)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	return f
}

// Stop ends the flood, and tells how many frames of each kind it had.
func (f *Flood) Stop() map[string]uint64 {
	f.end()
	<-f.done
	sent := map[string]uint64{}
	for i, k := range hostileKinds {
		sent[k.name] = f.sent[i].Load()
	}
	return sent
}

// ethernet begins a frame from one of few thousand addresses.
func (t *target) ethernet(to tcpip.LinkAddress, kind tcpip.NetworkProtocolNumber, payload int) []byte {
	b := make([]byte, headerSize+payload)
	from := tcpip.LinkAddress([]byte{2, 0x66, 0, 0, byte(t.r.IntN(16)), byte(t.r.IntN(256))})
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: from, DstAddr: to, Type: kind})
	return b
}

// neighbour is an address on the network that is none of a machine's: the last octet is above theirs.
func (t *target) neighbour() tcpip.Address {
	a := t.address.As4()
	a[3] = byte(maxMachines + 11 + t.r.IntN(255-maxMachines-11))
	return tcpip.AddrFrom4(a)
}

// packet is an IP packet to the target.
func (t *target) packet(from tcpip.Address, protocol tcpip.TransportProtocolNumber, payload int, f header.IPv4Fields) (frame, body []byte) {
	frame = t.ethernet(t.mac, header.IPv4ProtocolNumber, header.IPv4MinimumSize+payload)
	ip := header.IPv4(frame[headerSize:])
	f.TotalLength, f.TTL, f.Protocol, f.SrcAddr, f.DstAddr = uint16(len(ip)), 64, uint8(protocol), from, tcpip.AddrFrom4(t.address.As4())
	ip.Encode(&f)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame, frame[headerSize+header.IPv4MinimumSize:]
}

// fragment is some part of a packet whose other parts never come, though it may come again with other lengths.
func (t *target) fragment() []byte {
	f := header.IPv4Fields{ID: uint16(t.r.Uint32()), Flags: header.IPv4FlagMoreFragments, FragmentOffset: uint16(8 * t.r.IntN(8000))}
	if t.r.IntN(4) == 0 {
		f.ID %= 8
	}
	frame, _ := t.packet(t.neighbour(), header.UDPProtocolNumber, 8*(1+t.r.IntN(184)), f)
	return frame
}

// syn opens a connection from an address that does not answer, on the network or beyond.
func (t *target) syn() []byte {
	from := t.neighbour()
	if t.r.IntN(2) == 0 {
		from = tcpip.AddrFrom4([4]byte{198, 18, byte(t.r.Uint32()), byte(t.r.Uint32())}) // RFC 2544, C.2.2
	}
	frame, b := t.packet(from, header.TCPProtocolNumber, header.TCPMinimumSize, header.IPv4Fields{ID: uint16(t.r.Uint32())})
	tcp := header.TCP(b)
	tcp.Encode(&header.TCPFields{SrcPort: uint16(1024 + t.r.IntN(60000)), DstPort: t.ports[t.r.IntN(len(t.ports))], SeqNum: t.r.Uint32(),
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1024})
	ip := header.IPv4(frame[headerSize:])
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Checksum(tcp[:header.TCPMinimumSize], sum))
	return frame
}

// arp asks, answers unasked, or claims the target's own address.
func (t *target) arp() []byte {
	frame := t.ethernet(header.EthernetBroadcastAddress, header.ARPProtocolNumber, header.ARPSize)
	a := header.ARP(frame[headerSize:])
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPOp(1 + t.r.IntN(2)))
	copy(a.HardwareAddressSender(), frame[6:12])
	own := t.address.As4()
	from := t.neighbour().As4()
	switch t.r.IntN(8) {
	case 0:
		from = own
	case 1:
		from = [4]byte{198, 19, byte(t.r.Uint32()), byte(t.r.Uint32())}
	}
	copy(a.ProtocolAddressSender(), from[:])
	copy(a.ProtocolAddressTarget(), own[:])
	return frame
}

// garbage is random, under a kind of frame that the victim reads, half of the time.
func (t *target) garbage() []byte {
	kinds := [...]tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.ARPProtocolNumber, header.IPv6ProtocolNumber, tcpip.NetworkProtocolNumber(t.r.Uint32())}
	frame := t.ethernet(header.EthernetBroadcastAddress, kinds[t.r.IntN(len(kinds))], t.r.IntN(mtu))
	b := frame[headerSize:]
	for i := range b {
		b[i] = byte(t.r.Uint32())
	}
	if len(b) > header.IPv4MinimumSize && t.r.IntN(2) == 0 { // looks like IP at first
		b[0] = 0x45 | byte(t.r.IntN(16))
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+t.r.IntN(3)-1))
		copy(b[16:], t.address.AsSlice())
	}
	return frame
}

// misfit is longer than Ethernet's frames may be, or shorter.
func (t *target) misfit() []byte {
	n := t.r.IntN(46) // IEEE 802.3, 3.2.8
	if t.r.IntN(2) == 0 {
		n = mtu + 1 + t.r.IntN(14500)
	}
	frame := t.ethernet(t.mac, header.IPv4ProtocolNumber, n)
	if len(frame) > headerSize {
		frame[headerSize] = 0x45
	}
	return frame
}
