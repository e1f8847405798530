package hostnet

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections may be half open, and how many wait to be accepted.
// Each takes some 9 KB; beyond it the stack answers with SYN cookies (RFC 4987 3.6),
// which take nothing. A host whose memory is its guests' has 64 MiB to spare.
const backlog = 128

// listener accepts TCP connections.
type listener struct {
	ep     tcpip.Endpoint
	wq     *waiter.Queue
	local  net.Addr
	closed chan struct{}
	once   sync.Once
}

func (n *Net) listen(at netip.AddrPort) (*listener, error) {
	wq := new(waiter.Queue)
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if terr != nil {
		return nil, errors.New(terr.String())
	}
	terr = ep.Bind(full(at))
	if terr == nil {
		terr = ep.Listen(backlog)
	}
	var a tcpip.FullAddress
	if terr == nil {
		a, terr = ep.GetLocalAddress()
	}
	if terr != nil {
		ep.Close()
		return nil, errors.New(terr.String())
	}
	local := &net.TCPAddr{IP: net.IPv4zero, Port: int(a.Port)}
	if at.Addr().IsValid() {
		local.IP = at.Addr().AsSlice()
	}
	return &listener{ep: ep, wq: wq, local: local, closed: make(chan struct{})}, nil
}

// Accept returns a *Conn.
func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		ep, wq, terr := l.ep.Accept(nil)
		if terr == nil {
			return &Conn{gonet.NewTCPConn(wq, ep), ep}, nil
		}
		select {
		case <-l.closed: // asked after Accept: the stack says "invalid state" then
			return nil, l.fail(net.ErrClosed)
		default:
		}
		if _, again := terr.(*tcpip.ErrWouldBlock); !again {
			return nil, l.fail(errors.New(terr.String()))
		}
		select {
		case <-ready:
		case <-l.closed:
		}
	}
}

func (l *listener) fail(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.local, Err: err}
}

// Close ends the listening and what waits in Accept.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.ep.Close()
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.local }
