package hostnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// DHCP's ports, RFC 2131 4.1.
const (
	dhcpServerPort = 67
	dhcpClientPort = 68
)

const (
	// Waits for an answer grow from the first to the last. RFC 2131 4.1
	// suggests 4 to 64 s; a host that boots should not lose 4 s to one lost
	// packet.
	dhcpFirstWait = 1 * time.Second
	dhcpLastWait  = 32 * time.Second
	// dhcpMinRenew keeps a server with a tiny lease from being flooded.
	dhcpMinRenew = 500 * time.Millisecond
)

// lease is an address a server lent.
type lease struct {
	address netip.Prefix
	gateway netip.Addr
	dns     []netip.Addr
	server  netip.Addr

	renew, rebind, expires time.Time // RFC 2131 4.4.5: T1, T2, the end
}

var errRefused = errors.New("the DHCP server refused (DHCPNAK)")

// runDHCP keeps the interface's address as a DHCP server gives it: the client's
// states of RFC 2131 4.4, figure 5. The random delay before the first message,
// meant for many machines powered on at once, is left out.
func (i *iface) runDHCP(ctx context.Context) {
	wait, told, declined := dhcpFirstWait, false, 0
	for ctx.Err() == nil {
		if !i.waitLink(ctx) {
			return
		}
		next := time.Now().Add(wait)
		l, err := i.acquire(ctx, wait)
		if err != nil {
			wait = min(2*wait, dhcpLastWait)
			i.tell(fmt.Sprintf("asking DHCP for an address: %v", err))
			if !told && ctx.Err() == nil { // once: `net` shows what is new
				told = true
				i.net.logf("%s: no address yet: asking DHCP for one: %v; going on asking", i.name, err)
			}
			// A server that refuses at once is not asked again at once.
			if i.pause(ctx, time.Until(next)) {
				wait = dhcpFirstWait
			}
			continue
		}
		wait, told = dhcpFirstWait, false
		if holder := i.taken(ctx, l.address.Addr()); holder == "" {
			declined = 0
		} else if declined++; declined <= declinesMost {
			i.tell(fmt.Sprintf("DHCP server %v gave %v, which %s uses: declined; asking again", l.server, l.address.Addr(), holder))
			i.net.logf("%s: DHCP server %v gave address %v, which %s uses: it is declined, and another asked for in %v; give that machine another address, or the server another range",
				i.name, l.server, l.address.Addr(), holder, i.net.declineWait)
			if err := i.decline(ctx, l, holder); err != nil {
				i.net.logf("%s: %v", i.name, err)
			}
			i.pause(ctx, i.net.declineWait)
			continue
		} else {
			i.net.logf("%s: %s uses address %v, too, the last of %d that DHCP gave: it may answer for all; the address is used", i.name, holder, l.address.Addr(), declined)
		}
		if err := i.apply(l, "got"); err != nil {
			i.tell(err.Error())
			i.pause(ctx, dhcpLastWait)
			continue
		}
		i.hold(ctx, l)
	}
}

// waitLink waits for the cable. It reports false when ctx ended.
func (i *iface) waitLink(ctx context.Context) bool {
	for {
		i.net.mu.Lock()
		up := i.link.Up
		i.net.mu.Unlock()
		if up {
			return true
		}
		select {
		case <-i.linkEvent:
		case <-ctx.Done():
			return false
		}
	}
}

// pause waits, or until the cable is plugged in, which it reports, or ctx ends.
func (i *iface) pause(ctx context.Context, d time.Duration) (plugged bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-i.linkEvent:
		return true
	case <-ctx.Done():
	}
	return false
}

// tell sets the reason for there being no address.
func (i *iface) tell(problem string) {
	i.net.mu.Lock()
	i.problem = problem
	i.net.mu.Unlock()
}

// apply gives the interface a lease's address.
func (i *iface) apply(l *lease, how string) error {
	n := i.net
	n.mu.Lock()
	defer n.mu.Unlock()
	fresh := i.address != l.address || i.gateway != l.gateway
	if err := i.setAddress(l.address, l.gateway, l.dns, l); err != nil {
		return err
	}
	if fresh {
		n.logf("%s: DHCP server %v gave address %v%s for %v", i.name, l.server, l.address, gatewayText(l.gateway),
			time.Until(l.expires).Round(time.Second))
	}
	return nil
}

// hold renews a lease until it is lost.
func (i *iface) hold(ctx context.Context, l *lease) {
	for {
		now := time.Now()
		next := l.renew
		switch {
		case !now.Before(l.expires):
			i.lose("its DHCP lease ran out")
			return
		case !now.Before(l.renew):
			next = l.retry(now)
		}
		if i.pause(ctx, time.Until(next)) {
			// The cable may lead to another network now: ask whether the address
			// still holds.
			l.rebind = time.Now()
		}
		if ctx.Err() != nil {
			return
		}
		if !time.Now().Before(l.expires) {
			continue
		}
		renewed, err := i.renew(ctx, l)
		switch {
		case errors.Is(err, errRefused):
			i.lose("the DHCP server does not renew its lease")
			return
		case err == nil:
			l = renewed
			if err := i.apply(l, "renewed"); err != nil {
				i.lose(err.Error())
				return
			}
		}
	}
}

// retry is when to ask again for a renewal that nobody answered: after half of what is
// left until T2, then until the end, but a minute at least (RFC 2131 4.4.5), which is
// less for leases of minutes.
func (l *lease) retry(now time.Time) time.Time {
	bound := l.rebind
	if !now.Before(bound) {
		bound = l.expires
	}
	least := max(min(time.Minute, l.expires.Sub(l.renew)/16), dhcpMinRenew)
	if next := now.Add(max(bound.Sub(now)/2, least)); next.Before(bound) {
		return next
	}
	return bound
}

func (i *iface) lose(why string) {
	n := i.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.logf("%s: address %v is gone: %s", i.name, i.address, why)
	i.removeAddress()
	i.problem = why
}

// acquire asks for an address: discover, offer, request, acknowledgement.
func (i *iface) acquire(ctx context.Context, wait time.Duration) (*lease, error) {
	x, err := i.openExchange(ctx)
	if err != nil {
		return nil, err
	}
	defer x.close()
	discover, err := dhcpv4.NewDiscovery(i.nic.MAC(), i.options()...)
	if err != nil {
		return nil, fmt.Errorf("make a DHCPDISCOVER: %w", err)
	}
	offer, err := x.ask(discover, net.IPv4bcast, wait, dhcpv4.MessageTypeOffer)
	if err != nil {
		return nil, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, i.options()...)
	if err != nil {
		return nil, fmt.Errorf("make a DHCPREQUEST: %w", err)
	}
	asked := time.Now()
	ack, err := x.ask(request, net.IPv4bcast, max(wait, 2*time.Second), dhcpv4.MessageTypeAck)
	if err != nil {
		return nil, err
	}
	return readLease(ack, asked)
}

// renew asks for more time: of the server that lent the address until T2, then of
// any.
func (i *iface) renew(ctx context.Context, l *lease) (*lease, error) {
	x, err := i.openExchange(ctx)
	if err != nil {
		return nil, err
	}
	defer x.close()
	to := l.server.AsSlice()
	if !time.Now().Before(l.rebind) {
		to = net.IPv4bcast
	}
	// RFC 2131 4.3.2: ciaddr filled, no server identifier, no requested address.
	request, err := dhcpv4.New(append(i.options(),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithHwAddr(i.nic.MAC()),
		dhcpv4.WithClientIP(l.address.Addr().AsSlice()),
		dhcpv4.WithBroadcast(false))...)
	if err != nil {
		return nil, fmt.Errorf("make a DHCPREQUEST: %w", err)
	}
	asked := time.Now()
	wait := min(max(time.Until(l.expires)/4, dhcpMinRenew), 4*time.Second)
	ack, err := x.ask(request, to, wait, dhcpv4.MessageTypeAck)
	if err != nil {
		return nil, err
	}
	return readLease(ack, asked)
}

// options are common to all messages. The broadcast flag is set since the stack
// takes nothing sent to an address it does not have yet.
func (i *iface) options() []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1472)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue),
	}
	if h := i.net.cfg.Hostname; h != "" {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(h)))
	}
	return m
}

// exchange is a socket for talking to DHCP servers.
type exchange struct {
	conn  *gonet.UDPConn
	ctx   context.Context
	close func()
}

func (i *iface) openExchange(ctx context.Context) (*exchange, error) {
	i.net.mu.Lock()
	address := i.address
	i.net.mu.Unlock()
	conn, err := i.net.broadcastSocket(i.id, dhcpClientPort)
	if err != nil {
		return nil, err
	}
	undo := func() {}
	if !address.IsValid() {
		if undo, err = i.net.borrowNoAddress(i.id); err != nil {
			conn.Close()
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return &exchange{conn, ctx, func() { stop(); conn.Close(); undo() }}, nil
}

// ask sends a message and waits for an answer to it of the wanted type, sending
// again once halfway. A refusal ends the wait.
func (x *exchange) ask(m *dhcpv4.DHCPv4, to net.IP, wait time.Duration, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	// RFC 2131 4.1: waits vary, so that clients do not march in step.
	wait += time.Duration(rand.Int64N(int64(wait/8) + 1))
	deadline := time.Now().Add(wait)
	buf := make([]byte, 1500)
	for _, until := range []time.Time{deadline.Add(-wait / 2), deadline} {
		if _, err := x.conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: to, Port: dhcpServerPort}); err != nil {
			return nil, fmt.Errorf("send %v: %w", m.MessageType(), err)
		}
		x.conn.SetReadDeadline(until)
		for {
			n, _, err := x.conn.ReadFrom(buf)
			if x.ctx.Err() != nil {
				return nil, x.ctx.Err()
			}
			if err != nil {
				break // nothing came in time
			}
			answer, err := dhcpv4.FromBytes(buf[:n])
			if err != nil || answer.OpCode != dhcpv4.OpcodeBootReply || answer.TransactionID != m.TransactionID ||
				answer.ClientHWAddr.String() != m.ClientHWAddr.String() {
				continue // damaged, or another's
			}
			switch answer.MessageType() {
			case want:
				return answer, nil
			case dhcpv4.MessageTypeNak:
				return nil, errRefused
			}
		}
	}
	return nil, fmt.Errorf("no answer to %v in %v", m.MessageType(), wait.Round(100*time.Millisecond))
}

// readLease checks what a server gave. asked is when: the time counts from then,
// RFC 2131 4.4.1.
func readLease(ack *dhcpv4.DHCPv4, asked time.Time) (*lease, error) {
	bad := func(format string, args ...any) (*lease, error) {
		return nil, fmt.Errorf("the DHCP server's answer is unusable: "+format, args...)
	}
	a, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.As4()[0] >= 240 {
		return bad("address %v", ack.YourIPAddr)
	}
	ones, size := 24, 32
	if m := ack.SubnetMask(); m != nil {
		if ones, size = m.Size(); size != 32 || ones == 0 {
			return bad("network mask %v", m)
		}
	}
	l := &lease{address: netip.PrefixFrom(a, ones)}
	if s, ok := netip.AddrFromSlice(ack.ServerIdentifier().To4()); ok {
		l.server = s
	} else {
		return bad("it does not say which server it is")
	}
	for _, r := range ack.Router() {
		if g, ok := netip.AddrFromSlice(r.To4()); ok && l.address.Contains(g) && g != a {
			l.gateway = g
			break
		}
	}
	for _, d := range ack.DNS() {
		if s, ok := netip.AddrFromSlice(d.To4()); ok && !s.IsUnspecified() && len(l.dns) < 4 {
			l.dns = append(l.dns, s)
		}
	}
	// RFC 2131 4.4.5: T1 and T2 default to 1/2 and 7/8 of the time.
	t := ack.IPAddressLeaseTime(0)
	if t <= 0 {
		return bad("no lease time")
	}
	renew, rebind := ack.IPAddressRenewalTime(t/2), ack.IPAddressRebindingTime(t/8*7)
	if renew <= 0 || renew >= rebind || rebind >= t {
		renew, rebind = t/2, t/8*7
	}
	l.renew = asked.Add(max(renew, dhcpMinRenew))
	l.rebind, l.expires = asked.Add(rebind), asked.Add(t)
	return l, nil
}
