package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Command is what a client asks a host to run.
type Command struct {
	Args  []string
	JSON  bool
	Out   io.Writer
	Input io.Reader  // passed on while the command runs; nil for none
	Raw   func(bool) // switches the terminal behind Input; may be nil
	// Leave, once closed, ends the connection without the host's word; nil: never.
	Leave <-chan struct{}
}

// ErrLeft is the error of a caller who did not wait for the host.
var ErrLeft = errors.New("left before the host's answer; the command may still be running there")

// Run runs cmd over c, which it closes. A HostError is what the command said;
// any other error is about the connection. When ctx ends, the host is asked to
// cancel the command, and answers.
func Run(ctx context.Context, c net.Conn, cmd Command) (err error) {
	defer c.Close()
	ended := make(chan struct{})
	defer close(ended)
	var left atomic.Bool
	go func() {
		select {
		case <-cmd.Leave:
			left.Store(true)
			c.Close()
		case <-ended:
		}
	}()
	defer func() {
		if err != nil && left.Load() {
			err = ErrLeft
		}
	}()
	if err := greet(ctx, c); err != nil {
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
				return fmt.Errorf("nothing heard from the host for %v; the command may still be running there", aliveTimeout)
			}
			if errors.Is(err, errBroken) {
				return err
			}
			return fmt.Errorf("connection lost: %w", err)
		}
		switch t {
		case frameOutput:
			if _, err := cmd.Out.Write(b); err != nil {
				return err
			}
		case frameAlive:
			send(frameAlive, nil) // so are we; should that fail, the next read says why
		case frameRaw:
			if cmd.Raw != nil && len(b) == 1 {
				cmd.Raw(b[0] == 1)
			}
		case frameDone:
			var d done
			if err := json.Unmarshal(b, &d); err != nil {
				return fmt.Errorf("%w: its result is no JSON: %w", errBroken, err)
			}
			if d.Error != "" {
				return HostError{d.Error, d.Usage}
			}
			return nil
		default:
			return fmt.Errorf("%w: a frame of type %d from the host", errBroken, t)
		}
	}
}

// greet learns whether a Godwit host is at the other end. ctx ends the wait.
func greet(ctx context.Context, c net.Conn) error {
	c.SetDeadline(time.Now().Add(helloTimeout))
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := fmt.Fprintf(c, "%s\n", greeting)
	var line string
	if err == nil {
		line, err = readLine(c)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("the connection was closed without a greeting: the host serves only so many at once (its log tells), or is no Godwit host")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no greeting within %v: is that a Godwit control port?", helloTimeout)
	case err != nil:
		return err
	}
	return checkGreeting(line)
}

// A HostError is a command's own error.
type HostError struct {
	Text  string
	Usage bool // the command was called wrongly
}

func (e HostError) Error() string { return e.Text }
