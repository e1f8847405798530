package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const tftpPort = 69 // RFC 1350 4

// wantedTerms: a block fills an Ethernet frame (1500 less 20 of IP, 8 of UDP and
// 4 of TFTP), and a window is a burst that small receive rings hold.
var wantedTerms = tftpTerms{block: 1468, window: 16, size: -1}

const (
	// tftpFirstWait is how long to wait for a packet before asking again; each
	// time it doubles up to the last.
	tftpFirstWait = 500 * time.Millisecond
	tftpLastWait  = 4 * time.Second
)

// tftpReader is a transfer: the client of RFC 1350 with options. Read does the
// protocol's work; there is no goroutine.
type tftpReader struct {
	ctx    context.Context
	conn   net.PacketConn
	stop   func() bool // of ctx's watch over conn
	host   netip.Addr
	server *net.UDPAddr // with the server's port, once it has answered
	idle   time.Duration
	terms  tftpTerms

	last   []byte // what to send again when nothing comes
	block  uint16 // the last block received in order; wraps
	unackd int    // blocks received since the last acknowledgement
	gap    bool   // a gap was reported, and nothing in order came since
	rest   []byte // received, not read yet
	err    error  // how the transfer ended
	buf    []byte
}

func openTFTP(ctx context.Context, network Network, u *url.URL, idle time.Duration) (io.ReadCloser, int64, error) {
	file := strings.TrimPrefix(u.Path, "/")
	// RFC 3617 3: a mode may be given, of which only octet is of use.
	file = strings.TrimSuffix(file, ";mode=octet")
	if file == "" || strings.ContainsRune(file, 0) || len(file) > 400 {
		return nil, 0, errors.New("the address names no file")
	}
	port := tftpPort
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, 0, fmt.Errorf("%q is not a port number", p)
		}
		port = int(n)
	}
	open, done := context.WithTimeout(ctx, idle)
	defer done()
	host, err := network.Resolve(open, u.Hostname())
	if err != nil {
		return nil, 0, err
	}
	conn, err := network.ListenPacket(open, "udp4", ":0")
	if err != nil {
		return nil, 0, err
	}
	r := &tftpReader{ctx: ctx, conn: conn, host: host, idle: idle, terms: defaultTerms, buf: make([]byte, 2048)}
	// A context that ends wakes the read.
	r.stop = context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	if err := r.begin(file, &net.UDPAddr{IP: host.AsSlice(), Port: port}); err != nil {
		r.Close()
		return nil, 0, err
	}
	return r, r.terms.size, nil
}

// begin sends the request and takes the first answer: the acknowledgement of
// options, or from a server that knows none the first block.
func (r *tftpReader) begin(file string, to *net.UDPAddr) error {
	r.last = readRequest(file, wantedTerms)
	p, err := r.receive(to, time.Now().Add(r.idle))
	if err != nil {
		return err
	}
	switch p.op {
	case opOACK:
		terms, err := accept(p.options, wantedTerms)
		if err != nil {
			r.refuse(tftpOptions, err)
			return err
		}
		r.terms = terms
		r.last = ackPacket(0)
		return r.send(r.last)
	case opData:
		return r.take(&p)
	}
	return r.refuse(tftpUndefined, fmt.Errorf("operation %d in answer to the request", p.op))
}

func (r *tftpReader) Read(b []byte) (int, error) {
	// Only a block in order counts as an answer: a server that repeats itself, or a
	// stranger in its name, does not hold the transfer up for ever.
	end := time.Now().Add(r.idle)
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		p, err := r.receive(r.server, end)
		if err != nil {
			r.err = err
			continue
		}
		if p.op != opData {
			continue // the options' acknowledgement once more: ours was lost
		}
		if err := r.take(&p); err != nil {
			r.err = err
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// take accepts a block if it is the next one.
func (r *tftpReader) take(p *tftpPacket) error {
	if len(p.data) > r.terms.block {
		return r.refuse(tftpUndefined, fmt.Errorf("block of %d bytes, at most %d agreed", len(p.data), r.terms.block))
	}
	if p.block != r.block+1 {
		// RFC 7440 4: what comes after a gap is thrown away, and the last block
		// in order acknowledged, so that the server goes back; once, or every
		// packet of a window would have it go back again.
		// A block seen before means that an acknowledgement was lost: the same.
		if !r.gap {
			r.gap = true
			return r.ack()
		}
		return nil
	}
	r.gap = false
	r.block++
	r.unackd++
	r.rest = p.data
	if len(p.data) < r.terms.block {
		r.err = io.EOF
		return r.ack()
	}
	if r.unackd >= r.terms.window {
		return r.ack()
	}
	r.last = ackPacket(r.block) // if the rest of the window does not come
	return nil
}

func (r *tftpReader) ack() error {
	r.unackd = 0
	r.last = ackPacket(r.block)
	return r.send(r.last)
}

func (r *tftpReader) send(b []byte) error {
	if _, err := r.conn.WriteTo(b, r.server); err != nil {
		return fmt.Errorf("send to %v: %w", r.server, err)
	}
	return nil
}

// refuse tells the server that the transfer is over.
func (r *tftpReader) refuse(code uint16, err error) error {
	r.send(errorPacket(code, "refused")) // it may be lost; the transfer is over anyway
	return err
}

// receive returns the server's next packet, if one comes before end. While none comes
// it sends r.last again, to the address given.
func (r *tftpReader) receive(to *net.UDPAddr, end time.Time) (tftpPacket, error) {
	wait := tftpFirstWait
	if r.server == nil {
		if _, err := r.conn.WriteTo(r.last, to); err != nil {
			return tftpPacket{}, fmt.Errorf("send to %v: %w", to, err)
		}
	}
	again := time.Now().Add(wait)
	for {
		until := again
		if end.Before(until) {
			until = end
		}
		r.conn.SetReadDeadline(until)
		if err := r.ctx.Err(); err != nil {
			return tftpPacket{}, err
		}
		n, from, err := r.conn.ReadFrom(r.buf)
		if err == nil && time.Now().Before(end) {
			if p, ok, err := r.sift(r.buf[:n], from); ok || err != nil {
				return p, err
			}
			continue
		}
		if err := r.ctx.Err(); err != nil {
			return tftpPacket{}, err
		}
		var timeout net.Error
		if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
			return tftpPacket{}, fmt.Errorf("receive from %v: %w", to, err)
		}
		if now := time.Now(); !now.Before(end) {
			return tftpPacket{}, fmt.Errorf("%v sent nothing new for %v", to, r.idle)
		} else if !now.Before(again) {
			if _, err := r.conn.WriteTo(r.last, to); err != nil {
				return tftpPacket{}, fmt.Errorf("send to %v: %w", to, err)
			}
			r.unackd, r.gap = 0, false
			wait = min(2*wait, tftpLastWait)
			again = now.Add(wait)
		}
	}
}

// sift tells the server's packets from strangers' and from damaged ones. The
// server's first answer sets its port, RFC 1350 4.
func (r *tftpReader) sift(b []byte, from net.Addr) (p tftpPacket, ok bool, err error) {
	a, isUDP := from.(*net.UDPAddr)
	if !isUDP {
		return p, false, nil
	}
	ip, _ := netip.AddrFromSlice(a.IP)
	if ip.Unmap() != r.host {
		return p, false, nil
	}
	if r.server != nil && a.Port != r.server.Port {
		// RFC 1350 4: tell it, without disturbing the transfer.
		r.conn.WriteTo(errorPacket(tftpUnknownTID, "unknown transfer ID"), from)
		return p, false, nil
	}
	p, err = parseTFTP(b)
	if err != nil {
		return p, false, nil
	}
	r.server = a
	if p.op == opError {
		return p, false, p.failure()
	}
	return p, true, nil
}

// Close ends the transfer, and tells the server if it was under way.
func (r *tftpReader) Close() error {
	r.stop()
	if r.err == nil && r.server != nil {
		r.err = net.ErrClosed
		r.send(errorPacket(tftpUndefined, "not wanted any more"))
	}
	return r.conn.Close()
}
