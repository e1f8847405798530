package lan

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// datagramPort is a switch port for Bochs's "ethmod=socket". Bochs takes one datagram a millisecond of its own time, and
// the kernel keeps but some ninety full frames for it: a burst of TCP would lose its end, which only a time-out of the
// sender's finds out. So frames wait here, as in a switch with memory, until Bochs has room.
type datagramPort struct {
	ctx   context.Context
	conn  *net.UDPConn
	peer  int // Bochs's port
	queue chan []byte
}

const (
	// roomInSocket is how much may lie in Bochs's socket. The kernel counts a full frame as 2304 bytes and allows
	// 212992 (net.core.rmem_default).
	roomInSocket = 64 << 10
	// unlooked is how many frames are sent before the socket is looked at again.
	unlooked = 16
)

func newDatagramPort(ctx context.Context, conn *net.UDPConn, peer int) *datagramPort {
	p := &datagramPort{ctx: ctx, conn: conn, peer: peer, queue: make(chan []byte, queueFrames)}
	go p.write()
	return p
}

// send takes a copy of frame; one that finds the queue full is lost.
func (p *datagramPort) send(frame []byte) {
	select {
	case p.queue <- append([]byte(nil), frame...):
	default:
	}
}

func (p *datagramPort) write() {
	sent := 0
	for {
		select {
		case frame := <-p.queue:
			if sent++; sent >= unlooked {
				sent = 0
				p.awaitRoom()
			}
			p.conn.Write(frame) // a machine that is down refuses: frames are lost, as on a wire
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *datagramPort) awaitRoom() {
	for {
		text, err := os.ReadFile("/proc/net/udp")
		if err != nil || waiting(string(text), p.peer) < roomInSocket {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-p.ctx.Done():
			return
		}
	}
}

// waiting finds how many bytes lie unread in the socket of a local port, given the kernel's table of UDP sockets
// (proc_net_udp(5): the second field is address:port, the fifth tx_queue:rx_queue, all hexadecimal). No socket holds 0.
func waiting(table string, port int) int {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		_, local, _ := strings.Cut(f[1], ":")
		_, queue, _ := strings.Cut(f[4], ":")
		if n, err := strconv.ParseUint(local, 16, 16); err != nil || int(n) != port {
			continue
		}
		if n, err := strconv.ParseUint(queue, 16, 31); err == nil {
			return int(n)
		}
	}
	return 0
}
