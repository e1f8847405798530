package hostnet

import (
	"encoding/binary"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"

	"godwit/vnet/frame"
	"godwit/vnet/nic"
)

const (
	ethernetHeader = header.EthernetMinimumSize
	// sendQueue is how many packets wait when the interface has no room.
	sendQueue = 1024
	sendBatch = 32
)

// endpoint is a stack's link endpoint over a network interface. Packets are
// copied between the stack's buffers and those the device reaches.
//
// Received frames are handed to the stack by the interface's own goroutine, which
// may come back here to send an answer. So sending never waits: what finds no
// room is queued, and TransmitReady goes on with it.
type endpoint struct {
	linkChanged func(nic.Link)
	conflicts   conflicts

	nic  nic.Interface // set before the endpoint is attached
	mac  tcpip.LinkAddress
	mtu  uint32
	feat nic.Features

	rxMu       sync.RWMutex
	dispatcher stack.NetworkDispatcher // nil: not attached
	gro        gro.GRO                 // the interface's goroutine's

	txMu    sync.Mutex // guards what follows
	out     []*frame.Frame
	queue   []*stack.PacketBuffer // wait for room, first from head on
	head    int
	dropped uint64
}

var (
	_ stack.LinkEndpoint = (*endpoint)(nil)
	_ stack.GSOEndpoint  = (*endpoint)(nil)
	_ nic.Handler        = (*endpoint)(nil)
)

func newEndpoint(linkChanged func(nic.Link)) *endpoint {
	e := &endpoint{linkChanged: linkChanged, out: make([]*frame.Frame, 0, sendBatch)}
	e.gro.Init(true)
	return e
}

// use gives the endpoint its opened interface.
func (e *endpoint) use(n nic.Interface) {
	e.nic, e.mac, e.mtu, e.feat = n, tcpip.LinkAddress(n.MAC()), uint32(n.MTU()), n.Features()
}

// Receive hands frames to the stack, successive TCP segments of a connection
// joined.
func (e *endpoint) Receive(batch []*frame.Frame) {
	e.rxMu.RLock()
	defer e.rxMu.RUnlock()
	if e.dispatcher == nil {
		for _, f := range batch {
			f.Release()
		}
		return
	}
	for _, f := range batch {
		if pkt := e.packet(f); pkt != nil {
			e.gro.Enqueue(pkt)
			pkt.DecRef()
		}
		f.Release()
	}
	e.gro.Flush()
}

// packet copies a frame into one of the stack's packets. It returns nil for what
// the stack has no use for.
func (e *endpoint) packet(f *frame.Frame) *stack.PacketBuffer {
	if len(f.Segments) != 1 || f.Length < ethernetHeader {
		return nil
	}
	data := f.Segments[0].Data
	eth := header.Ethernet(data)
	protocol := eth.Type()
	n := len(data)
	// The stack may join packets before it looks at their lengths, so Ethernet's
	// padding goes first.
	switch ip := data[ethernetHeader:]; protocol {
	case header.IPv4ProtocolNumber:
		if len(ip) >= header.IPv4MinimumSize {
			if t := int(binary.BigEndian.Uint16(ip[2:])); t >= header.IPv4MinimumSize && t < len(ip) {
				n = ethernetHeader + t
			}
		}
	case header.IPv6ProtocolNumber:
		if len(ip) >= header.IPv6MinimumSize {
			if t := header.IPv6MinimumSize + int(binary.BigEndian.Uint16(ip[4:])); t < len(ip) {
				n = ethernetHeader + t
			}
		}
	case header.ARPProtocolNumber:
		e.conflicts.look(header.ARP(ip), string(e.mac))
	default:
		return nil
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(data[:n])})
	if !e.ParseHeader(pkt) {
		pkt.DecRef()
		return nil
	}
	pkt.NetworkProtocolNumber = protocol
	pkt.RXChecksumValidated = f.Flags&frame.ChecksumGood != 0
	switch dst := eth.DestinationAddress(); {
	case dst == header.EthernetBroadcastAddress:
		pkt.PktType = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(dst):
		pkt.PktType = tcpip.PacketMulticast
	case dst == e.mac:
		pkt.PktType = tcpip.PacketHost
	default:
		pkt.PktType = tcpip.PacketOtherHost
	}
	return pkt
}

// LinkChanged passes the link's state on.
func (e *endpoint) LinkChanged(l nic.Link) { e.linkChanged(l) }

// WritePackets sends packets, or queues them.
func (e *endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	e.txMu.Lock()
	defer e.txMu.Unlock()
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if e.waiting() == 0 && e.put(pkt) {
			n++
			continue
		}
		if e.waiting() == sendQueue {
			e.dropped++
			e.flush()
			return n, &tcpip.ErrNoBufferSpace{}
		}
		e.queue = append(e.queue, pkt.IncRef())
		n++
	}
	e.flush()
	return n, nil
}

// TransmitReady goes on with what waited.
func (e *endpoint) TransmitReady() {
	e.txMu.Lock()
	defer e.txMu.Unlock()
	e.flush()
	for e.waiting() > 0 && e.put(e.queue[e.head]) {
		e.queue[e.head].DecRef()
		e.queue[e.head] = nil
		e.head++
	}
	if e.waiting() == 0 {
		e.queue, e.head = e.queue[:0], 0
	}
	e.flush()
}

func (e *endpoint) waiting() int { return len(e.queue) - e.head }

// flush gives the interface the frames that are made. txMu is held.
func (e *endpoint) flush() {
	if len(e.out) == 0 {
		return
	}
	n := e.nic.Transmit(e.out)
	left := copy(e.out, e.out[n:])
	clear(e.out[left:])
	e.out = e.out[:left]
}

// put makes a packet a frame to be sent. It reports false when there is no room
// now. txMu is held.
func (e *endpoint) put(pkt *stack.PacketBuffer) bool {
	if len(e.out) == sendBatch {
		if e.flush(); len(e.out) == sendBatch {
			return false
		}
	}
	size := pkt.Size()
	f := e.nic.Buffer(size)
	if f == nil {
		if e.flush(); len(e.out) == 0 {
			f = e.nic.Buffer(size)
		}
		if f == nil {
			return false
		}
	}
	to := f.Segments[0].Data
	n := 0
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n += copy(to[n:], b[skip:])
		skip = 0
	}
	f.Trim(n)
	if g := &pkt.GSOOptions; g.Type != stack.GSONone && g.NeedsCsum {
		f.Flags = frame.NeedsChecksum
		f.NetworkHeader = ethernetHeader
		f.ChecksumStart = ethernetHeader + g.L3HdrLen
		f.ChecksumOffset = g.CsumOffset
		f.HeaderLength = f.ChecksumStart + uint16(len(pkt.TransportHeader().Slice()))
		if g.MSS > 0 && n-int(f.HeaderLength) > int(g.MSS) {
			f.GSOSize = uint32(g.MSS)
			if g.Type == stack.GSOTCPv6 {
				f.Flags |= frame.SegmentTCP6
			} else {
				f.Flags |= frame.SegmentTCP4
			}
		}
	}
	e.out = append(e.out, f)
	return true
}

// GSOMaxSize is the most payload of a packet that the interface segments: its
// limit less headers with all options.
func (e *endpoint) GSOMaxSize() uint32 {
	const headers = ethernetHeader + header.IPv6MinimumSize + header.TCPHeaderMaximumSize
	return min(e.feat.Segment, 0xffff) - headers
}

// SupportedGSO tells whether the interface segments TCP.
func (e *endpoint) SupportedGSO() stack.SupportedGSO {
	if e.feat.Checksum && e.feat.Segment > 2048 {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

func (e *endpoint) MTU() uint32                      { return e.mtu }
func (e *endpoint) SetMTU(uint32)                    {}
func (e *endpoint) MaxHeaderLength() uint16          { return ethernetHeader }
func (e *endpoint) LinkAddress() tcpip.LinkAddress   { return e.mac }
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress) {}
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (e *endpoint) Wait()                                   {}
func (e *endpoint) Close()                                  {}
func (e *endpoint) SetOnCloseAction(func())                 {}

func (e *endpoint) Attach(d stack.NetworkDispatcher) {
	e.rxMu.Lock()
	defer e.rxMu.Unlock()
	e.dispatcher, e.gro.Dispatcher = d, d
}

func (e *endpoint) IsAttached() bool {
	e.rxMu.RLock()
	defer e.rxMu.RUnlock()
	return e.dispatcher != nil
}

func (e *endpoint) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethernetHeader)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

func (e *endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(ethernetHeader)
	return ok
}

// drop releases everything that waits to be sent; the interface is closed.
func (e *endpoint) drop() {
	e.txMu.Lock()
	defer e.txMu.Unlock()
	for _, f := range e.out {
		f.Release()
	}
	for _, p := range e.queue[e.head:] {
		p.DecRef()
	}
	clear(e.out)
	clear(e.queue)
	e.out, e.queue, e.head = e.out[:0], e.queue[:0], 0
}
