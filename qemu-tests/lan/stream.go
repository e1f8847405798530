package lan

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
)

// streamPort is a switch port for QEMU's "-netdev socket,connect=": a TCP connection with a 32-bit big-endian length
// before each frame (QEMU, net/socket.c). Unlike datagrams it loses nothing while the machine is slow to take frames;
// only the switch's own queue can overflow, as in a switch of metal.
type streamPort struct {
	lan  *LAN
	port *port
	now  atomic.Pointer[stream] // the machine's connection; nil while there is none
}

// stream is one connection and what waits to be written to it.
type stream struct {
	queue chan []byte
}

const queueFrames = 2048

// send tells whether there is a machine at the other end. A frame that finds the queue full is lost.
func (p *streamPort) send(frame []byte) bool {
	s := p.now.Load()
	if s == nil {
		return false
	}
	packet := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
	select {
	case s.queue <- append(packet, frame...):
	default:
	}
	return true
}

// accept serves one connection after the other, until the listener is closed: a machine may be started again.
func (p *streamPort) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s := &stream{queue: make(chan []byte, queueFrames)}
		done := make(chan struct{})
		go s.write(conn, done)
		p.now.Store(s)
		p.read(conn)
		p.now.Store(nil)
		conn.Close()
		close(done)
	}
}

func (s *stream) write(conn net.Conn, done <-chan struct{}) {
	w := bufio.NewWriterSize(conn, 64<<10)
	for {
		select {
		case packet := <-s.queue:
			if _, err := w.Write(packet); err != nil {
				return
			}
			if len(s.queue) == 0 && w.Flush() != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// read forwards frames until the connection ends or makes no sense.
func (p *streamPort) read(conn net.Conn) {
	r := bufio.NewReaderSize(conn, 64<<10)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.lan.ctx.Done():
			conn.Close()
		case <-stop:
		}
	}()
	frame := make([]byte, maxFrame)
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > maxFrame {
			return
		}
		if _, err := io.ReadFull(r, frame[:n]); err != nil {
			return
		}
		p.lan.forward(p.port, frame[:n])
	}
}
