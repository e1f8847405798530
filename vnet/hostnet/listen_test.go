package hostnet

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/waiter"
)

var (
	floodFrom = tcpip.AddrFrom4([4]byte{10, 0, 0, 1})
	floodTo   = tcpip.AddrFrom4([4]byte{10, 0, 0, 2})
)

// syn is the frame that begins a connection from a port of 10.0.0.1.
func syn(to net.HardwareAddr, from, port uint16) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+header.TCPMinimumSize)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: "\x02\x00\x00\x00\x00\x01", DstAddr: tcpip.LinkAddress(to), Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: floodFrom, DstAddr: floodTo})
	ip.SetChecksum(^ip.CalculateChecksum())
	t := header.TCP(ip.Payload())
	t.Encode(&header.TCPFields{SrcPort: from, DstPort: port, SeqNum: uint32(from), DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	t.SetChecksum(^t.CalculateChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, floodFrom, floodTo, header.TCPMinimumSize)))
	return b
}

func TestAFloodOfHalfOpenConnectionsIsAnsweredWithCookies(t *testing.T) {
	c := newCable(t)
	b := host(t, static("net0", "10.0.0.2/24"), c.end[1])
	l, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := b.stack.AddStaticNeighbor(1, ipv4.ProtocolNumber, floodFrom, "\x02\x00\x00\x00\x00\x01"); err != nil {
		t.Fatal(err)
	}
	const n = 2000
	go func() {
		for i := range n {
			c.end[1].in <- syn(c.end[1].mac, uint16(1000+i), 7000)
		}
	}()
	late := time.After(time.Minute)
	answered := map[uint16]bool{}
	for len(answered) < n {
		select {
		case f := <-c.end[0].in:
			if header.Ethernet(f).Type() == header.IPv4ProtocolNumber {
				answered[header.TCP(header.IPv4(f[header.EthernetMinimumSize:]).Payload()).DestinationPort()] = true
			}
		case <-late:
			t.Fatalf("%d of %d were answered", len(answered), n)
		}
	}
	if cookies := b.stack.Stats().TCP.ListenOverflowSynCookieSent.Value(); cookies < n-backlog-1 {
		t.Errorf("%d half-open connections took memory, more than %d", n-cookies, backlog)
	}
}

func TestAConnectionIsResetAndForgotten(t *testing.T) {
	a, b := pair(t, nil)
	l, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there, err := a.DialContext(timeout(t, time.Minute), "tcp", "10.0.0.2:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	here, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	here.(*Conn).SetLinger(0)
	here.Close()
	if n := b.stack.Stats().TCP.CurrentConnected.Value(); n != 0 {
		t.Errorf("%d connections remain", n)
	}
	there.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := there.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the peer was not told: %v", err)
	}
}

func TestClosingAListenerEndsItsAccept(t *testing.T) {
	a, _ := pair(t, nil)
	l, err := a.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	again, err := a.Listen("tcp", ":7000") // the port is free
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// closing is an endpoint whose listener is closed while Accept is on its way to it.
type closing struct {
	tcpip.Endpoint
	close func() error
}

func (c closing) Accept(peer *tcpip.FullAddress) (tcpip.Endpoint, *waiter.Queue, tcpip.Error) {
	c.close()
	return c.Endpoint.Accept(peer)
}

// Whoever serves takes net.ErrClosed for the end, and all else for a fault.
func TestAnAcceptThatCrossesCloseEndsAsClosed(t *testing.T) {
	a, _ := pair(t, nil)
	at, err := a.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	l := at.(*listener)
	l.ep = closing{l.ep, l.Close}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
