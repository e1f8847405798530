// Package lan is the network between emulated machines: an Ethernet switch whose ports are TCP connections (QEMU) or UDP
// sockets (Bochs), which carry frames without privileges, and one station of our own on it, with DHCP, TFTP, HTTP and TCP for
// the rig. Ports can be cut, to see what machines do when the network fails.
package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"godwit/qemu-tests/machine"
)

// mac is an Ethernet address.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// group tells broadcast and multicast addresses (IEEE 802.3, 3.2.3.1).
func (m mac) group() bool { return m[0]&1 != 0 }

const (
	headerSize = 14 // destination, source, type (IEEE 802.3, 3.1.1)
	maxFrame   = 64 << 10
)

// port is where something is plugged in.
type port struct {
	send func(frame []byte) // must not keep frame
	cut  atomic.Bool
}

// LAN is one network. It lives until its context ends.
type LAN struct {
	ctx     context.Context
	station *station

	mu    sync.RWMutex
	ports []*port
	home  map[mac]*port // behind which port an address was seen last
	nics  map[mac]*nic  // what NIC has given out

	frames, bytes atomic.Uint64
}

// nic is one machine's connection.
type nic struct {
	port    *port
	address netip.Addr
}

// New makes a network whose station serves the files below dir; machines that boot from the network get bootFile.
func New(ctx context.Context, dir, bootFile string) (*LAN, error) {
	l := &LAN{ctx: ctx, home: map[mac]*port{}, nics: map[mac]*nic{}}
	var err error
	l.station, err = newServer(ctx, l, dir, bootFile)
	return l, err
}

// NIC plugs one more machine in. Its address, which DHCP will tell it, is the second result.
func (l *LAN) NIC() (*machine.NIC, netip.Addr, error) {
	l.mu.Lock()
	n := len(l.nics) + 1
	if n > maxMachines {
		l.mu.Unlock()
		return nil, netip.Addr{}, fmt.Errorf("lan: more than %d machines", maxMachines)
	}
	m := mac{0x52, 0x54, 0, 0, 0, byte(n)}
	p := &port{}
	l.nics[m] = &nic{port: p, address: machineAddress(n)}
	l.mu.Unlock()

	conn, local, err := portPair()
	if err != nil {
		return nil, netip.Addr{}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		conn.Close()
		return nil, netip.Addr{}, err
	}
	context.AfterFunc(l.ctx, func() { conn.Close(); listener.Close() })
	streams := &streamPort{lan: l, port: p}
	datagrams := newDatagramPort(l.ctx, conn, local)
	p.send = func(frame []byte) {
		if !streams.send(frame) {
			datagrams.send(frame)
		}
	}
	l.plug(p)
	go l.receive(conn, p)
	go streams.accept(listener)
	return &machine.NIC{MAC: m.String(), Stream: listener.Addr().(*net.TCPAddr).Port, Local: local}, machineAddress(n), nil
}

// portPair finds a free pair of UDP ports N and N+1 and opens N+1 towards N. Bochs wants its peer at the next port.
func portPair() (*net.UDPConn, int, error) {
	for range 100 {
		probe, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, 0, err
		}
		local := probe.LocalAddr().(*net.UDPAddr).Port
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: local + 1}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: local})
		probe.Close()
		if err != nil {
			continue
		}
		enlarge(conn)
		return conn, local, nil
	}
	return nil, 0, errors.New("lan: found no two adjacent free UDP ports on 127.0.0.1")
}

// enlarge asks for a receive buffer that holds bursts while the rig waits for a processor; root may exceed the limit.
func enlarge(conn *net.UDPConn) {
	const want = 4 << 20
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, want) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, want) // less is slower, not wrong
		}
	})
}

func (l *LAN) plug(p *port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = append(l.ports, p)
}

func (l *LAN) receive(conn *net.UDPConn, p *port) {
	buf := make([]byte, maxFrame)
	for {
		n, err := conn.Read(buf)
		switch {
		case err == nil:
			l.forward(p, buf[:n])
		case l.ctx.Err() != nil:
			return
		default: // the peer's port is closed: its machine is not there at the moment
			time.Sleep(time.Millisecond)
		}
	}
}

// forward does what a learning switch does with a frame that came in at from.
func (l *LAN) forward(from *port, frame []byte) {
	if len(frame) < headerSize || from.cut.Load() {
		return
	}
	to, source := mac(frame[:6]), mac(frame[6:12])
	l.frames.Add(1)
	l.bytes.Add(uint64(len(frame)))

	l.mu.RLock()
	known, ports, moved := l.home[to], l.ports, !source.group() && l.home[source] != from
	l.mu.RUnlock()
	if moved {
		l.mu.Lock()
		l.home[source] = from
		l.mu.Unlock()
	}
	if known != nil && !to.group() {
		ports = []*port{known}
	}
	for _, p := range ports {
		if p != from && !p.cut.Load() {
			p.send(frame)
		}
	}
}

// Cut unplugs a machine, or plugs it in again.
func (l *LAN) Cut(n *machine.NIC, cut bool) {
	hw, err := net.ParseMAC(n.MAC)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err != nil || l.nics[mac(hw)] == nil {
		panic(fmt.Sprintf("lan: %q is not one of this network's cards", n.MAC))
	}
	l.nics[mac(hw)].port.cut.Store(cut)
}

// Traffic is how many frames and bytes the machines sent.
func (l *LAN) Traffic() (frames, bytes uint64) { return l.frames.Load(), l.bytes.Load() }

// Dial opens a TCP connection to a machine.
func (l *LAN) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return l.station.dial(ctx, to)
}

// URL is where the files that the network serves are found by HTTP.
func (l *LAN) URL() string { return "http://" + stationAddress.String() }

// Handle answers HTTP requests for a path otherwise than with a file.
func (l *LAN) Handle(path string, h http.Handler) { l.station.web.Handle(path, h) }
