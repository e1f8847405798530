package lan

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestAFloodIsWhatItSays(t *testing.T) {
	l, _, _ := newLAN(t)
	a, address := plugIn(t, l)
	f := l.Flood(address, []uint16{4000, 4001}, 10)
	var fragments, arps, claims, long, short int
	syns := map[uint16]int{}
	buf := make([]byte, maxFrame)
	for range 3000 {
		a.conn.SetReadDeadline(time.Now().Add(longTime))
		n, err := a.conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		eth := header.Ethernet(buf[:n])
		if eth.SourceAddress()[0] != 2 {
			t.Fatalf("a frame of %v", eth.SourceAddress())
		}
		switch {
		case n > headerSize+mtu:
			long++
		case n < headerSize+46 && string(eth.DestinationAddress()) == string(a.mac[:]) && eth.Type() == header.IPv4ProtocolNumber && n < headerSize+header.IPv4MinimumSize+1:
			short++
		case eth.Type() == header.ARPProtocolNumber && n == headerSize+header.ARPSize:
			arps++
			p := header.ARP(buf[headerSize:n])
			if p.IsValid() && string(p.ProtocolAddressSender()) == string(address.AsSlice()) {
				claims++
			}
		case eth.Type() == header.IPv4ProtocolNumber && string(eth.DestinationAddress()) == string(a.mac[:]):
			ip := header.IPv4(buf[headerSize:n])
			if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() || ip.DestinationAddress().As4() != address.As4() {
				continue
			}
			if ip.More() {
				fragments++
				continue
			}
			tcp := header.TCP(ip.Payload())
			sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(tcp)))
			if tcp.Flags() != header.TCPFlagSyn || checksum.Checksum(tcp, sum) != 0xffff {
				t.Fatalf("no SYN, or with a wrong checksum: % x", tcp)
			}
			syns[tcp.DestinationPort()]++
		}
	}
	for kind, n := range f.Stop() {
		if n < 500 {
			t.Errorf("%d of %s", n, kind)
		}
	}
	if fragments < 500 || syns[4000] < 200 || syns[4001] < 200 || len(syns) != 2 || arps < 500 || claims < 20 || long < 200 || short < 50 {
		t.Errorf("%d fragments, SYNs %v, %d ARP of which %d claim the victim's address, %d too long, %d too short", fragments, syns, arps, claims, long, short)
	}
}

func TestPingIsAnsweredOrSaysThatItIsNot(t *testing.T) {
	l, _, _ := newLAN(t)
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	if err := l.Ping(ctx, netip.MustParseAddr("10.77.0.9")); err != nil {
		t.Error(err)
	}
	cancel()
	if err := l.Ping(ctx, netip.MustParseAddr("10.77.0.8")); err == nil {
		t.Error("an address that nobody has answered")
	}
}
