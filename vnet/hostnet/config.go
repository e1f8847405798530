package hostnet

import (
	"fmt"
	"net/netip"
	"strings"
)

// Config is what the host's network shall be.
type Config struct {
	// Interfaces are taken by name; those not named ask DHCP.
	Interfaces []InterfaceConfig
	// Hostname is told to DHCP servers, if not empty.
	Hostname string
	// Log takes the network's events, a line each.
	Log func(line string)
}

// InterfaceConfig is what one interface shall be.
type InterfaceConfig struct {
	// Match is the interface's name (net0), its MAC address or its PCI address.
	Match string
	// Off leaves the interface alone.
	Off bool
	// Address is the static address with its network's size; without one DHCP is
	// asked.
	Address netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
}

// ParseInterface reads the form of the command line and the config file:
//
//	net0,dhcp
//	net0,off
//	net1,10.0.0.1/24[,gw=10.0.0.254][,dns=10.0.0.53[+10.0.0.54]]
func ParseInterface(s string) (InterfaceConfig, error) {
	var c InterfaceConfig
	fields := strings.Split(s, ",")
	c.Match = fields[0]
	if c.Match == "" || strings.Contains(c.Match, "=") {
		return c, fmt.Errorf("network interface %q: begin with its name, as in net0,dhcp", s)
	}
	bad := func(what, why string) (InterfaceConfig, error) {
		return InterfaceConfig{}, fmt.Errorf("network interface %q: %q %s", s, what, why)
	}
	how := false
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "dhcp", "off":
			if how {
				return bad(f, "contradicts what comes before it")
			}
			how, c.Off = true, key == "off"
		case "gw":
			a, err := netip.ParseAddr(value)
			if err != nil || !a.Is4() {
				return bad(f, "is not gw=IPv4-ADDRESS")
			}
			c.Gateway = a
		case "dns":
			for _, d := range strings.Split(value, "+") {
				a, err := netip.ParseAddr(d)
				if err != nil || !a.Is4() {
					return bad(f, "is not dns=IPv4-ADDRESS[+IPv4-ADDRESS...]")
				}
				c.DNS = append(c.DNS, a)
			}
		default:
			p, err := netip.ParsePrefix(f)
			if err != nil {
				return bad(f, "is neither dhcp, off, gw=, dns= nor an address with its network's size, like 10.0.0.1/24")
			}
			if how {
				return bad(f, "contradicts what comes before it")
			}
			how, c.Address = true, p
		}
	}
	if err := c.check(); err != nil {
		return InterfaceConfig{}, fmt.Errorf("network interface %q: %w", s, err)
	}
	return c, nil
}

func (c *InterfaceConfig) check() error {
	if !c.Address.IsValid() {
		if c.Gateway.IsValid() {
			return fmt.Errorf("a gateway needs a static address")
		}
		return nil
	}
	a := c.Address.Addr()
	if !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%v cannot be a host's address", a)
	}
	if c.Gateway.IsValid() && !c.Address.Contains(c.Gateway) {
		return fmt.Errorf("gateway %v is not in %v", c.Gateway, c.Address.Masked())
	}
	if c.Gateway == a {
		return fmt.Errorf("gateway %v is the host itself", c.Gateway)
	}
	return nil
}
