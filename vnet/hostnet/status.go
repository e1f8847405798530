package hostnet

import (
	"net/netip"
	"time"
)

// Status is the host's network as the console shows it.
type Status struct {
	Interfaces []InterfaceStatus `json:"interfaces"`
	// Problem says why there is no network at all.
	Problem string     `json:"problem,omitempty"`
	Stack   StackStats `json:"stack"`
}

// InterfaceStatus is one interface.
type InterfaceStatus struct {
	Name    string       `json:"name"`
	Device  string       `json:"device"`
	MAC     string       `json:"mac,omitempty"`
	MTU     int          `json:"mtu,omitempty"`
	Link    string       `json:"link"`
	Address string       `json:"address,omitempty"` // with the network's size
	Gateway string       `json:"gateway,omitempty"`
	DNS     []netip.Addr `json:"dns"`
	// Method is static, dhcp or off.
	Method string `json:"method"`
	// Server and LeaseEnds are of the DHCP lease.
	Server    string     `json:"server,omitempty"`
	LeaseEnds *time.Time `json:"lease_ends,omitempty"`
	// Conflict says who else uses the address.
	Conflict string `json:"conflict,omitempty"`
	// Problem says why there is no address.
	Problem  string            `json:"problem,omitempty"`
	Counters map[string]uint64 `json:"counters"`
}

// StackStats counts for all interfaces together.
type StackStats struct {
	PacketsReceived    uint64 `json:"packets_received"`
	PacketsSent        uint64 `json:"packets_sent"`
	PacketsDropped     uint64 `json:"packets_dropped"`
	TCPConnections     uint64 `json:"tcp_connections"`
	TCPRetransmissions uint64 `json:"tcp_retransmissions"`
	TCPChecksumErrors  uint64 `json:"tcp_checksum_errors"`
	IPMalformed        uint64 `json:"ip_malformed"`
}

// counting is an interface with counters to show.
type counting interface{ Counters() map[string]uint64 }

// Status tells the state of the network now.
func (n *Net) Status() Status {
	var s Status
	select {
	case <-n.searched:
	default:
		s.Problem = "still looking for network interfaces"
		return s
	}
	st := n.stack.Stats()
	s.Stack = StackStats{
		PacketsReceived:    st.IP.PacketsReceived.Value(),
		PacketsSent:        st.IP.PacketsSent.Value(),
		TCPConnections:     st.TCP.CurrentConnected.Value(),
		TCPRetransmissions: st.TCP.Retransmits.Value(),
		TCPChecksumErrors:  st.TCP.ChecksumErrors.Value(),
		IPMalformed:        st.IP.MalformedPacketsReceived.Value(),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range n.ifaces {
		is := i.status()
		s.Interfaces = append(s.Interfaces, is)
		s.Stack.PacketsDropped += is.Counters["tx_queue_dropped"]
	}
	if len(n.ifaces) == 0 {
		s.Problem = ErrNoInterface.Error()
		if n.problem != "" {
			s.Problem = n.problem
		}
	}
	return s
}

// status is the interface's. net.mu is held.
func (i *iface) status() InterfaceStatus {
	s := InterfaceStatus{Name: i.name, Device: i.device, Link: i.link.String(), DNS: i.dns, Method: "dhcp", Problem: i.problem}
	switch {
	case i.cfg.Off:
		s.Method = "off"
	case i.cfg.Address.IsValid():
		s.Method = "static"
	}
	if i.nic == nil {
		return s
	}
	if !i.address.IsValid() {
		s.Problem = i.state()
	}
	s.MAC, s.MTU = i.nic.MAC().String(), i.nic.MTU()
	if i.address.IsValid() {
		s.Address, s.Conflict = i.address.String(), i.ep.conflicts.now()
	}
	if i.gateway.IsValid() {
		s.Gateway = i.gateway.String()
	}
	if i.lease != nil {
		s.Server = i.lease.server.String()
		ends := i.lease.expires
		s.LeaseEnds = &ends
	}
	if c, ok := i.nic.(counting); ok {
		s.Counters = c.Counters()
	} else {
		s.Counters = map[string]uint64{}
	}
	i.ep.txMu.Lock()
	s.Counters["tx_queue_dropped"] = i.ep.dropped
	i.ep.txMu.Unlock()
	return s
}

// Addresses lists the host's addresses.
func (n *Net) Addresses() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []netip.Addr
	for _, i := range n.ifaces {
		if i.address.IsValid() {
			all = append(all, i.address.Addr())
		}
	}
	return all
}
