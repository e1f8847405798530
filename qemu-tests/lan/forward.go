package lan

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"
)

// Forward makes a machine's TCP port reachable for other processes of this computer, at the address it returns.
func (l *LAN) Forward(to netip.AddrPort) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(l.ctx, func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the network has ended
			}
			go l.carry(conn, to)
		}
	}()
	return listener.Addr().String(), nil
}

// carry joins a connection to one of the station's, until both directions have ended or the network has.
func (l *LAN) carry(conn net.Conn, to netip.AddrPort) {
	const patience = 30 * time.Second
	defer conn.Close()
	dialing, cancel := context.WithTimeout(l.ctx, patience)
	far, err := l.Dial(dialing, to)
	cancel()
	if err != nil {
		return // the caller sees its connection end
	}
	defer far.Close()
	defer context.AfterFunc(l.ctx, func() { conn.Close(); far.Close() })()
	one := make(chan struct{}, 2)
	half := func(dst, src net.Conn) {
		io.Copy(dst, src) // a broken connection is an ended one
		if w, ok := dst.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
		one <- struct{}{}
	}
	go half(conn, far)
	go half(far, conn)
	<-one
	<-one
}
