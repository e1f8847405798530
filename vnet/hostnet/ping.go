package hostnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping sends one echo request and returns how long the answer took. ctx bounds
// the wait.
func (n *Net) Ping(ctx context.Context, host string) (time.Duration, error) {
	fail := func(err error) (time.Duration, error) { return 0, fmt.Errorf("ping %s: %w", host, err) }
	if err := n.Up(ctx); err != nil {
		return fail(err)
	}
	to, err := n.Resolve(ctx, host)
	if err != nil {
		return fail(err)
	}
	took, err := n.ping(ctx, to)
	if err != nil {
		return fail(err)
	}
	return took, nil
}

func (n *Net) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	wq := new(waiter.Queue)
	ep, terr := n.stack.NewEndpoint(icmp.ProtocolNumber4, ipv4.ProtocolNumber, wq)
	if terr != nil {
		return 0, fmt.Errorf("open a socket: %v", terr)
	}
	defer ep.Close()
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr := ep.Connect(full(netip.AddrPortFrom(to, 0))); terr != nil {
		return 0, fmt.Errorf("%v", terr)
	}
	// The stack puts the socket's own identifier in. RFC 792.
	request := make([]byte, header.ICMPv4MinimumSize+56)
	request[0] = byte(header.ICMPv4Echo)
	sequence := uint16(rand.Uint32())
	binary.BigEndian.PutUint16(request[6:], sequence)
	begin := time.Now()
	if _, terr := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); terr != nil {
		return 0, fmt.Errorf("%v", terr)
	}
	for {
		var answer bytes.Buffer
		_, terr := ep.Read(&answer, tcpip.ReadOptions{})
		if terr == nil {
			b := answer.Bytes()
			if len(b) >= header.ICMPv4MinimumSize && header.ICMPv4(b).Type() == header.ICMPv4EchoReply &&
				binary.BigEndian.Uint16(b[6:]) == sequence {
				return time.Since(begin), nil
			}
			continue
		}
		if _, again := terr.(*tcpip.ErrWouldBlock); !again {
			return 0, fmt.Errorf("%v", terr)
		}
		select {
		case <-readable:
		case <-ctx.Done():
			return 0, fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
}
