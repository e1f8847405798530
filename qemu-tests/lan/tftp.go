package lan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// TFTP (RFC 1350) with the block size and transfer size options (RFC 2347, 2348, 2349). Reading only.
const (
	tftpPort = 69

	opRead, opData, opAck, opError, opOptionAck = 1, 3, 4, 5, 6

	errorNotFound, errorIllegal = 1, 4

	defaultBlock = 512
	maxBlock     = mtu - 20 - 8 - 4 // what fits in a frame

	tftpRetry    = 500 * time.Millisecond
	tftpAttempts = 120 // a slow emulator may not look for a minute
)

// readRequest is a parsed RRQ.
type readRequest struct {
	file  string
	block int  // the client's block size, 0 if it named none
	size  bool // the client asks for the file's size
}

func parseReadRequest(b []byte) (r readRequest, err error) {
	if len(b) < 4 || binary.BigEndian.Uint16(b) != opRead || b[len(b)-1] != 0 {
		return r, errors.New("not a read request")
	}
	words := strings.Split(string(b[2:len(b)-1]), "\x00")
	if len(words) < 2 || len(words)%2 != 0 || !strings.EqualFold(words[1], "octet") {
		return r, errors.New("want a file name, mode octet, and pairs of options")
	}
	r.file = words[0]
	for o := words[2:]; len(o) != 0; o = o[2:] {
		switch strings.ToLower(o[0]) {
		case "blksize":
			n, err := strconv.Atoi(o[1])
			if err != nil || n < 8 {
				return r, fmt.Errorf("block size %q", o[1])
			}
			r.block = min(n, maxBlock)
		case "tsize":
			r.size = true
		}
	}
	return r, nil
}

// optionAck lists the options we took, or is nil if there were none.
func (r readRequest) optionAck(size int) []byte {
	b := []byte{0, opOptionAck}
	if r.block != 0 {
		b = fmt.Appendf(b, "blksize\x00%d\x00", r.block)
	}
	if r.size {
		b = fmt.Appendf(b, "tsize\x00%d\x00", size)
	}
	if len(b) == 2 {
		return nil
	}
	return b
}

func (s *station) serveTFTP(ctx context.Context, dir string) error {
	conn, err := gonet.DialUDP(s.ip, &tcpip.FullAddress{Port: tftpPort}, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("lan: TFTP: %w", err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		buf := make([]byte, mtu)
		for {
			n, client, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			go s.tftpSend(ctx, dir, bytes.Clone(buf[:n]), client.(*net.UDPAddr))
		}
	}()
	return nil
}

// tftpSend sends one file from a port of its own.
func (s *station) tftpSend(ctx context.Context, dir string, request []byte, client *net.UDPAddr) {
	to := tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4Slice(client.IP.To4()), Port: uint16(client.Port)}
	conn, err := gonet.DialUDP(s.ip, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r, err := parseReadRequest(request)
	if err != nil {
		conn.Write(tftpError(errorIllegal, err))
		return
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		conn.Write(tftpError(errorNotFound, err))
		return
	}
	defer root.Close()
	data, err := root.ReadFile(filepath.Clean(strings.TrimLeft(r.file, "/")))
	if err != nil {
		conn.Write(tftpError(errorNotFound, err))
		return
	}
	if ack := r.optionAck(len(data)); ack != nil && !exchange(conn, ack, 0) {
		return
	}
	block := r.block
	if block == 0 {
		block = defaultBlock
	}
	for n := uint16(1); ; n++ {
		part := data[:min(len(data), block)]
		data = data[len(part):]
		packet := binary.BigEndian.AppendUint16([]byte{0, opData}, n)
		if !exchange(conn, append(packet, part...), n) || len(part) < block {
			return
		}
	}
}

// exchange sends a packet until block n is acknowledged.
func exchange(conn net.Conn, packet []byte, n uint16) bool {
	buf := make([]byte, mtu)
	for range tftpAttempts {
		if _, err := conn.Write(packet); err != nil {
			return false
		}
		conn.SetReadDeadline(time.Now().Add(tftpRetry))
		for {
			size, err := conn.Read(buf)
			if err != nil {
				break // nothing came in time, or the connection is closed and the next write fails
			}
			if size >= 4 && binary.BigEndian.Uint16(buf) == opError {
				return false
			}
			if size >= 4 && binary.BigEndian.Uint16(buf) == opAck && binary.BigEndian.Uint16(buf[2:]) == n {
				return true
			}
		}
	}
	return false
}

func tftpError(code byte, err error) []byte {
	return append([]byte{0, opError, 0, code}, err.Error()+"\x00"...)
}
