package hostnet

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A probe asks the network who has an address, without claiming it (RFC 5227 1.1 and 2.1.1). The stack sends it and waits
// for an answer for probeWait: neighbours answer ARP within a millisecond. RFC 5227's one second for it, three times, would
// keep a host that boots without an address for 4 to 7 s. An answer that comes too late is a conflict: see conflict.go.
var probeWait = 100 * time.Millisecond

const (
	leaseProbes  = 2 // before an address from DHCP is used
	staticProbes = 3 // RFC 5227 1.1: PROBE_NUM
	staticGap    = 1 * time.Second

	// RFC 2131 3.1.5: a client that has declined an address waits so long.
	dhcpDeclineWait = 10 * time.Second
	// A neighbour that answers for every address, as a router with proxy ARP may, must not keep the host without one.
	declinesMost = 3
)

// probeOptions is the stack's part of it.
func probeOptions() arp.Options {
	return arp.Options{DADConfigs: stack.DADConfigurations{DupAddrDetectTransmits: 1, RetransmitTimer: probeWait}}
}

// probe sends one. It returns the Ethernet address of whoever has a, or "".
func (i *iface) probe(ctx context.Context, a netip.Addr) string {
	found := make(chan string, 1) // the stack calls with its lock held
	_, err := i.net.stack.CheckDuplicateAddress(i.id, ipv4.ProtocolNumber, tcpip.AddrFrom4(a.As4()), func(r stack.DADResult) {
		holder := ""
		if d, ok := r.(*stack.DADDupAddrDetected); ok && d.HolderLinkAddress != i.ep.mac {
			holder = net.HardwareAddr(d.HolderLinkAddress).String()
		}
		found <- holder
	})
	if err != nil {
		return ""
	}
	t := time.NewTimer(10 * probeWait) // a stack that is being closed does not call
	defer t.Stop()
	select {
	case holder := <-found:
		return holder
	case <-t.C:
	case <-ctx.Done():
	}
	return ""
}

// taken probes for an address that DHCP gave, before it is used.
func (i *iface) taken(ctx context.Context, a netip.Addr) (holder string) {
	for range leaseProbes {
		if holder = i.probe(ctx, a); holder != "" {
			break
		}
	}
	return holder
}

// watchStatic probes for a static address while it is used: nothing waits for that, and an address that another has, too,
// is kept all the same. It does so whenever the cable is plugged in, and as long as there is a conflict, so that `net` has
// it until it is over. What the probes find conflict.go sees.
func (i *iface) watchStatic(ctx context.Context) {
	for sent := 0; ctx.Err() == nil && i.waitLink(ctx); {
		i.probe(ctx, i.cfg.Address.Addr())
		sent++
		wait := staticGap
		switch {
		case sent < staticProbes:
		case i.ep.conflicts.now() != "":
			wait = conflictShown / 2
		default:
			wait = math.MaxInt64
		}
		if i.pause(ctx, wait) {
			sent = 0
		}
	}
}

// decline tells the DHCP server that the address it gave is another's (RFC 2131 3.1.5 and 4.4.1, table 5).
func (i *iface) decline(ctx context.Context, l *lease, holder string) error {
	x, err := i.openExchange(ctx)
	if err != nil {
		return err
	}
	defer x.close()
	m, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline),
		dhcpv4.WithHwAddr(i.nic.MAC()),
		dhcpv4.WithBroadcast(false),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.address.Addr().AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptMessage("it is used by "+holder)))
	if err != nil {
		return fmt.Errorf("make a DHCPDECLINE: %w", err)
	}
	if _, err := x.conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpServerPort}); err != nil {
		return fmt.Errorf("send a DHCPDECLINE: %w", err)
	}
	return nil
}
