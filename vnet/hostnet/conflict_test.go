package hostnet

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// claim is an ARP request of somebody who says that he has an address.
func claim(mac string, address netip.Addr) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(mac), DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
	a := header.ARP(b[header.EthernetMinimumSize:])
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), mac)
	copy(a.ProtocolAddressSender(), address.AsSlice())
	copy(a.ProtocolAddressTarget(), address.AsSlice())
	return b
}

func TestAnAddressThatAnotherHasTooIsTold(t *testing.T) {
	const thief = "\x02\x00\x00\x00\x00\x99"
	c := newCable(t)
	n := host(t, static("net0", "10.0.0.2/24"), c.end[1])
	ours := netip.MustParseAddr("10.0.0.2")
	conflict := func() string { return n.Status().Interfaces[0].Conflict }
	taken := func(frames ...[]byte) { // and all before them
		before := n.stack.Stats().ARP.PacketsReceived.Value()
		for _, f := range frames {
			c.end[1].in <- f
		}
		for n.stack.Stats().ARP.PacketsReceived.Value() < before+uint64(len(frames)) {
			time.Sleep(time.Millisecond)
		}
	}
	taken(claim(thief, netip.MustParseAddr("10.0.0.3")), claim(string(c.end[1].mac), ours), claim(thief, netip.IPv4Unspecified()))
	if s := conflict(); s != "" {
		t.Fatalf("there is none: %s", s)
	}
	taken(claim(thief, ours), claim(thief, ours))
	if s := conflict(); !strings.Contains(s, "10.0.0.2 is also used by 02:00:00:00:00:99") {
		t.Errorf("%q", s)
	}
	if a := n.Status().Interfaces[0].Address; a != "10.0.0.2/24" {
		t.Errorf("the address was given up: %q", a)
	}
}

func TestAConflictIsNotToldMoreOftenThanOnceAMinute(t *testing.T) {
	told := 0
	c := conflicts{told: func(conflict) { told++ }}
	c.hold(netip.MustParseAddr("10.0.0.2"))
	p := header.ARP(claim("\x02\x00\x00\x00\x00\x99", netip.MustParseAddr("10.0.0.2"))[header.EthernetMinimumSize:])
	for range 1000 {
		c.look(p, "\x02\x00\x00\x00\x00\x01")
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	c.look(p[:10], "") // half a packet
	c.hold(netip.Addr{})
	c.look(p, "\x02\x00\x00\x00\x00\x01")
	if told != 1 || c.now() != "" {
		t.Errorf("without an address: told %d times, %q", told, c.now())
	}
}
