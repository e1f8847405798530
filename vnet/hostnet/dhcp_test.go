package hostnet

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpServer answers on a host's first interface, as far as the client needs.
type dhcpServer struct {
	t *testing.T

	mu      sync.Mutex
	lease   time.Duration
	address net.IP
	ignore  int // messages to lose
	refuse  bool
	silent  bool
	mangle  func(*dhcpv4.DHCPv4)

	declined func(*dhcpv4.DHCPv4)
	junk     bool // send rubbish before each answer
	seen     []string
}

func serveDHCP(t *testing.T, n *Net, lease time.Duration) *dhcpServer {
	s := &dhcpServer{t: t, lease: lease, address: net.IPv4(10, 0, 0, 50)}
	conn, err := n.broadcastSocket(1, dhcpServerPort)
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	done := make(chan struct{})
	t.Cleanup(func() {
		over.Store(true)
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			k, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			m, err := dhcpv4.FromBytes(buf[:k])
			if err != nil {
				t.Errorf("the client sent rubbish: %v", err)
				continue
			}
			answer := s.answer(m, from)
			if answer == nil {
				continue
			}
			to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpClientPort}
			if !m.ClientIPAddr.IsUnspecified() {
				to.IP = m.ClientIPAddr
			}
			if s.junk {
				conn.WriteTo([]byte("rubbish"), to)
				other := *answer
				other.TransactionID[0]++
				other.YourIPAddr = net.IPv4(6, 6, 6, 6)
				conn.WriteTo(other.ToBytes(), to)
			}
			if _, err := conn.WriteTo(answer.ToBytes(), to); err != nil && !over.Load() {
				t.Errorf("DHCP server: %v", err)
			}
		}
	}()
	return s
}

func (s *dhcpServer) answer(m *dhcpv4.DHCPv4, from net.Addr) *dhcpv4.DHCPv4 {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := m.MessageType().String()
	if m.MessageType() == dhcpv4.MessageTypeRequest && !m.ClientIPAddr.IsUnspecified() {
		kind = "RENEW"
	}
	s.seen = append(s.seen, kind+" from "+strings.Split(from.String(), ":")[0])
	if m.MessageType() == dhcpv4.MessageTypeDecline {
		if s.declined != nil {
			s.declined(m)
		}
		return nil
	}
	if s.silent {
		return nil
	}
	if s.ignore > 0 {
		s.ignore--
		return nil
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithServerIP(net.IPv4(10, 0, 0, 2)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 2))),
	}
	if m.MessageType() == dhcpv4.MessageTypeRequest && s.refuse {
		mods = append(mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak))
	} else {
		kind := dhcpv4.MessageTypeOffer
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		mods = append(mods, dhcpv4.WithMessageType(kind),
			dhcpv4.WithYourIP(s.address),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
			dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(99, 0, 0, 1), net.IPv4(10, 0, 0, 2))),
			dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(10, 0, 0, 3))),
			dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(s.lease)))
	}
	r, err := dhcpv4.NewReplyFromRequest(m, mods...)
	if err != nil {
		s.t.Error(err)
		return nil
	}
	if s.mangle != nil {
		s.mangle(r)
	}
	return r
}

func (s *dhcpServer) set(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
}

func (s *dhcpServer) saw(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.seen {
		if strings.HasPrefix(m, what) {
			return true
		}
	}
	return false
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

// client is a host that asks DHCP, on a cable with a server.
func client(t *testing.T, lease time.Duration, tune func(*dhcpServer)) (*Net, *dhcpServer, *cable) {
	c := newCable(t)
	server := host(t, static("net0", "10.0.0.2/24"), c.end[1])
	s := serveDHCP(t, server, lease)
	if tune != nil {
		s.set(func() { tune(s) })
	}
	return host(t, Config{Hostname: "godwit-1"}, c.end[0]), s, c
}

func TestDHCP(t *testing.T) {
	n, s, _ := client(t, time.Hour, func(s *dhcpServer) { s.junk = true })
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	i := n.Status().Interfaces[0]
	if i.Address != "10.0.0.50/24" || i.Gateway != "10.0.0.2" || i.Server != "10.0.0.2" || i.Method != "dhcp" || i.Problem != "" ||
		len(i.DNS) != 1 || i.DNS[0] != netip.MustParseAddr("10.0.0.3") {
		t.Errorf("%+v", i)
	}
	if left := time.Until(*i.LeaseEnds); left > time.Hour || left < 50*time.Minute {
		t.Errorf("the lease has %v left", left)
	}
	if !s.saw("DISCOVER from 0.0.0.0") || !s.saw("REQUEST from 0.0.0.0") {
		t.Errorf("server saw %q", s.seen)
	}
	if _, err := n.Ping(timeout(t, time.Minute), "10.0.0.2"); err != nil {
		t.Error(err)
	}
	for _, p := range n.stack.NICInfo()[1].ProtocolAddresses {
		if p.AddressWithPrefix.Address.Unspecified() {
			t.Error("the address 0.0.0.0 stayed")
		}
	}
}

func TestDHCPSurvivesLostMessages(t *testing.T) {
	n, _, _ := client(t, time.Hour, func(s *dhcpServer) { s.ignore = 3 })
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

func TestDHCPRenewsWithoutLosingConnections(t *testing.T) {
	n, s, c := client(t, 2*time.Second, nil)
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	l, err := n.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var first time.Time
	eventually(t, "a lease", func() bool { // it may have run out meanwhile
		e := n.Status().Interfaces[0].LeaseEnds
		if e != nil {
			first = *e
		}
		return e != nil
	})
	eventually(t, "a renewal, unicast", func() bool { return s.saw("RENEW from 10.0.0.50") })
	eventually(t, "a later end of the lease", func() bool {
		e := n.Status().Interfaces[0].LeaseEnds
		return e != nil && e.After(first)
	})
	_ = c
}

func TestDHCPLeaseThatRunsOut(t *testing.T) {
	n, s, _ := client(t, 2*time.Second, nil)
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.silent = true })
	eventually(t, "the address to go", func() bool { return n.Status().Interfaces[0].Address == "" })
	s.set(func() { s.silent = false; s.address = net.IPv4(10, 0, 0, 51) })
	eventually(t, "another address", func() bool { return n.Status().Interfaces[0].Address == "10.0.0.51/24" })
}

func TestDHCPRefusal(t *testing.T) {
	n, s, _ := client(t, 2*time.Second, nil)
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.refuse = true })
	eventually(t, "the address to go", func() bool { return n.Status().Interfaces[0].Address == "" })
	s.set(func() { s.refuse = false })
	eventually(t, "an address again", func() bool { return n.Status().Interfaces[0].Address == "10.0.0.50/24" })
}

func TestDHCPServerThatAlwaysRefusesIsNotFlooded(t *testing.T) {
	begin := time.Now()
	_, s, _ := client(t, time.Hour, func(s *dhcpServer) { s.refuse = true })
	eventually(t, "a request", func() bool { return s.saw("REQUEST") })
	time.Sleep(dhcpFirstWait / 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	// Discover and request, each perhaps twice, and again after each wait.
	if n, most := len(s.seen), 4*(1+int(time.Since(begin)/dhcpFirstWait)); n > most {
		t.Errorf("the server saw %d messages, more than %d: %q...", n, most, s.seen[:most])
	}
}

func TestDHCPAsksLessOftenTheLongerTheLease(t *testing.T) {
	for _, c := range []struct {
		lease      time.Duration
		least, max int
	}{
		{time.Second, 1, 8},
		{10 * time.Minute, 5, 20},
		{24 * time.Hour, 5, 30},
		{time.Duration(1<<32-1) * time.Second, 10, 70},
	} {
		ack := goodAck(t)
		ack.UpdateOption(dhcpv4.OptIPAddressLeaseTime(c.lease))
		now := time.Now()
		l, err := readLease(ack, now)
		if err != nil {
			t.Fatal(err)
		}
		asked, atT2 := 0, false
		for now = l.renew; now.Before(l.expires); asked++ {
			next := l.retry(now)
			if !next.After(now) || next.After(l.expires) {
				t.Fatalf("lease of %v: asked at %v, the next time at %v", c.lease, now, next)
			}
			atT2 = atT2 || next.Equal(l.rebind)
			now = next
		}
		if asked < c.least || asked > c.max || !atT2 {
			t.Errorf("lease of %v: asked %d times until it ran out, at T2: %v", c.lease, asked, atT2)
		}
	}
}

func TestDHCPAsksAgainWhenTheCableReturns(t *testing.T) {
	n, s, c := client(t, time.Hour, nil)
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.end[0].setLink(false)
	eventually(t, "the link down", func() bool { return n.Status().Interfaces[0].Link == "down" })
	c.end[0].setLink(true)
	eventually(t, "a renewal", func() bool { return s.saw("RENEW") })
}

func TestDHCPWaitsForTheCable(t *testing.T) {
	c := newCable(t)
	s := serveDHCP(t, host(t, static("net0", "10.0.0.2/24"), c.end[1]), time.Hour)
	c.end[0].up = false
	n := host(t, Config{}, c.end[0])
	time.Sleep(20 * time.Millisecond)
	if s.saw("DISCOVER") {
		t.Error("asked without a link")
	}
	c.end[0].setLink(true)
	if err := n.Up(timeout(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

func TestDHCPAnswersThatMakeNoSense(t *testing.T) {
	for name, mangle := range map[string]func(*dhcpv4.DHCPv4){
		"no address":    func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero },
		"loopback":      func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(127, 0, 0, 1) },
		"multicast":     func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(224, 0, 0, 1) },
		"no lease time": func(m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionIPAddressLeaseTime) },
		"no server":     func(m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionServerIdentifier) },
		"wild mask":     func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptSubnetMask(net.IPv4Mask(255, 0, 255, 0))) },
	} {
		ack := goodAck(t)
		mangle(ack)
		if l, err := readLease(ack, time.Now()); err == nil || !strings.Contains(err.Error(), "unusable") {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	ack := goodAck(t)
	ack.UpdateOption(dhcpv4.OptRenewTimeValue(2 * time.Hour)) // after the end
	now := time.Now()
	l, err := readLease(ack, now)
	if err != nil || !l.renew.Equal(now.Add(30*time.Minute)) {
		t.Errorf("%+v, %v", l, err)
	}
}

func goodAck(t testing.TB) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 50)),
		dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 1}),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 2))),
		dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(10, 0, 0, 2))), dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(10, 0, 0, 3))),
		dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func FuzzLease(f *testing.F) {
	f.Add(goodAck(f).ToBytes())
	f.Add([]byte("rubbish"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := readLease(m, time.Now())
		if err != nil {
			return
		}
		if !l.address.IsValid() || !l.address.Addr().Is4() || l.gateway.IsValid() && !l.address.Contains(l.gateway) {
			t.Errorf("%+v", l)
		}
		if !l.rebind.Before(l.expires) {
			t.Errorf("times out of order: %+v", l)
		}
	})
}

func TestCloseWhileAskingDHCP(t *testing.T) {
	c := newCable(t)
	n := host(t, Config{}, c.end[0]) // nobody answers
	time.Sleep(20 * time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- n.Close() }()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close hangs")
	}
}
