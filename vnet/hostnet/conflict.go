package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Whoever sends ARP with our address as its own has it, too, and each of us gets a part of what is meant for the other
// (RFC 5227 2.4). The address is kept (2.4 (c)): without it the host could not be reached at all. The operator is told,
// at most once in conflictAgain, since a hostile neighbour can claim anything as often as it likes.
const (
	conflictAgain = time.Minute
	conflictShown = 10 * time.Minute // after that much silence it is taken to be over
)

// conflicts is what an endpoint knows of that.
type conflicts struct {
	own  atomic.Uint32 // the interface's address; 0: none
	last atomic.Pointer[conflict]
	told func(conflict) // called by the interface's goroutine
}

type conflict struct {
	address netip.Addr
	by      string // its Ethernet address
	at      time.Time
}

func (c conflict) String() string {
	return fmt.Sprintf("%v is also used by %s: give one of the two another address", c.address, c.by)
}

// hold sets the address that others shall not have. The zero Addr is none.
func (c *conflicts) hold(a netip.Addr) {
	c.last.Store(nil)
	own := uint32(0)
	if a.Is4() {
		own = addressWord(a.AsSlice())
	}
	c.own.Store(own)
}

// look looks at a received ARP packet.
func (c *conflicts) look(p header.ARP, mac string) {
	own := c.own.Load()
	if own == 0 || !p.IsValid() || addressWord(p.ProtocolAddressSender()) != own || string(p.HardwareAddressSender()) == mac {
		return
	}
	if l := c.last.Load(); l != nil && time.Since(l.at) < conflictAgain {
		return
	}
	a, _ := netip.AddrFromSlice(p.ProtocolAddressSender())
	n := &conflict{a, net.HardwareAddr(p.HardwareAddressSender()).String(), time.Now()}
	c.last.Store(n)
	c.told(*n)
}

// now is the conflict there is, or "".
func (c *conflicts) now() string {
	if l := c.last.Load(); l != nil && time.Since(l.at) < conflictShown {
		return l.String()
	}
	return ""
}

func addressWord(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
