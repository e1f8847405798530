package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A Command is what a client asks a host to run.
type Command struct {
	Args  []string
	JSON  bool
	Out   io.Writer
	Input io.Reader  // passed on while the command runs; nil for none
	Raw   func(bool) // switches the terminal behind Input; may be nil
}

// Run runs cmd over c, which it closes. A HostError is what the command said;
// any other error is about the connection.
func Run(ctx context.Context, c net.Conn, cmd Command) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(helloTimeout))
	if _, err := fmt.Fprintf(c, "%s\n", greeting); err != nil {
		return err
	}
	line, err := readLine(c)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("control: %v closed the connection without a greeting: it serves only so many at once (its log tells), or is no Godwit host", c.RemoteAddr())
	}
	if err != nil {
		return fmt.Errorf("control: no greeting from %v: %w", c.RemoteAddr(), err)
	}
	if err := checkGreeting(line); err != nil {
		return err
	}
	b, err := json.Marshal(request{Args: cmd.Args, JSON: cmd.JSON, Input: cmd.Input != nil})
	if err != nil {
		return err
	}
	if err := writeFrame(c, frameRequest, b); err != nil {
		return err
	}
	var mu sync.Mutex // one frame at a time
	send := func(t frameType, b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return writeFrame(c, t, b)
	}
	stop := context.AfterFunc(ctx, func() { send(frameCancel, nil) })
	defer stop()
	if cmd.Input != nil {
		go func() {
			b := make([]byte, 4096)
			for {
				n, err := cmd.Input.Read(b)
				if n > 0 && send(frameInput, b[:n]) != nil || err != nil {
					return
				}
			}
		}()
	}
	for {
		c.SetReadDeadline(time.Now().Add(aliveTimeout))
		t, b, err := readFrame(c)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				return fmt.Errorf("control: nothing heard from the host for %v; the command may still be running there", aliveTimeout)
			}
			return fmt.Errorf("control: connection lost: %w", err)
		}
		switch t {
		case frameOutput:
			if _, err := cmd.Out.Write(b); err != nil {
				return err
			}
		case frameAlive:
		case frameRaw:
			if cmd.Raw != nil && len(b) == 1 {
				cmd.Raw(b[0] == 1)
			}
		case frameDone:
			var d done
			if err := json.Unmarshal(b, &d); err != nil {
				return fmt.Errorf("control: result: %w", err)
			}
			if d.Error != "" {
				return HostError{d.Error, d.Usage}
			}
			return nil
		default:
			return fmt.Errorf("control: the host sent a frame of type %d", t)
		}
	}
}

// A HostError is a command's own error.
type HostError struct {
	Text  string
	Usage bool // the command was called wrongly
}

func (e HostError) Error() string { return e.Text }
