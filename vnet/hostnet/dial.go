package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialContext connects to a TCP address, HOST:PORT, where the host is an IPv4
// address or a name that a DNS server knows. It waits for the host to have an
// address. The signature is that of net.Dialer's method.
func (n *Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	if network != "tcp" && network != "tcp4" {
		return fail(fmt.Errorf("network %q is not offered", network))
	}
	if err := n.Up(ctx); err != nil {
		return fail(err)
	}
	to, err := n.resolve(ctx, address)
	if err != nil {
		return fail(err)
	}
	c, err := n.connect(ctx, full(to))
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// Conn is a TCP connection.
type Conn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// SetWriteBuffer bounds what has been written but not yet acknowledged, from now on
// to a fixed number of bytes.
func (c *Conn) SetWriteBuffer(bytes int) error {
	c.ep.SocketOptions().SetSendBufferSize(int64(bytes), true)
	return nil
}

// SetLinger tells what Close does with what was not delivered yet: below zero it goes on
// being sent; zero forgets it and resets the connection, of which then nothing remains
// here, whatever the peer does. The signature is that of net.TCPConn's method.
func (c *Conn) SetLinger(seconds int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: seconds >= 0, Timeout: time.Duration(max(seconds, 0)) * time.Second})
	return nil
}

func (n *Net) connect(ctx context.Context, to tcpip.FullAddress) (*Conn, error) {
	wq := new(waiter.Queue)
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if err != nil {
		return nil, fmt.Errorf("open a TCP socket: %v", err)
	}
	entry, event := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	err = ep.Connect(to)
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-event:
			err = ep.LastError()
		case <-ctx.Done():
			ep.Close()
			return nil, ctx.Err()
		}
	}
	if err != nil {
		ep.Close()
		return nil, errors.New(err.String())
	}
	return &Conn{gonet.NewTCPConn(wq, ep), ep}, nil
}

// Listen takes connections at a TCP address, [HOST]:PORT. It does not wait for
// the host to have an address.
func (n *Net) Listen(network, address string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	if network != "tcp" && network != "tcp4" {
		return fail(fmt.Errorf("network %q is not offered", network))
	}
	at, err := parseLocal(address)
	if err != nil {
		return fail(err)
	}
	if err := n.wait(); err != nil {
		return fail(err)
	}
	l, err := n.listen(at)
	if err != nil {
		return fail(err)
	}
	return l, nil
}

// ListenPacket opens a UDP port, [HOST]:PORT. It waits for the host to have an
// address.
func (n *Net) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	fail := func(err error) (net.PacketConn, error) {
		return nil, fmt.Errorf("listen at %s/%s: %w", network, address, err)
	}
	if network != "udp" && network != "udp4" {
		return fail(fmt.Errorf("network %q is not offered", network))
	}
	at, err := parseLocal(address)
	if err != nil {
		return fail(err)
	}
	if err := n.Up(ctx); err != nil {
		return fail(err)
	}
	local := full(at)
	c, err := gonet.DialUDP(n.stack, &local, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// wait waits for the stack.
func (n *Net) wait() error {
	select {
	case <-n.searched:
	case <-n.ctx.Done():
	}
	if n.ctx.Err() != nil {
		return ErrClosed
	}
	return nil
}

func (n *Net) resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	host, port, err := splitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if port == 0 {
		return netip.AddrPort{}, errors.New("port 0 cannot be connected to")
	}
	a, err := n.Resolve(ctx, host)
	return netip.AddrPortFrom(a, port), err
}

// parseLocal reads [HOST]:PORT, without a host meaning every address.
func parseLocal(address string) (netip.AddrPort, error) {
	host, port, err := splitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port), nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !a.Is4() {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IPv4 address", host)
	}
	return netip.AddrPortFrom(a, port), nil
}

func splitHostPort(address string) (string, uint16, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT", address)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port number", p)
	}
	return host, uint16(port), nil
}

// full is a socket address in the stack's form.
func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.Addr = tcpip.AddrFrom4(a.Addr().As4())
	}
	return f
}

// broadcastSocket opens a UDP port on one interface that may send broadcasts.
func (n *Net) broadcastSocket(id tcpip.NICID, port uint16) (*gonet.UDPConn, error) {
	wq := new(waiter.Queue)
	ep, err := n.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %v", err)
	}
	ep.SocketOptions().SetBroadcast(true)
	ep.SocketOptions().SetReuseAddress(true)
	if err := ep.SocketOptions().SetBindToDevice(int32(id)); err != nil {
		ep.Close()
		return nil, fmt.Errorf("bind to the interface: %v", err)
	}
	if err := ep.Bind(tcpip.FullAddress{NIC: id, Port: port}); err != nil {
		ep.Close()
		return nil, fmt.Errorf("bind to port %d: %v", port, err)
	}
	return gonet.NewUDPConn(wq, ep), nil
}

// borrowNoAddress gives an interface the address 0.0.0.0, to send from while it
// has none (RFC 1122 3.2.1.3 (a)), until undo.
func (n *Net) borrowNoAddress(id tcpip.NICID) (undo func(), err error) {
	any := tcpip.AddrFrom4([4]byte{})
	if err := n.stack.AddProtocolAddress(id, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: any, PrefixLen: 0},
	}, stack.AddressProperties{}); err != nil {
		return nil, fmt.Errorf("the stack refuses address 0.0.0.0: %v", err)
	}
	return func() { n.stack.RemoveAddress(id, any) }, nil
}
