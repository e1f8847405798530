// Package fetch gets files over the host's network, by HTTP and by TFTP.
//
// It knows the network by an interface, so that it is tested on Linux over
// loopback.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// Network is what fetching needs of a network; *hostnet.Net has it.
type Network interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	Resolve(ctx context.Context, host string) (netip.Addr, error)
}

const (
	// DefaultLimit is the largest file taken, if a Client names no other.
	DefaultLimit = 1 << 30
	// DefaultIdle is how long nothing may arrive.
	DefaultIdle = 15 * time.Second
)

// A Client fetches files. The zero value of every field but Net is usable.
type Client struct {
	Net Network
	// Limit is the largest file, in bytes. Get takes twice that in memory at most.
	Limit int64
	// Idle is how long a server may send nothing before the transfer fails.
	Idle time.Duration
	// Progress is called during a transfer, some ten times a second and at its
	// end. total is -1 if the server does not tell.
	Progress func(done, total int64)
}

// A File is a file being transferred.
type File struct {
	// Size is the file's length, -1 if the server does not tell.
	Size int64
	body io.ReadCloser

	address  string
	limit    int64
	done     int64
	progress func(done, total int64)
	last     time.Time
}

// ErrTooLarge is returned for files over the limit.
var ErrTooLarge = errors.New("the file is larger than allowed")

// Open begins the transfer of http://HOST[:PORT]/PATH or tftp://HOST[:PORT]/PATH.
// ctx ends the whole transfer.
func (c *Client) Open(ctx context.Context, address string) (*File, error) {
	fail := func(err error) (*File, error) { return nil, fmt.Errorf("fetch %s: %w", address, err) }
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err) // names the address itself
	}
	if u.Host == "" {
		return fail(errors.New("the address has no host"))
	}
	f := &File{address: address, limit: c.Limit, progress: c.Progress}
	if f.limit <= 0 {
		f.limit = DefaultLimit
	}
	idle := c.Idle
	if idle <= 0 {
		idle = DefaultIdle
	}
	switch u.Scheme {
	case "http":
		f.body, f.Size, err = openHTTP(ctx, c.Net, u, idle)
	case "tftp":
		f.body, f.Size, err = openTFTP(ctx, c.Net, u, idle)
	default:
		err = fmt.Errorf("%q is not a way to fetch: use http:// or tftp://", u.Scheme)
	}
	if err != nil {
		return fail(err)
	}
	if f.Size > f.limit {
		f.body.Close()
		return fail(fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, f.Size, f.limit))
	}
	return f, nil
}

// Read gets the next bytes. io.EOF means that the file is complete.
func (f *File) Read(b []byte) (int, error) {
	n, err := f.body.Read(b)
	f.done += int64(n)
	switch {
	case f.done > f.limit:
		err = fmt.Errorf("fetch %s: %w: over %d bytes", f.address, ErrTooLarge, f.limit)
	case f.Size >= 0 && f.done > f.Size:
		err = fmt.Errorf("fetch %s: the server sends more than the %d bytes that it announced", f.address, f.Size)
	case err == io.EOF && f.Size >= 0 && f.done != f.Size:
		err = fmt.Errorf("fetch %s: the transfer ended after %d of %d bytes: %w", f.address, f.done, f.Size, io.ErrUnexpectedEOF)
	case err != nil && err != io.EOF:
		err = fmt.Errorf("fetch %s: after %d bytes: %w", f.address, f.done, err)
	}
	f.report(err != nil)
	return n, err
}

func (f *File) report(end bool) {
	if f.progress == nil {
		return
	}
	if now := time.Now(); end || now.Sub(f.last) >= 100*time.Millisecond {
		f.last = now
		f.progress(f.done, f.Size)
	}
}

// Close ends the transfer.
func (f *File) Close() error { return f.body.Close() }

// Get fetches a whole file.
func (c *Client) Get(ctx context.Context, address string) ([]byte, error) {
	f, err := c.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.all()
}

// all reads the file. It takes what the server announces at once, which the limit
// bounds, else memory as bytes arrive: twice the limit at most.
func (f *File) all() ([]byte, error) {
	const first = 1 << 20
	size := min(first, f.limit) + 1
	if f.Size >= 0 {
		size = f.Size + 1 // one more, so that the end shows without growing
	}
	b := make([]byte, 0, size)
	for {
		if len(b) == cap(b) {
			bigger := make([]byte, len(b), min(2*int64(cap(b)), f.limit+1))
			copy(bigger, b)
			b = bigger
		}
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
