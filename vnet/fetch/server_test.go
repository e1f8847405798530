package fetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"
)

// loopback is Linux's own network.
type loopback struct{}

func (loopback) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (loopback) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, "127.0.0.1"+address)
}

func (loopback) Resolve(ctx context.Context, host string) (netip.Addr, error) {
	if host == "server" {
		host = "127.0.0.1"
	}
	return netip.ParseAddr(host)
}

// serverWait is after how long the server sends again what was not acknowledged.
const serverWait = 100 * time.Millisecond

// tftpServer is a server of RFC 1350 and its options.
type tftpServer struct {
	t     *testing.T
	conn  net.PacketConn
	files map[string][]byte

	// How it behaves.
	options   bool // knows options
	maxBlock  int
	maxWindow int
	loss      float64
	duplicate bool   // sends everything twice
	stall     int    // stops after that many blocks
	tsize     string // claims this size
	oack      []byte // answers this instead
	stranger  bool   // another port interferes

	start sync.Once
	mu    sync.Mutex
	rng   *rand.Rand
	ended string // what ended the last transfer
	sent  int    // data packets
	wg    sync.WaitGroup
}

func newTFTPServer(t *testing.T) *tftpServer {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &tftpServer{t: t, conn: conn, files: map[string][]byte{}, options: true, maxBlock: 65464, maxWindow: 64,
		rng: rand.New(rand.NewPCG(3, 4))}
	t.Cleanup(func() { conn.Close(); s.wg.Wait() })
	return s
}

// url is a file's address. The server starts with the first: files and behaviour
// are set before.
func (s *tftpServer) url(file string) string {
	s.start.Do(func() {
		s.wg.Add(1)
		go s.serve()
	})
	return fmt.Sprintf("tftp://server:%d/%s", s.conn.LocalAddr().(*net.UDPAddr).Port, file)
}

func (s *tftpServer) serve() {
	defer s.wg.Done()
	buf := make([]byte, 2048)
	seen := map[string]bool{} // clients, so that a request sent again is one
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if n < 4 || binary.BigEndian.Uint16(buf) != opRead || seen[from.String()] || s.lose() {
			continue
		}
		seen[from.String()] = true
		fields := bytes.Split(buf[2:n-1], []byte{0})
		request := make([]string, len(fields))
		for i := range fields {
			request[i] = string(fields[i])
		}
		s.wg.Add(1)
		go s.transfer(from, request)
	}
}

func (s *tftpServer) lose() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loss > 0 && s.rng.Float64() < s.loss
}

func (s *tftpServer) end(how string) {
	s.mu.Lock()
	s.ended = how
	s.mu.Unlock()
}

func (s *tftpServer) transfer(to net.Addr, request []string) {
	defer s.wg.Done()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		s.t.Error(err)
		return
	}
	defer conn.Close()
	send := func(b []byte) {
		for range map[bool]int{false: 1, true: 2}[s.duplicate] {
			if !s.lose() {
				conn.WriteTo(b, to)
			}
		}
	}
	data, ok := s.files[request[0]]
	if !ok {
		send(errorPacket(1, "no \x1b[31msuch file"))
		return
	}
	if s.oack != nil {
		send(s.oack)
		data = nil
	}
	block, window := 512, 1
	var oack []byte
	if s.options {
		oack = []byte{0, opOACK}
		put := func(k, v string) { oack = append(append(append(append(oack, k...), 0), v...), 0) }
		for i := 2; i+1 < len(request); i += 2 {
			v, _ := strconv.Atoi(request[i+1])
			switch request[i] {
			case "blksize":
				block = min(v, s.maxBlock)
				put("blkSize", strconv.Itoa(block)) // names have no case
			case "windowsize":
				if s.maxWindow > 0 {
					window = min(v, s.maxWindow)
					put("windowsize", strconv.Itoa(window))
				}
			case "tsize":
				size := strconv.Itoa(len(data))
				if s.tsize != "" {
					size = s.tsize
				}
				put("tsize", size)
			}
		}
	}
	blocks := len(data)/block + 1
	acked := -1 // options not acknowledged
	if oack == nil {
		acked = 0
	}
	buf := make([]byte, 100)
	for tries := 0; acked < blocks; {
		if acked < 0 {
			send(oack)
		} else {
			for b := acked + 1; b <= min(acked+window, blocks); b++ {
				if s.stall > 0 && b > s.stall {
					s.end("stalled")
					return
				}
				p := []byte{0, opData, byte(b >> 8), byte(b)}
				send(append(p, data[(b-1)*block:min(b*block, len(data))]...))
				s.mu.Lock()
				s.sent++
				s.mu.Unlock()
				if s.stranger && b == 2 && blocks > 2 {
					x, _ := net.ListenPacket("udp4", "127.0.0.1:0")
					x.WriteTo(append(p, "not the file"...), to)
					x.SetReadDeadline(time.Now().Add(time.Minute))
					n, _, err := x.ReadFrom(buf)
					if err != nil || n < 4 || buf[1] != opError || buf[3] != tftpUnknownTID {
						s.t.Errorf("the stranger was answered %x, %v", buf[:n], err)
					}
					x.Close()
				}
			}
		}
		conn.SetReadDeadline(time.Now().Add(serverWait))
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			if tries++; tries > 50 {
				s.end("timeout")
				return
			}
			continue
		}
		if n < 4 || s.lose() {
			continue
		}
		tries = 0
		if buf[1] == opError {
			s.end(fmt.Sprintf("error %d", buf[3]))
			return
		}
		if a := int(int16(binary.BigEndian.Uint16(buf[2:]) - uint16(max(acked, 0)))); a >= 0 {
			acked = max(acked, 0) + a
		}
	}
	s.end("complete")
}
