package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The network's addresses: the station is .1, machine number n is .10+n.
var (
	stationAddress = netip.MustParseAddr("10.77.0.1")
	network        = netip.MustParsePrefix("10.77.0.0/24")
	stationMAC     = mac{0x52, 0x54, 0, 0, 1, 1}
)

const (
	maxMachines = 200
	mtu         = 1500
	nicID       = 1
)

func machineAddress(n int) netip.Addr {
	a := stationAddress.As4()
	a[3] = byte(10 + n)
	return netip.AddrFrom4(a)
}

// station is a computer made of software on the network: the rig's own, and in tests its clients.
type station struct {
	lan  *LAN
	ip   *stack.Stack
	link *channel.Endpoint
	port *port

	answersDHCP bool
	bootFile    string
	web         http.ServeMux
}

// join plugs a station in.
func join(ctx context.Context, l *LAN, hw mac, address netip.Addr) (*station, error) {
	s := &station{
		lan: l,
		ip: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
		link: channel.New(4096, mtu+headerSize, tcpip.LinkAddress(hw[:])),
	}
	if err := s.ip.CreateNIC(nicID, ethernet.New(s.link)); err != nil {
		return nil, fmt.Errorf("lan: %v", err)
	}
	own := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: tcpip.AddrFrom4(address.As4()), PrefixLen: network.Bits()}}
	if err := s.ip.AddProtocolAddress(nicID, own, stack.AddressProperties{}); err != nil {
		return nil, fmt.Errorf("lan: %v", err)
	}
	s.ip.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	s.port = &port{send: s.input}
	l.plug(s.port)
	go s.output(ctx)
	context.AfterFunc(ctx, s.ip.Destroy)
	return s, nil
}

// newServer joins the station that serves the others.
func newServer(ctx context.Context, l *LAN, dir, bootFile string) (*station, error) {
	s, err := join(ctx, l, stationMAC, stationAddress)
	if err != nil {
		return nil, err
	}
	s.answersDHCP, s.bootFile = true, bootFile
	web, err := gonet.ListenTCP(s.ip, tcpip.FullAddress{Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("lan: HTTP: %w", err)
	}
	context.AfterFunc(ctx, func() { web.Close() })
	s.web.Handle("/", http.FileServer(http.Dir(dir)))
	go http.Serve(web, &s.web) // ends with the listener
	return s, s.serveTFTP(ctx, dir)
}

// input takes a frame from the switch. What it answers to machines without an address, which the stack's sockets
// do not like, is done here.
func (s *station) input(frame []byte) {
	for _, answer := range []func([]byte) []byte{s.dhcp, s.routerAdvertisement} {
		if reply := answer(frame); reply != nil {
			s.lan.forward(s.port, reply)
			return
		}
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append([]byte(nil), frame...))})
	s.link.InjectInbound(0, pkt) // the Ethernet layer finds the protocol
	pkt.DecRef()
}

func (s *station) output(ctx context.Context) {
	for {
		pkt := s.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		v := pkt.ToView()
		s.lan.forward(s.port, v.AsSlice())
		v.Release()
		pkt.DecRef()
	}
}

func (s *station) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if !to.Addr().Is4() {
		return nil, errors.New("lan: only IPv4")
	}
	return gonet.DialContextTCP(ctx, s.ip, tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(to.Addr().As4()), Port: to.Port()}, ipv4.ProtocolNumber)
}
