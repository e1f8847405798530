package lan

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The network has no IPv6, but firmware asks for it: iPXE waits twenty seconds for a router before it boots. So the
// station answers that it is none.

var (
	stationLinkLocal = netip.MustParseAddr("fe80::5054:ff:fe00:101")
	allNodes         = netip.MustParseAddr("ff02::1")
	allNodesMAC      = tcpip.LinkAddress("\x33\x33\x00\x00\x00\x01") // RFC 2464, 7
)

// routerAdvertisement answers a router solicitation (RFC 4861, 4.1 and 4.2) with an advertisement whose lifetime is
// zero and which names no prefixes; for other frames it returns nil.
func (s *station) routerAdvertisement(frame []byte) []byte {
	if !s.answersDHCP || len(frame) < headerSize+header.IPv6MinimumSize+header.ICMPv6MinimumSize ||
		header.Ethernet(frame).Type() != header.IPv6ProtocolNumber {
		return nil
	}
	ip := header.IPv6(frame[headerSize:])
	if ip.TransportProtocol() != header.ICMPv6ProtocolNumber ||
		header.ICMPv6(ip[header.IPv6MinimumSize:]).Type() != header.ICMPv6RouterSolicit {
		return nil
	}
	const size = header.ICMPv6HeaderSize + header.NDPRAMinimumSize
	reply := make([]byte, headerSize+header.IPv6MinimumSize+size)
	header.Ethernet(reply).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(stationMAC[:]), DstAddr: allNodesMAC, Type: header.IPv6ProtocolNumber})
	src, dst := tcpip.AddrFrom16(stationLinkLocal.As16()), tcpip.AddrFrom16(allNodes.As16())
	header.IPv6(reply[headerSize:]).Encode(&header.IPv6Fields{
		PayloadLength: size, TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit, SrcAddr: src, DstAddr: dst})
	icmp := header.ICMPv6(reply[headerSize+header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6RouterAdvert)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	return reply
}
