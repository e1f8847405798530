package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"godwit/cmd/internal/shell"
)

// A Server answers control connections.
type Server struct {
	Host  string // the name it greets with
	Shell *shell.Shell
	Log   func(format string, args ...any)
	// MaxConns bounds the connections served at once; zero means 16.
	MaxConns int

	complaints complaints
}

// Serve accepts until l is closed or ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	limit := s.MaxConns
	if limit == 0 {
		limit = 16
	}
	slots := make(chan struct{}, limit)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("control: %w", err)
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				s.ServeConn(ctx, c)
			}()
		default:
			s.complain("control: %v refused: %d connections are open already", c.RemoteAddr(), limit)
			reset(c)
		}
	}
}

// ServeConn serves one connection and closes it.
func (s *Server) ServeConn(ctx context.Context, c net.Conn) {
	defer c.Close()
	from := c.RemoteAddr() // a connection that has ended does not know any more
	err := s.serve(ctx, c)
	if err != nil {
		reset(c)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.complain("control: a client at %v is dropped: %s", from, strings.TrimPrefix(err.Error(), "control: "))
	}
}

// reset closes a connection so that nothing of it remains: a stranger that is closed in order can keep it for minutes, and
// have as many as it likes.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

func (s *Server) serve(ctx context.Context, c net.Conn) error {
	c.SetReadDeadline(time.Now().Add(helloTimeout))
	line, err := readLine(c)
	if err == nil {
		err = checkGreeting(line)
	}
	if errors.Is(err, errStranger) {
		err = fmt.Errorf("it began with %s, not with %q: is it godwitctl?", clip(line), greeting)
	}
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := fmt.Fprintf(c, "%s %s\n", greeting, s.Host); err != nil {
		return err
	}
	t, b, err := readFrame(c)
	if err != nil {
		return err
	}
	var req request
	if t != frameRequest {
		return fmt.Errorf("control: frame type %d where a request is due", t)
	}
	if err := json.Unmarshal(b, &req); err != nil {
		return fmt.Errorf("control: request: %w", err)
	}
	c.SetReadDeadline(time.Time{})

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &frameWriter{c: c, cancel: cancel}
	keys := shell.NewKeys()
	defer keys.Close()
	go func() { // what the client sends while its command runs
		defer cancel()
		defer keys.Close()
		answers := false
		for {
			t, b, err := readFrame(c)
			if err != nil || t != frameInput && t != frameAlive {
				return // cancelled, gone or confused: the command ends
			}
			if t == frameInput {
				keys.Write(b)
			}
			// A client that answers signs of life is known to be gone when it does not.
			if answers = answers || t == frameAlive; answers {
				c.SetReadDeadline(time.Now().Add(aliveTimeout))
			}
		}
	}()
	go func() { // so that a client behind a silent command knows that the host lives
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.frame(frameAlive, nil)
			}
		}
	}()
	call := &shell.Call{Ctx: ctx, Args: req.Args, JSON: req.JSON, Out: w}
	if req.JSON {
		call.JSON, call.Args = false, append(req.Args[:len(req.Args):len(req.Args)], "-json")
	}
	if req.Input {
		call.Input = keys
		call.Raw = func(on bool) {
			b := []byte{0}
			if on {
				b[0] = 1
			}
			w.frame(frameRaw, b)
		}
	}
	var d done
	if err := s.Shell.Run(call); err != nil {
		d.Error, d.Usage = err.Error(), errors.Is(err, shell.ErrUsage)
	}
	b, err = json.Marshal(d)
	if err != nil {
		return err
	}
	return w.frame(frameDone, b)
}

// A frameWriter sends output frames; a client that takes none for writeTimeout
// is given up, and its command cancelled.
type frameWriter struct {
	mu     sync.Mutex
	c      net.Conn
	cancel func()
	err    error
}

func (w *frameWriter) frame(t frameType, b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		if w.err = writeFrame(w.c, t, b); w.err != nil {
			w.cancel()
		}
	}
	return w.err
}

func (w *frameWriter) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m := min(len(b)-n, 32<<10)
		if err := w.frame(frameOutput, b[n:n+m]); err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}
