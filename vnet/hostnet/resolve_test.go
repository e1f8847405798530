package hostnet

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers questions at one of a pair of hosts.
func nameServer(t *testing.T, n *Net, reply func(q dnsmessage.Message) []dnsmessage.Message) {
	c, err := n.ListenPacket(timeout(t, time.Minute), "udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if err := q.Unpack(buf[:k]); err != nil {
				t.Errorf("a question that can not be read: %v", err)
				continue
			}
			for _, m := range reply(q) {
				b, err := m.Pack()
				if err != nil {
					t.Error(err)
				}
				c.WriteTo(b, from)
			}
		}
	}()
}

func respond(q dnsmessage.Message, code dnsmessage.RCode, answers ...dnsmessage.Resource) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true, RCode: code},
		Questions: q.Questions, Answers: answers,
	}
}

func record(name string, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 60}, Body: body}
}

func address(a byte) *dnsmessage.AResource { return &dnsmessage.AResource{A: [4]byte{10, 0, 0, a}} }

func alias(name string) *dnsmessage.CNAMEResource {
	return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(name)}
}

// knowing makes a host that asks its peer for names.
func knowing(t *testing.T, servers string) (asks, serves *Net) {
	c := newCable(t)
	cfg := static("net0", "10.0.0.1/24")
	for _, s := range strings.Fields(servers) {
		cfg.Interfaces[0].DNS = append(cfg.Interfaces[0].DNS, netip.MustParseAddr(s))
	}
	return host(t, cfg, c.end[0]), host(t, static("net0", "10.0.0.2/24"), c.end[1])
}

func TestNamesAreLookedUp(t *testing.T) {
	a, b := knowing(t, "10.0.0.2")
	nameServer(t, b, func(q dnsmessage.Message) []dnsmessage.Message {
		wrongID := respond(q, dnsmessage.RCodeSuccess, record(q.Questions[0].Name.String(), address(66)))
		wrongID.ID++
		other := respond(q, dnsmessage.RCodeSuccess, record("other.", address(66)))
		other.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("other."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
		noReply := wrongID
		noReply.ID, noReply.Response = q.ID, false
		answers := []dnsmessage.Message{wrongID, other, noReply}
		switch strings.ToLower(q.Questions[0].Name.String()) {
		case "plain.":
			return append(answers, respond(q, 0, record("stranger.", address(67)), record("PLAIN.", address(7))))
		case "alias.":
			return append(answers, respond(q, 0, record("alias.", alias("b.test.")), record("b.test.", alias("c.test.")), record("c.test.", address(8))))
		case "empty.":
			return append(answers, respond(q, 0))
		case "cut.":
			m := respond(q, 0)
			m.Truncated = true
			return append(answers, m)
		case "broken.":
			return append(answers, respond(q, dnsmessage.RCodeServerFailure))
		}
		return append(answers, respond(q, dnsmessage.RCodeNameError))
	})
	for name, want := range map[string]string{
		"plain": "10.0.0.7", "plain.": "10.0.0.7", "Plain": "10.0.0.7", "alias": "10.0.0.8", "10.0.0.9": "10.0.0.9",
		"empty": "no IPv4 address", "nobody": "no such host", "cut": "only a part", "broken": "can not tell",
		"": "no name", ".": "no name", strings.Repeat("a", 300): "no name", strings.Repeat("b", 64): "no name", "a..b": "no name", "fe80::1": "IPv6",
	} {
		got, err := a.Resolve(timeout(t, time.Minute), name)
		if s := got.String(); err == nil && s != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, %v; want %s", name, got, err, want)
		}
	}
}

func TestAServerThatIsDeafIsNotTheLast(t *testing.T) {
	defer func(p []time.Duration) { dnsPatience = p }(dnsPatience)
	dnsPatience = []time.Duration{20 * time.Millisecond, 5 * time.Second}
	a, b := knowing(t, "10.0.0.77 10.0.0.2")
	failed := false
	nameServer(t, b, func(q dnsmessage.Message) []dnsmessage.Message {
		if !failed { // the second round finds what the first did not
			failed = true
			return []dnsmessage.Message{respond(q, dnsmessage.RCodeServerFailure)}
		}
		return []dnsmessage.Message{respond(q, 0, record("x.", address(5)))}
	})
	if got, err := a.Resolve(timeout(t, time.Minute), "x"); err != nil || got.String() != "10.0.0.5" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestANameWaitsForTheServerThatDHCPNames(t *testing.T) {
	c := newCable(t)
	server := host(t, static("net0", "10.0.0.2/24"), c.end[1])
	s := serveDHCP(t, server, time.Hour)
	s.set(func() { s.mangle = func(r *dhcpv4.DHCPv4) { r.UpdateOption(dhcpv4.OptDNS(net.IPv4(10, 0, 0, 2))) } })
	nameServer(t, server, func(q dnsmessage.Message) []dnsmessage.Message {
		return []dnsmessage.Message{respond(q, 0, record("x.", address(5)))}
	})
	c.end[0].up = false
	n := host(t, Config{}, c.end[0])
	time.AfterFunc(20*time.Millisecond, func() { c.end[0].setLink(true) })
	if got, err := n.Resolve(timeout(t, time.Minute), "x"); err != nil || got.String() != "10.0.0.5" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestLookingUpEndsWithItsContext(t *testing.T) {
	a, b := knowing(t, "10.0.0.2")
	nameServer(t, b, func(dnsmessage.Message) []dnsmessage.Message { return nil })
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := a.Resolve(ctx, "x"); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("%v", err)
	}
}

func TestAllServersDeaf(t *testing.T) {
	defer func(p []time.Duration) { dnsPatience = p }(dnsPatience)
	dnsPatience = []time.Duration{time.Millisecond, time.Millisecond}
	dialled := 0
	_, err := lookUp(context.Background(), "x", []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, func(netip.Addr) (net.Conn, error) {
		dialled++
		c, other := net.Pipe()
		go func() {
			buf := make([]byte, 2048)
			for {
				if _, err := other.Read(buf); err != nil {
					return
				}
			}
		}()
		return c, nil
	})
	if err == nil || err.Error() != "10.0.0.2 does not answer" || dialled != 4 {
		t.Errorf("%d questions, %v", dialled, err)
	}
}

func FuzzDNSAnswer(f *testing.F) {
	name := dnsmessage.MustNewName("x.test.")
	q, err := question(7, name)
	if err != nil {
		f.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(q); err != nil {
		f.Fatal(err)
	}
	for _, a := range []dnsmessage.Message{
		respond(m, 0, record("x.test.", address(1))), respond(m, 0, record("x.test.", alias("y.test.")), record("y.test.", address(1))), respond(m, dnsmessage.RCodeNameError),
	} {
		b, err := a.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ours, err := answer(b, 7, name)
		if err == nil && ours && !a.Is4() {
			t.Fatalf("%v", a)
		}
	})
}

// A mistyped address is no name to ask DNS for (RFC 1123 2.1), nor to wait for the network with.
func TestAMistypedAddressIsNotLookedUp(t *testing.T) {
	n := host(t, Config{})
	for _, a := range []string{"999.1.1.1", "10.0.0.256", "10.0.0", "10"} {
		if _, err := n.Resolve(timeout(t, time.Minute), a); err == nil || !strings.Contains(err.Error(), "neither an IPv4 address, like 192.0.2.1, nor a name") {
			t.Errorf("%q: %v", a, err)
		}
	}
}
