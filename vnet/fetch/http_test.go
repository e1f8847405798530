package fetch

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// answer reads a whole answer from text.
func answer(text string) (*httpAnswer, string, error) {
	a := &httpAnswer{}
	if err := a.readHead(bufio.NewReaderSize(strings.NewReader(text), 64<<10)); err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(a.body)
	return a, string(b), err
}

func TestHTTPAnswers(t *testing.T) {
	for text, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, more":                                                       "hello",
		"HTTP/1.0 200 OK\n\nto the end":                                                                                 "to the end",
		"HTTP/1.1 200\r\nCONTENT-LENGTH:\t0 \r\n\r\n":                                                                   "",
		"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":                           "ok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\nrest": "abc0123456789",
		"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n":                "a",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok":                                           "ok",
	} {
		a, got, err := answer(text)
		if err != nil || a.status != 200 || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                                    "EOF",
		"HTTP/1.1 200 OK\r\n":                 "EOF",
		"SSH-2.0-OpenSSH\r\n":                 "not how an HTTP server",
		"HTTP/2 200 OK\r\n\r\n":               "not how an HTTP server",
		"HTTP/1.1 20 OK\r\n\r\n":              "not how an HTTP server",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n": "not a header field",
		"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx":                             "not a header field",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n":                              "Content-Length",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab":        "Content-Length",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                "Transfer-Encoding",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n":                          "Content-Encoding",
		"HTTP/1.1 200 " + strings.Repeat("x", 70_000):                                "too long",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20_000):                   "too long",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n":               "size of a chunk",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n":                "size of a chunk",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n":  "size of a chunk",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n": "longer than it says",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc":              "EOF",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n":     "EOF",
	} {
		if _, got, err := answer(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %q, error %v, want one with %q", text, got, err, want)
		}
	}
}

func FuzzHTTPAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, got, err := answer(text)
		if len(got) > len(text) {
			t.Errorf("%d bytes out of %d", len(got), len(text))
		}
		if err == nil && a.size >= 0 && int64(len(got)) > a.size {
			t.Errorf("%d bytes of %d", len(got), a.size)
		}
		if a != nil && (a.status < 200 || a.status > 999) {
			t.Errorf("status %d", a.status)
		}
	})
}

// quietNetwork is a network whose closed connections end with io.EOF, as the host's stack does it.
type quietNetwork struct{ loopback }

type quietConn struct{ net.Conn }

func (n quietNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := n.loopback.DialContext(ctx, network, address)
	return quietConn{c}, err
}

func (c quietConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

func TestACancelledTransferIsNoWholeFile(t *testing.T) {
	for _, length := range []string{"", "Content-Length: 100\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.Read(make([]byte, 4096))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+length+"\r\nhalf")
			c.Read(make([]byte, 1)) // until the client goes
		}()
		began := func(done, _ int64) {
			if done > 0 {
				cancel()
			}
		}
		b, err := (&Client{Net: quietNetwork{}, Progress: began}).Get(ctx, "http://"+l.Addr().String()+"/x")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %q, %v", length, b, err)
		}
		cancel()
		l.Close()
	}
}
