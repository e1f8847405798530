package lan

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ipxeOptions is iPXE's own option space (iPXE, src/include/ipxe/dhcp.h); noProxyDHCP sets its option "do not wait for
// a ProxyDHCP server", which saves seconds.
const ipxeOptions = dhcpv4.GenericOptionCode(175)

var noProxyDHCP = []byte{0xb0, 1, 1}

const (
	dhcpServerPort = 67
	dhcpClientPort = 68
	leaseTime      = time.Hour
)

// dhcp answers a frame that is a DHCP request of one of our machines with a broadcast frame, else returns nil.
func (s *station) dhcp(frame []byte) []byte {
	if !s.answersDHCP {
		return nil
	}
	request := dhcpRequest(frame)
	if request == nil || len(request.ClientHWAddr) != 6 {
		return nil
	}
	s.lan.mu.RLock()
	n := s.lan.nics[mac(request.ClientHWAddr)]
	s.lan.mu.RUnlock()
	if n == nil {
		return nil
	}
	kind := dhcpv4.MessageTypeOffer
	if request.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	} else if request.MessageType() != dhcpv4.MessageTypeDiscover {
		return nil
	}
	reply, err := dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(n.address.AsSlice()),
		dhcpv4.WithServerIP(stationAddress.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(stationAddress.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(network.Bits(), 32)),
		dhcpv4.WithLeaseTime(uint32(leaseTime/time.Second)),
		dhcpv4.WithGeneric(ipxeOptions, noProxyDHCP),
		func(d *dhcpv4.DHCPv4) { d.BootFileName = s.bootFile },
	)
	if err != nil {
		return nil
	}
	return broadcastUDP(dhcpServerPort, dhcpClientPort, reply.ToBytes())
}

// dhcpRequest takes a DHCP request out of its frame; nil if it is none.
func dhcpRequest(frame []byte) *dhcpv4.DHCPv4 {
	if len(frame) < headerSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return nil
	}
	ip := header.IPv4(frame[headerSize:])
	if !ip.IsValid(len(ip)) || ip.TransportProtocol() != header.UDPProtocolNumber || ip.More() || ip.FragmentOffset() != 0 {
		return nil
	}
	datagram := header.UDP(ip.Payload())
	if len(datagram) < header.UDPMinimumSize || datagram.DestinationPort() != dhcpServerPort {
		return nil
	}
	d, err := dhcpv4.FromBytes(datagram[header.UDPMinimumSize:])
	if err != nil || d.OpCode != dhcpv4.OpcodeBootRequest {
		return nil
	}
	return d
}

// broadcastUDP wraps a payload for everybody on the network. UDP's checksum is left out (RFC 768).
func broadcastUDP(from, to uint16, payload []byte) []byte {
	frame := make([]byte, headerSize+header.IPv4MinimumSize+header.UDPMinimumSize+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(stationMAC[:]), DstAddr: header.EthernetBroadcastAddress, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(frame[headerSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(stationAddress.As4()), DstAddr: header.IPv4Broadcast})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := ip.Payload()
	binary.BigEndian.PutUint16(udp[0:], from)
	binary.BigEndian.PutUint16(udp[2:], to)
	binary.BigEndian.PutUint16(udp[4:], uint16(header.UDPMinimumSize+len(payload)))
	copy(udp[header.UDPMinimumSize:], payload)
	return frame
}
