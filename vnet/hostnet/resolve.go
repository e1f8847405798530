package hostnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// A stub resolver (RFC 1034 5.3.1): it asks recursive servers for a name's IPv4 addresses. net.Resolver does that too, with
// a system's files, search lists, IPv6 and sockets behind it, which were 320 KiB of the image.

// Resolve finds the IPv4 address of a host given by address or by name. With a name it waits for the host to have an
// address: DHCP tells who knows names together with it.
func (n *Net) Resolve(ctx context.Context, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a = a.Unmap(); !a.Is4() {
			return netip.Addr{}, fmt.Errorf("%v is an IPv6 address; the host speaks IPv4", a)
		}
		return a, nil
	}
	if last := host[strings.LastIndexByte(host, '.')+1:]; last != "" && strings.Trim(last, "0123456789") == "" { // RFC 1123 2.1
		return netip.Addr{}, fmt.Errorf("%q is neither an IPv4 address, like 192.0.2.1, nor a name", host)
	}
	if err := n.Up(ctx); err != nil {
		return netip.Addr{}, fmt.Errorf("look up %q: %w", host, err)
	}
	servers := n.nameServers()
	if len(servers) == 0 {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address, and no DNS server is known to ask for it as a name", host)
	}
	a, err := lookUp(ctx, host, servers, func(s netip.Addr) (net.Conn, error) {
		to := full(netip.AddrPortFrom(s, 53))
		return gonet.DialUDP(n.stack, nil, &to, ipv4.ProtocolNumber)
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up %q at %v: %w", host, servers, err)
	}
	return a, nil
}

func (n *Net) nameServers() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []netip.Addr
	for _, i := range n.ifaces {
		all = append(all, i.dns...)
	}
	return all
}

// dnsPatience is how long each server may take, in one round after the other.
var dnsPatience = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// maxDNS is the largest answer asked for (RFC 6891 6.2.3, and the size that passes everywhere unfragmented).
const maxDNS = 1232

// A finalError is an answer that another server would only repeat.
type finalError string

func (e finalError) Error() string { return string(e) }

// lookUp asks the servers in turn, again and again until one has answered or all were asked often enough.
func lookUp(ctx context.Context, host string, servers []netip.Addr, dial func(netip.Addr) (net.Conn, error)) (netip.Addr, error) {
	absolute := host
	if absolute == "" || absolute[len(absolute)-1] != '.' {
		absolute += "."
	}
	name, err := dnsmessage.NewName(absolute)
	if err != nil || absolute == "." {
		return netip.Addr{}, errors.New("that is no name of a host")
	}
	for _, patience := range dnsPatience {
		for _, s := range servers {
			var a netip.Addr
			a, err = ask(ctx, s, name, patience, dial)
			if err == nil {
				return a, nil
			}
			if _, final := err.(finalError); final || ctx.Err() != nil {
				return netip.Addr{}, err
			}
		}
	}
	return netip.Addr{}, err // what the last one said
}

// ask sends one question and waits for its answer. Whatever else comes is passed over: who can not see the question can
// guess neither its number nor its port.
func ask(ctx context.Context, server netip.Addr, name dnsmessage.Name, patience time.Duration, dial func(netip.Addr) (net.Conn, error)) (netip.Addr, error) {
	none := netip.Addr{}
	id := uint16(rand.Uint32())
	q, err := question(id, name)
	if err != nil {
		return none, finalError("that is no name of a host")
	}
	c, err := dial(server)
	if err != nil {
		return none, fmt.Errorf("%v: %w", server, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := c.Write(q); err != nil {
		return none, fmt.Errorf("%v: %w", server, err)
	}
	buf := make([]byte, maxDNS)
	for {
		k, err := c.Read(buf)
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		if err != nil {
			if t, ok := err.(net.Error); ok && t.Timeout() {
				return none, fmt.Errorf("%v does not answer", server)
			}
			return none, fmt.Errorf("%v: %w", server, err)
		}
		a, ours, err := answer(buf[:k], id, name)
		if !ours {
			continue
		}
		if _, final := err.(finalError); err != nil && !final {
			err = fmt.Errorf("%v %w", server, err)
		}
		return a, err
	}
}

// question is a query for a name's IPv4 addresses, with leave to answer at length.
func question(id uint16, name dnsmessage.Name) ([]byte, error) {
	var opt dnsmessage.ResourceHeader
	if err := opt.SetEDNS0(maxDNS, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), dnsmessage.Header{ID: id, RecursionDesired: true})
	if err := errors.Join(
		b.StartQuestions(),
		b.Question(dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}),
		b.StartAdditionals(),
		b.OPTResource(opt, dnsmessage.OPTResource{}),
	); err != nil {
		return nil, err
	}
	return b.Finish()
}

// answer reads a message. Unless ours, it answers something else, or is garbage. A server that knows an alias of the name
// answers with that and what it stands for, in this order (RFC 1034 3.6.2).
func answer(msg []byte, id uint16, name dnsmessage.Name) (a netip.Addr, ours bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.ID != id || !h.Response {
		return a, false, nil
	}
	q, err := p.Question()
	if err != nil || q.Type != dnsmessage.TypeA || q.Class != dnsmessage.ClassINET || !sameName(q.Name, name) {
		return a, false, nil
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		return a, true, finalError("there is no such host")
	default:
		return a, true, fmt.Errorf("can not tell: %v", h.RCode)
	}
	if err := p.SkipAllQuestions(); err != nil {
		return a, true, errors.New("sent a broken answer")
	}
	for {
		r, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			return a, true, errors.New("sent a broken answer")
		}
		switch {
		case r.Class == dnsmessage.ClassINET && r.Type == dnsmessage.TypeA && sameName(r.Name, name):
			v, err := p.AResource()
			if err != nil {
				return a, true, errors.New("sent a broken answer")
			}
			return netip.AddrFrom4(v.A), true, nil
		case r.Class == dnsmessage.ClassINET && r.Type == dnsmessage.TypeCNAME && sameName(r.Name, name):
			v, err := p.CNAMEResource()
			if err != nil {
				return a, true, errors.New("sent a broken answer")
			}
			name = v.CNAME
		default:
			if err := p.SkipAnswer(); err != nil {
				return a, true, errors.New("sent a broken answer")
			}
		}
	}
	if h.Truncated {
		return a, true, errors.New("sent only a part of its answer")
	}
	return a, true, finalError("it has no IPv4 address")
}

// sameName compares names as DNS does: letters without regard to case (RFC 4343).
func sameName(a, b dnsmessage.Name) bool {
	if a.Length != b.Length {
		return false
	}
	lower := func(c byte) byte {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	for i := range a.Length {
		if lower(a.Data[i]) != lower(b.Data[i]) {
			return false
		}
	}
	return true
}
