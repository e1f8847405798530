package fetch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Opcodes, RFC 1350 5 and RFC 2347.
const (
	opRead  = 1
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// Error codes, RFC 1350 5 and RFC 2347.
const (
	tftpUndefined  = 0
	tftpUnknownTID = 5
	tftpOptions    = 8
)

var tftpErrors = [...]string{
	"error", "file not found", "access violation", "disk full", "illegal operation",
	"unknown transfer ID", "file exists", "no such user", "options refused",
}

// tftpPacket is what a server sends.
type tftpPacket struct {
	op      uint16
	block   uint16            // opData
	data    []byte            // opData
	code    uint16            // opError
	message string            // opError
	options map[string]string // opOACK; names in lower case
}

// parseTFTP reads a packet from a server. data points into b.
func parseTFTP(b []byte) (p tftpPacket, err error) {
	if len(b) < 4 {
		return p, fmt.Errorf("a packet of %d bytes", len(b))
	}
	p.op = binary.BigEndian.Uint16(b)
	switch p.op {
	case opData:
		p.block, p.data = binary.BigEndian.Uint16(b[2:]), b[4:]
	case opError:
		p.code = binary.BigEndian.Uint16(b[2:])
		text, _, _ := bytes.Cut(b[4:], []byte{0})
		p.message = printable(text)
	case opOACK:
		// RFC 2347: pairs of names and values, each ended by a zero byte.
		fields := strings.Split(string(b[2:]), "\x00")
		if fields[len(fields)-1] != "" || len(fields)%2 != 1 {
			return p, errors.New("an option acknowledgement that is not pairs of strings")
		}
		p.options = map[string]string{}
		for i := 0; i+1 < len(fields); i += 2 {
			name := strings.ToLower(fields[i])
			if _, twice := p.options[name]; twice {
				return p, fmt.Errorf("option %q twice", printable([]byte(name)))
			}
			p.options[name] = fields[i+1]
		}
	default:
		return p, fmt.Errorf("operation %d, which servers do not send", p.op)
	}
	return p, nil
}

// printable makes a server's text fit for a terminal.
func printable(b []byte) string {
	if len(b) > 200 {
		b = b[:200]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(b))
}

// failure is a server's error as an error.
func (p *tftpPacket) failure() error {
	kind := fmt.Sprintf("error %d", p.code)
	if int(p.code) < len(tftpErrors) {
		kind = tftpErrors[p.code]
	}
	if p.message == "" {
		return fmt.Errorf("the server answered: %s", kind)
	}
	return fmt.Errorf("the server answered: %s (%s)", kind, p.message)
}

// tftpTerms is what client and server agree on.
type tftpTerms struct {
	block  int   // bytes of data in a packet: RFC 2348
	window int   // packets to an acknowledgement: RFC 7440
	size   int64 // of the file, -1 if not told: RFC 2349
}

// defaultTerms are RFC 1350's, which a server that knows no options keeps.
var defaultTerms = tftpTerms{block: 512, window: 1, size: -1}

// accept reads what a server made of the options in wanted. A server may lower
// block and window, not raise them, and may leave options out.
func accept(options map[string]string, wanted tftpTerms) (tftpTerms, error) {
	t := defaultTerms
	for name, value := range options {
		v, err := strconv.ParseInt(value, 10, 64)
		switch name {
		case "blksize":
			if err != nil || v < 8 || v > int64(wanted.block) {
				return t, fmt.Errorf("the server answered with block size %q to %d", printable([]byte(value)), wanted.block)
			}
			t.block = int(v)
		case "windowsize":
			if err != nil || v < 1 || v > int64(wanted.window) {
				return t, fmt.Errorf("the server answered with window size %q to %d", printable([]byte(value)), wanted.window)
			}
			t.window = int(v)
		case "tsize":
			if err != nil || v < 0 {
				return t, fmt.Errorf("the server answered with file size %q", printable([]byte(value)))
			}
			t.size = v
		default:
			return t, fmt.Errorf("the server acknowledged option %q, which was not asked for", printable([]byte(name)))
		}
	}
	return t, nil
}

// readRequest asks for a file in octet mode with options.
func readRequest(file string, wanted tftpTerms) []byte {
	b := []byte{0, opRead}
	for _, s := range []string{file, "octet",
		"tsize", "0",
		"blksize", strconv.Itoa(wanted.block),
		"windowsize", strconv.Itoa(wanted.window)} {
		b = append(append(b, s...), 0)
	}
	return b
}

func ackPacket(block uint16) []byte { return []byte{0, opAck, byte(block >> 8), byte(block)} }

func errorPacket(code uint16, text string) []byte {
	b := []byte{0, opError, byte(code >> 8), byte(code)}
	return append(append(b, text...), 0)
}
