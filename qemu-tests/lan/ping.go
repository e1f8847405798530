package lan

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping asks a machine for an echo (RFC 792), again each second until ctx ends.
func (l *LAN) Ping(ctx context.Context, to netip.Addr) error {
	wq := new(waiter.Queue)
	ep, terr := l.station.ip.NewEndpoint(icmp.ProtocolNumber4, ipv4.ProtocolNumber, wq)
	if terr != nil {
		return fmt.Errorf("lan: ping: %v", terr)
	}
	conn := gonet.NewUDPConn(wq, ep) // carries what any socket for datagrams does
	defer conn.Close()
	request := make([]byte, header.ICMPv4MinimumSize+56)
	request[0] = byte(header.ICMPv4Echo)
	answer := make([]byte, mtu)
	for sequence := uint16(1); ; sequence++ {
		binary.BigEndian.PutUint16(request[6:], sequence)
		_, err := conn.WriteTo(request, &net.UDPAddr{IP: to.AsSlice()})
		if err == nil {
			conn.SetReadDeadline(time.Now().Add(time.Second))
			var n int
			if n, _, err = conn.ReadFrom(answer); err == nil && n >= header.ICMPv4MinimumSize && answer[0] == byte(header.ICMPv4EchoReply) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("lan: %d echo requests to %v were not answered, the last: %v", sequence, to, err)
		}
	}
}
