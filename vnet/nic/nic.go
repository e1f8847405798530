// Package nic says what a network interface and its user know of each other, so
// that neither drivers nor the stack and the switch above them name the other.
package nic

import (
	"fmt"
	"net"

	"godwit/vnet/frame"
)

// An Interface sends and receives Ethernet frames. Received ones go to the
// Handler it was opened with.
type Interface interface {
	MAC() net.HardwareAddr
	// MTU is the largest packet, without Ethernet's header.
	MTU() int
	Link() Link
	Features() Features
	// Buffer returns a frame to fill for Transmit, of one segment of at least
	// size bytes. When there is none it returns nil, and TransmitReady follows.
	Buffer(size int) *frame.Frame
	// Transmit takes over frames to send, in order, and reports how many it
	// took. If not all, TransmitReady follows when there is room again; the rest
	// is still the caller's. It does not wait. Frames the interface cannot send
	// are dropped and counted.
	Transmit([]*frame.Frame) int
	SetFilter(Filter)
}

// A Handler takes what an interface receives. It must not wait for the
// interface.
type Handler interface {
	// Receive takes over the frames, but not the slice.
	Receive(batch []*frame.Frame)
	// LinkChanged tells the link's state, first when the interface starts.
	LinkChanged(Link)
	// TransmitReady follows a Transmit or Buffer that had no room. It may also
	// come without one.
	TransmitReady()
}

// Features is the work on frames that an interface takes over.
type Features struct {
	// Checksum: it takes frames with NeedsChecksum.
	Checksum bool
	// Segment is the longest frame to be segmented that it takes, 0 for none.
	Segment uint32
}

// Filter says which frames are received beside those for the interface's own
// address and broadcasts.
type Filter struct {
	Multicast    []net.HardwareAddr
	AllMulticast bool
	Promiscuous  bool
}

// Link is the state of the cable.
type Link struct {
	Up         bool
	Mbps       int // 0: not known
	FullDuplex bool
}

func (l Link) String() string {
	duplex := "half"
	if l.FullDuplex {
		duplex = "full"
	}
	switch {
	case !l.Up:
		return "down"
	case l.Mbps == 0:
		return "up"
	}
	return fmt.Sprintf("%d Mb/s %s duplex", l.Mbps, duplex)
}
