package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"godwit/vnet/nic"
)

var (
	// ErrNoInterface tells that the machine has no network interface.
	ErrNoInterface = errors.New("this host has no network interface that Godwit drives (it drives Intel 82540EM and 82574L)")
	// ErrClosed tells that the network was closed.
	ErrClosed = errors.New("the host's network was closed")
)

// Net is the host's network.
type Net struct {
	cfg Config

	declineWait time.Duration

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // DHCP clients, and who watches static addresses

	// searched is closed when the machine's interfaces have been looked for; the
	// stack exists from then on.
	searched chan struct{}
	stack    *stack.Stack

	mu      sync.Mutex // guards what follows and the state of the interfaces
	ifaces  []*iface
	changed chan struct{} // closed, and replaced, when an interface's state changes
	closed  bool
	problem string // why there are no interfaces
}

// iface is one interface.
type iface struct {
	net    *Net
	id     tcpip.NICID
	name   string
	device string // what it is and where
	nic    nic.Interface
	ep     *endpoint
	stop   func() error
	cfg    InterfaceConfig
	// linkEvent wakes the DHCP client, or who watches a static address.
	linkEvent chan struct{}

	// Guarded by net.mu.
	link    nic.Link
	address netip.Prefix
	gateway netip.Addr
	dns     []netip.Addr
	lease   *lease
	problem string // why it has no address
}

func newNet(cfg Config) *Net {
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	n := &Net{cfg: cfg, declineWait: dhcpDeclineWait, searched: make(chan struct{}), changed: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Buffers of TCP connections, tuned for migration: the default carries 10 Gb/s
// within a rack, where it takes less than 0.4 ms, and growth goes on to what they
// need over 6 ms. A larger default only makes bursts that links with short queues
// drop.
const (
	tcpBufferMin     = 4 << 10
	tcpBufferDefault = 512 << 10
	tcpBufferMax     = 8 << 20
)

// build makes the stack. It takes milliseconds, which is why it is not done
// before the console is up.
func (n *Net) build() {
	log.SetTarget(&stackLog{to: n.cfg.Log})
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocolWithOptions(probeOptions())},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		HandleLocal:        true,
	})
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	cubic := tcpip.CongestionControlOption("cubic")
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &cubic,
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpBufferMax},
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpBufferMax},
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			panic(fmt.Sprintf("hostnet: the stack refuses %T: %v", o, err))
		}
	}
	n.stack = s
}

// opener opens an interface; received frames go to h.
type opener func(h nic.Handler) (dev nic.Interface, stop func() error, err error)

// add opens an interface and brings it up as configured. device says what it is,
// aliases are other names the configuration may use for it.
func (n *Net) add(device string, open opener, aliases ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	i := &iface{
		net:       n,
		id:        tcpip.NICID(len(n.ifaces) + 1),
		name:      fmt.Sprintf("net%d", len(n.ifaces)),
		device:    device,
		linkEvent: make(chan struct{}, 1),
	}
	i.cfg = n.configOf(append(aliases, i.name)...)
	i.ep = newEndpoint(i.linkChanged)
	i.ep.conflicts.told = func(c conflict) { n.logf("%s: %v", i.name, c) }
	n.ifaces = append(n.ifaces, i)
	if i.cfg.Off {
		i.problem = "off, as configured"
		return nil
	}
	fail := func(err error) error {
		i.problem = err.Error()
		return fmt.Errorf("%s (%s): %w", i.name, device, err)
	}
	dev, stop, err := open(i.ep)
	if err != nil {
		return fail(err)
	}
	// The address may be what the configuration names.
	if c := n.configOf(dev.MAC().String()); c.Match != "" {
		i.cfg = c
	}
	i.nic, i.stop, i.link = dev, stop, dev.Link()
	i.ep.use(dev)
	if err := n.stack.CreateNICWithOptions(i.id, i.ep, stack.NICOptions{Name: i.name}); err != nil {
		i.nic = nil
		return fail(errors.Join(fmt.Errorf("the stack refuses the interface: %v", err), stop()))
	}
	n.logf("%s: %s, %v, link %v", i.name, device, dev.MAC(), i.link)
	if i.cfg.Address.IsValid() {
		if err := i.setAddress(i.cfg.Address, i.cfg.Gateway, i.cfg.DNS, nil); err != nil {
			return fail(err)
		}
		n.logf("%s: address %v%s", i.name, i.address, gatewayText(i.gateway))
		n.background(i.watchStatic)
		return nil
	}
	i.problem = "asking DHCP for an address"
	n.background(i.runDHCP)
	return nil
}

// background runs f until the network is closed.
func (n *Net) background(f func(context.Context)) {
	n.tasks.Add(1)
	go func() {
		defer n.tasks.Done()
		f(n.ctx)
	}()
}

// configOf finds the configuration that names an interface.
func (n *Net) configOf(names ...string) InterfaceConfig {
	for _, c := range n.cfg.Interfaces {
		for _, name := range names {
			if strings.EqualFold(c.Match, name) {
				return c
			}
		}
	}
	return InterfaceConfig{}
}

// linkChanged is called by the interface's goroutine.
func (i *iface) linkChanged(l nic.Link) {
	// add holds the lock while it opens the interface, whose first report comes
	// during that: it must not wait for it.
	go func() {
		n := i.net
		n.mu.Lock()
		if i.nic != nil {
			l = i.nic.Link() // the latest, whatever order reports come in
		}
		was := i.link
		i.link = l
		if was != l {
			n.logf("%s: link %v", i.name, l)
			n.notify()
		}
		n.mu.Unlock()
		if l.Up && !was.Up {
			select {
			case i.linkEvent <- struct{}{}:
			default:
			}
		}
	}()
}

// setAddress replaces the interface's address. net.mu is held.
func (i *iface) setAddress(p netip.Prefix, gateway netip.Addr, dns []netip.Addr, l *lease) error {
	if p != i.address {
		i.removeAddress()
		err := i.net.stack.AddProtocolAddress(i.id, tcpip.ProtocolAddress{
			Protocol: ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{
				Address:   tcpip.AddrFrom4(p.Addr().As4()),
				PrefixLen: p.Bits(),
			},
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("the stack refuses address %v: %v", p, err)
		}
	}
	if p != i.address {
		i.ep.conflicts.hold(p.Addr())
	}
	i.address, i.gateway, i.dns, i.lease, i.problem = p, gateway, dns, l, ""
	i.net.route()
	i.net.notify()
	return nil
}

// removeAddress takes the interface's address away. net.mu is held.
func (i *iface) removeAddress() {
	if !i.address.IsValid() {
		return
	}
	i.net.stack.RemoveAddress(i.id, tcpip.AddrFrom4(i.address.Addr().As4()))
	i.ep.conflicts.hold(netip.Addr{})
	i.address, i.gateway, i.dns, i.lease = netip.Prefix{}, netip.Addr{}, nil, nil
	i.net.route()
	i.net.notify()
}

// route sets the routing table: each interface's own network, then the gateways
// in the interfaces' order. mu is held.
func (n *Net) route() {
	var table []tcpip.Route
	for _, i := range n.ifaces {
		if i.address.IsValid() {
			p := i.address.Masked()
			s, err := tcpip.NewSubnet(tcpip.AddrFrom4(p.Addr().As4()), tcpip.MaskFromBytes(mask(p.Bits())))
			if err != nil {
				panic(fmt.Sprintf("hostnet: a masked prefix %v is no subnet: %v", p, err))
			}
			table = append(table, tcpip.Route{Destination: s, NIC: i.id})
		}
	}
	for _, i := range n.ifaces {
		if i.gateway.IsValid() {
			table = append(table, tcpip.Route{
				Destination: header.IPv4EmptySubnet,
				Gateway:     tcpip.AddrFrom4(i.gateway.As4()),
				NIC:         i.id,
			})
		}
	}
	n.stack.SetRouteTable(table)
}

func mask(bits int) []byte {
	m := ^uint32(0) << (32 - bits)
	return []byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
}

// notify wakes who waits for a change. mu is held.
func (n *Net) notify() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Up waits until an interface has an address.
func (n *Net) Up(ctx context.Context) error {
	select {
	case <-n.searched:
	case <-ctx.Done():
		return fmt.Errorf("the host's network is not up yet: %w", ctx.Err())
	case <-n.ctx.Done():
		return ErrClosed
	}
	for {
		n.mu.Lock()
		changed, up, closed, problem := n.changed, false, n.closed, n.problem
		var why []string
		for _, i := range n.ifaces {
			if i.address.IsValid() {
				up = true
			}
			why = append(why, i.name+": "+i.state())
		}
		n.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case up:
			return nil
		case len(why) == 0 && problem != "":
			return errors.New(problem)
		case len(why) == 0:
			return ErrNoInterface
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the host has no address (%s): %w", strings.Join(why, "; "), ctx.Err())
		}
	}
}

// state says in words why an interface has no address. net.mu is held.
func (i *iface) state() string {
	if i.nic != nil && !i.link.Up {
		return "no link"
	}
	return i.problem
}

// Close takes the network down.
func (n *Net) Close() error {
	n.cancel()
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return ErrClosed
	}
	n.closed = true
	n.notify()
	n.mu.Unlock()
	<-n.searched
	n.tasks.Wait()
	n.stack.Close()
	var errs []error
	for _, i := range n.ifaces { // add refuses since closed is set
		if i.stop != nil {
			errs = append(errs, i.stop())
		}
		i.ep.Attach(nil)
		i.ep.drop()
	}
	n.stack.Wait()
	return errors.Join(errs...)
}

func (n *Net) logf(format string, args ...any) { n.cfg.Log(fmt.Sprintf(format, args...)) }

func gatewayText(g netip.Addr) string {
	if !g.IsValid() {
		return ""
	}
	return fmt.Sprintf(", gateway %v", g)
}
