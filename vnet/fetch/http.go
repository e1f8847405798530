package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// openHTTP asks for a file. Redirections are followed, to other http addresses.
func openHTTP(ctx context.Context, network Network, u *url.URL, idle time.Duration) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	transport := &http.Transport{
		Proxy: nil, // of the environment, which a host has not
		DialContext: func(ctx context.Context, n, address string) (net.Conn, error) {
			dial, done := context.WithTimeout(ctx, idle)
			defer done()
			c, err := network.DialContext(dial, n, address)
			if err != nil {
				return nil, err
			}
			return &idleConn{Conn: c, idle: idle}, nil
		},
		// The bytes are wanted as they are, and their number beforehand.
		DisableCompression:    true,
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: idle,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= 5 {
			return errors.New("more than five redirections")
		}
		if r.URL.Scheme != "http" {
			return fmt.Errorf("redirected to %s, which is not http", r.URL)
		}
		return nil
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel()
		return nil, 0, err
	}
	request.Header.Set("User-Agent", "godwit")
	answer, err := client.Do(request)
	if err != nil {
		cancel()
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the rest repeats the address
		}
		return nil, 0, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		cancel()
		return nil, 0, fmt.Errorf("the server answered %s", answer.Status)
	}
	return &httpBody{answer.Body, cancel}, answer.ContentLength, nil
}

type httpBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *httpBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// idleConn fails a read or write that takes too long.
type idleConn struct {
	net.Conn
	idle time.Duration
}

func (c *idleConn) Read(b []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(c.idle))
	return c.Conn.Read(b)
}

func (c *idleConn) Write(b []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(c.idle))
	return c.Conn.Write(b)
}
