package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// A Console is a machine's serial port: everything it printed, and a way to type.
//
// Expect looks only at output that no earlier Expect has consumed. Escape sequences and carriage returns are dropped.
type Console struct {
	name  string
	in    io.Writer
	log   io.Writer // the unchanged bytes, for a person to read afterwards; closed at the stream's end, as out is
	clock func() time.Duration
	scale float64

	mu     sync.Mutex
	text   []byte
	pos    int           // how much Expect has consumed
	ended  error         // set once the stream has ended
	change chan struct{} // closed and replaced at every change
	plain  plainText
}

// newConsole starts reading out. clock counts the time that the machine had a chance to run; see runClock.
func newConsole(name string, in io.Writer, out io.Reader, log io.Writer, clock func() time.Duration, scale float64) *Console {
	c := &Console{name: name, in: in, log: log, clock: clock, scale: scale, change: make(chan struct{})}
	go c.read(out)
	return c
}

func (c *Console) read(out io.Reader) {
	defer func() {
		for _, end := range []any{out, c.log} {
			if f, ok := end.(io.Closer); ok {
				f.Close()
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		c.log.Write(buf[:n]) // a log that cannot be written must not stop the machine
		c.mu.Lock()
		c.text = c.plain.append(c.text, buf[:n])
		if err != nil {
			c.ended = err
		}
		close(c.change)
		c.change = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Send types s.
func (c *Console) Send(s string) error {
	if _, err := io.WriteString(c.in, s); err != nil {
		return fmt.Errorf("%s: type %q: %w", c.name, s, err)
	}
	return nil
}

// ErrEnded is part of an Expect error when the machine's serial line ended, as it does when the emulator exits.
var ErrEnded = errors.New("the machine ended")

// Match is what an Expect found.
type Match struct {
	Before string   // output since the last Expect, up to the match
	Groups []string // the match and its groups, as regexp gives them
}

// Expect waits for output that matches pattern. It gives up when the machine, having had the chance to run, printed
// nothing for patience, or went on printing for ten times as long. Patience is in terms of the QEMU ground; slower
// grounds scale it.
func (c *Console) Expect(ctx context.Context, pattern *regexp.Regexp, patience time.Duration) (Match, error) {
	return c.Await(ctx, fmt.Sprintf("%q", pattern), pattern, patience)
}

// Await is Expect for a pattern that does not tell by itself what is waited for.
func (c *Console) Await(ctx context.Context, what string, pattern *regexp.Regexp, patience time.Duration) (Match, error) {
	patience = time.Duration(float64(patience) * c.scale)
	begin := c.clock()
	quiet, seen := begin, 0
	for {
		c.mu.Lock()
		rest := c.text[c.pos:]
		if at := pattern.FindSubmatchIndex(rest); at != nil {
			m := Match{Before: string(rest[:at[0]])}
			for i := 0; i < len(at); i += 2 {
				m.Groups = append(m.Groups, string(rest[max(0, at[i]):max(0, at[i+1])]))
			}
			c.pos += at[1]
			c.mu.Unlock()
			return m, nil
		}
		ended, change, now := c.ended, c.change, c.clock()
		if len(rest) != seen {
			quiet, seen = now, len(rest)
		}
		c.mu.Unlock()

		var why error
		switch {
		case ended != nil:
			why = ErrEnded
		case now-quiet > patience:
			why = fmt.Errorf("nothing printed for %v", patience)
		case now-begin > 10*patience:
			why = fmt.Errorf("not seen in %v", 10*patience)
		}
		if why != nil {
			return Match{}, fmt.Errorf("%s: waiting for %s: %w; last lines:\n%s", c.name, what, why, c.Tail(12))
		}
		select {
		case <-ctx.Done():
			return Match{}, fmt.Errorf("%s: waiting for %s: %w", c.name, what, context.Cause(ctx))
		case <-change:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Discard forgets output that nobody has expected.
func (c *Console) Discard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pos = len(c.text)
}

// Rest returns the output that nobody has expected.
func (c *Console) Rest() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text[c.pos:])
}

// Text returns everything printed so far.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Tail returns the last n lines.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(c.Text(), "\n"), "\n")
	return "    | " + strings.Join(lines[max(0, len(lines)-n):], "\n    | ")
}

// plainText drops carriage returns and escape sequences (ECMA-48 5.4: ESC [ parameters final) from a stream.
type plainText struct{ state int }

const (
	plain = iota
	escape
	controlSequence
)

func (p *plainText) append(to, b []byte) []byte {
	for _, c := range b {
		switch p.state {
		case plain:
			if c == 0x1b {
				p.state = escape
			} else if c != '\r' && c != 0 {
				to = append(to, c)
			}
		case escape:
			p.state = plain
			if c == '[' {
				p.state = controlSequence
			}
		case controlSequence:
			if c >= 0x40 && c <= 0x7e {
				p.state = plain
			}
		default:
			panic(fmt.Sprintf("plainText: state %d", p.state))
		}
	}
	return to
}

// LastLine returns the last line that begins with prefix, or "".
func (c *Console) LastLine(prefix string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := bytes.LastIndex(c.text, []byte("\n"+prefix))
	if at < 0 {
		return ""
	}
	line, _, _ := bytes.Cut(c.text[at+1:], []byte("\n"))
	return string(line)
}
