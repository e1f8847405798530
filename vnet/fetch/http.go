package fetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// This is the part of HTTP/1.1 (RFC 9110, RFC 9112) that fetching a file needs:
// one GET on a connection of its own. Package net/http would do, but brings
// HTTP/2, TLS, cookies and proxies with it: 3.7 MiB, a third of the host image.

const (
	// maxHeader bounds the status line and header fields together.
	maxHeader    = 64 << 10
	maxRedirects = 5
)

// openHTTP asks for a file. Redirections are followed, to other http addresses.
func openHTTP(ctx context.Context, network Network, u *url.URL, idle time.Duration) (io.ReadCloser, int64, error) {
	for range maxRedirects + 1 {
		a, err := get(ctx, network, u, idle)
		if err != nil {
			return nil, 0, err
		}
		if a.status == 200 {
			return a, a.size, nil
		}
		a.Close()
		switch a.status {
		case 301, 302, 303, 307, 308:
		default:
			return nil, 0, fmt.Errorf("the server answered %d %s", a.status, a.reason)
		}
		next, err := u.Parse(a.location)
		if err != nil || a.location == "" {
			return nil, 0, fmt.Errorf("the server redirects to %q, which is no address", printable([]byte(a.location)))
		}
		if next.Scheme != "http" || next.Host == "" {
			return nil, 0, fmt.Errorf("the server redirects to %q, which is not http", printable([]byte(a.location)))
		}
		u = next
	}
	return nil, 0, fmt.Errorf("more than %d redirections", maxRedirects)
}

// httpAnswer is a server's answer. Reading it reads the content.
type httpAnswer struct {
	status   int
	reason   string
	location string
	size     int64 // of the content, -1 if not told

	body io.Reader
	conn *idleConn
	stop func() bool // of the context's watch over conn
	ctx  context.Context
}

func (a *httpAnswer) Read(b []byte) (int, error) {
	a.conn.begin()
	n, err := a.body.Read(b)
	if err != nil && a.ctx.Err() != nil {
		err = a.ctx.Err() // the host's stack ends a closed connection with io.EOF, which is not the file's end
	}
	return n, err
}

func (a *httpAnswer) Close() error {
	a.stop()
	return a.conn.Close()
}

// get sends a request and reads the answer up to its content.
func get(ctx context.Context, network Network, u *url.URL, idle time.Duration) (*httpAnswer, error) {
	port := u.Port()
	if port == "" {
		port = "80"
	}
	dial, done := context.WithTimeout(ctx, idle)
	defer done()
	c, err := network.DialContext(dial, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	conn := &idleConn{Conn: c, idle: idle}
	a := &httpAnswer{conn: conn, ctx: ctx}
	a.stop = context.AfterFunc(ctx, func() { c.Close() })
	fail := func(err error) (*httpAnswer, error) {
		a.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	// RFC 9112 3.2.1, 3.2: origin form, and the host with its port as written.
	// url has escaped whatever could end the line early.
	path := strings.ReplaceAll(u.RequestURI(), " ", "%20") // queries are taken as they are
	request := "GET " + path + " HTTP/1.1\r\nHost: " + u.Host +
		"\r\nUser-Agent: godwit\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
	if u.User != nil {
		return fail(errors.New("names and passwords in addresses are not supported"))
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return fail(fmt.Errorf("send the request: %w", err))
	}
	conn.begin()
	if err := a.readHead(bufio.NewReaderSize(conn, 64<<10)); err != nil {
		return fail(err)
	}
	return a, nil
}

// readHead reads an answer up to its content, RFC 9112 2.1.
func (a *httpAnswer) readHead(r *bufio.Reader) error {
	for budget := maxHeader; ; {
		if err := a.readStatus(r, &budget); err != nil {
			return err
		}
		chunked, err := a.readFields(r, &budget)
		if err != nil {
			return err
		}
		if a.status/100 == 1 {
			continue // RFC 9110 15.2: an interim answer
		}
		// RFC 9112 6.3: chunks outdo a length; without either the content ends
		// with the connection.
		switch {
		case chunked:
			a.size, a.body = -1, &chunks{r: r}
		case a.size >= 0:
			a.body = io.LimitReader(r, a.size)
		default:
			a.body = r
		}
		return nil
	}
}

// readLine reads a line without its end. budget is what all of them may take.
func readLine(r *bufio.Reader, budget *int) (string, error) {
	line, err := r.ReadSlice('\n')
	if *budget -= len(line); *budget < 0 || err == bufio.ErrBufferFull {
		return "", errors.New("the server's answer has too long a header")
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", fmt.Errorf("read the server's answer: %w", err)
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}

// readStatus reads "HTTP/1.1 200 OK"; RFC 9112 4.
func (a *httpAnswer) readStatus(r *bufio.Reader, budget *int) error {
	line, err := readLine(r, budget)
	if err != nil {
		return err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	status, err := strconv.ParseUint(code, 10, 16)
	if !strings.HasPrefix(version, "HTTP/1.") || err != nil || len(code) != 3 || status < 100 {
		return fmt.Errorf("%q is not how an HTTP server answers", printable([]byte(line)))
	}
	a.status, a.reason = int(status), printable([]byte(reason))
	return nil
}

// readFields reads the header fields, RFC 9112 5, up to the empty line.
func (a *httpAnswer) readFields(r *bufio.Reader, budget *int) (chunked bool, err error) {
	a.size, a.location = -1, ""
	for {
		line, err := readLine(r, budget)
		if err != nil {
			return false, err
		}
		if line == "" {
			return chunked, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return false, fmt.Errorf("%q is not a header field", printable([]byte(line)))
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil || a.size >= 0 && a.size != int64(n) {
				return false, fmt.Errorf("the server's Content-Length is %q", printable([]byte(value)))
			}
			a.size = int64(n)
		case "transfer-encoding":
			if !strings.EqualFold(value, "chunked") || chunked {
				return false, fmt.Errorf("the server's Transfer-Encoding is %q", printable([]byte(value)))
			}
			chunked = true
		case "content-encoding":
			if value != "" && !strings.EqualFold(value, "identity") {
				return false, fmt.Errorf("the server's Content-Encoding is %q, which was not asked for", printable([]byte(value)))
			}
		case "location":
			a.location = value
		}
	}
}

// chunks is content in chunks, RFC 9112 7.1.
type chunks struct {
	r    *bufio.Reader
	left int64 // of the chunk
	more bool  // a chunk was read, whose line end follows
	err  error
}

func (c *chunks) Read(b []byte) (int, error) {
	if c.err == nil && c.left == 0 {
		c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.err = err
	return n, err
}

// next reads a chunk's size. io.EOF means that the last one was read.
func (c *chunks) next() error {
	budget := maxHeader
	if c.more {
		if line, err := readLine(c.r, &budget); err != nil {
			return err
		} else if line != "" {
			return errors.New("a chunk of the server's answer is longer than it says")
		}
	}
	line, err := readLine(c.r, &budget)
	if err != nil {
		return err
	}
	digits, _, _ := strings.Cut(line, ";") // extensions are for those who know them
	n, err := strconv.ParseUint(strings.Trim(digits, " \t"), 16, 62)
	if err != nil {
		return fmt.Errorf("%q is not the size of a chunk", printable([]byte(line)))
	}
	c.left, c.more = int64(n), true
	if n > 0 {
		return nil
	}
	for { // trailer fields
		line, err := readLine(c.r, &budget)
		if err != nil {
			return err
		}
		if line == "" {
			return io.EOF
		}
	}
}

// idleConn fails what takes too long: a write, and all reads for one thing together. A
// header, or a chunk's, that comes byte by byte would else go on for days.
type idleConn struct {
	net.Conn
	idle time.Duration
}

// begin is called before the reads for a thing.
func (c *idleConn) begin() { c.SetReadDeadline(time.Now().Add(c.idle)) }

func (c *idleConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.late("sent", err)
}

func (c *idleConn) Write(b []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(c.idle))
	n, err := c.Conn.Write(b)
	return n, c.late("took", err)
}

// late says a time-out in the words of who waited.
func (c *idleConn) late(verb string, err error) error {
	var e net.Error // the host's stack has a time-out of its own
	if errors.As(err, &e) && e.Timeout() {
		return fmt.Errorf("the server %s nothing, or too little, for %v: %w", verb, c.idle, err)
	}
	return err
}
