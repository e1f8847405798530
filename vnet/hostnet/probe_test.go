package hostnet

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Two hosts with one static address both say so, name each other, and keep it.
func TestTwoHostsWithOneStaticAddressFindEachOther(t *testing.T) {
	c := newCable(t)
	nets := []*Net{host(t, static("net0", "10.0.0.2/24"), c.end[0]), host(t, static("net0", "10.0.0.2/24"), c.end[1])}
	for i, n := range nets {
		other := c.end[1-i].mac.String()
		eventually(t, "the conflict is seen", func() bool { return n.Status().Interfaces[0].Conflict != "" })
		s := n.Status().Interfaces[0]
		if !strings.Contains(s.Conflict, "10.0.0.2 is also used by "+other) || s.Address != "10.0.0.2/24" {
			t.Errorf("%q, %q", s.Conflict, s.Address)
		}
	}
}

func TestAStaticAddressIsProbedAgainWhenTheCableReturns(t *testing.T) {
	c := newCable(t)
	c.end[0].up = false
	a, b := host(t, static("net0", "10.0.0.2/24"), c.end[0]), host(t, static("net0", "10.0.0.2/24"), c.end[1])
	time.Sleep(50 * time.Millisecond)
	if s := a.Status().Interfaces[0]; s.Conflict != "" || s.Address == "" {
		t.Fatalf("without a cable: %q, address %q", s.Conflict, s.Address)
	}
	c.end[0].setLink(true)
	for _, n := range []*Net{a, b} {
		eventually(t, "the conflict is seen", func() bool { return n.Status().Interfaces[0].Conflict != "" })
	}
}

// probePatiently makes the networks that a test opens from then on wait for an answer for as long as a busy machine may take.
func probePatiently(t *testing.T) {
	before := probeWait
	probeWait = 4 * time.Second
	t.Cleanup(func() { probeWait = before })
}

func TestAnAddressFromDHCPThatAnotherUsesIsDeclined(t *testing.T) {
	probePatiently(t)
	var declined []*dhcpv4.DHCPv4
	n, s, c := client(t, time.Hour, func(s *dhcpServer) {
		s.address = net.IPv4(10, 0, 0, 2) // the server's own
		s.declined = func(m *dhcpv4.DHCPv4) {
			declined = append(declined, m)
			s.address = net.IPv4(10, 0, 0, 51)
		}
	})
	eventually(t, "another address", func() bool { return n.Status().Interfaces[0].Address == "10.0.0.51/24" })
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(declined) != 1 {
		t.Fatalf("the server saw %q", s.seen)
	}
	// RFC 2131 4.4.1, table 5.
	m := declined[0]
	if !m.RequestedIPAddress().Equal(net.IPv4(10, 0, 0, 2)) || !m.ServerIdentifier().Equal(net.IPv4(10, 0, 0, 2)) ||
		!m.ClientIPAddr.IsUnspecified() || !strings.Contains(m.Message(), c.end[1].mac.String()) || m.Options.Has(dhcpv4.OptionParameterRequestList) {
		t.Errorf("declined with %v", m.Summary())
	}
}

// A router with proxy ARP answers for every address.
func TestANeighbourThatAnswersForEveryAddressDoesNotKeepAHostWithoutOne(t *testing.T) {
	probePatiently(t)
	n := 0
	h, s, c := client(t, time.Hour, func(s *dhcpServer) {
		s.address = net.IPv4(10, 0, 0, 2)
		s.declined = func(*dhcpv4.DHCPv4) { n++ }
	})
	eventually(t, "an address", func() bool { return h.Status().Interfaces[0].Address == "10.0.0.2/24" })
	s.mu.Lock()
	defer s.mu.Unlock()
	if n != declinesMost {
		t.Errorf("%d addresses were declined: %q", n, s.seen)
	}
	_ = c
}

func TestAProbeClaimsNothing(t *testing.T) {
	probePatiently(t)
	c := newCable(t)
	n := host(t, Config{Interfaces: []InterfaceConfig{{Match: "net0", Address: netip.MustParsePrefix("10.0.0.1/24")}}}, c.end[0])
	other := host(t, static("net0", "10.0.0.2/24"), c.end[1])
	if got := n.ifaces[0].probe(timeout(t, time.Minute), netip.MustParseAddr("10.0.0.2")); got != c.end[1].mac.String() {
		t.Errorf("10.0.0.2 is had by %q", got)
	}
	if got := n.ifaces[0].probe(timeout(t, time.Minute), netip.MustParseAddr("10.0.0.3")); got != "" {
		t.Errorf("10.0.0.3 is had by %q", got)
	}
	if s := other.Status().Interfaces[0].Conflict; s != "" {
		t.Errorf("the other host was told: %q", s)
	}
}
