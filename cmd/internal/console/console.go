// Package console is a person at a terminal in front of a shell: the serial
// console of a host.
package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"

	"godwit/cmd/internal/shell"
)

// Prompt is what a host's console asks with.
const Prompt = "godwit> "

// A Console edits lines on a terminal and runs them.
type Console struct {
	sh   *shell.Shell
	tty  io.ReadWriter
	keys *shell.Keys
	term *term.Terminal

	mu   sync.Mutex
	json int      // commands that are showing JSON: the log waits, so that it parses
	held []string // lines that wait
}

// maxHeld bounds the lines that wait; all are in the host's log anyway.
const maxHeld = 200

// New makes a console; nothing is read before Run.
func New(tty io.ReadWriter, sh *shell.Shell) *Console {
	c := &Console{sh: sh, tty: tty, keys: shell.NewKeys()}
	c.keys.LineMode(true)
	keys := &editKeys{r: c.keys, ask: func() { io.WriteString(tty, askWidth) }}
	c.term = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, tty}, "")
	keys.width = func(columns int) { c.term.SetSize(columns, 24) } // the height does not matter to it
	c.term.History = &history{}
	c.term.AutoCompleteCallback = c.complete
	return c
}

func (c *Console) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || pos != len(line) {
		return "", 0, false
	}
	nl, opts := c.sh.Complete(line)
	if opts != nil {
		// The terminal holds its lock here; show the choices once it is free.
		go fmt.Fprintf(c.term, "%s\n", strings.Join(opts, "  "))
	}
	return nl, len(nl), true
}

// Log prints a line of the host's log without tearing the line being typed.
func (c *Console) Log(line string) {
	c.mu.Lock()
	if c.json > 0 {
		if len(c.held) < maxHeld {
			c.held = append(c.held, line)
		}
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	fmt.Fprintf(c.term, "%s\n", shell.Printable(strings.TrimRight(line, "\n")))
}

// hold begins and ends the showing of JSON.
func (c *Console) hold(on bool) {
	c.mu.Lock()
	if on {
		c.json++
	} else {
		c.json--
	}
	var held []string
	if c.json == 0 {
		held, c.held = c.held, nil
	}
	c.mu.Unlock()
	for _, l := range held {
		c.Log(l)
	}
}

// holdForJSON holds the log, if args ask for JSON, until what it returns is called.
func (c *Console) holdForJSON(args []string) (end func()) {
	if !slices.Contains(args, "-json") && !slices.Contains(args, "--json") {
		return func() {}
	}
	c.hold(true)
	return func() { c.hold(false) }
}

// Write prints text above the line being typed.
func (c *Console) Write(b []byte) (int, error) { return c.term.Write(b) }

// Run reads and runs commands until ctx ends or the terminal does.
func (c *Console) Run(ctx context.Context) error {
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(c.keys, c.tty)
		c.keys.Close()
		read <- err
	}()
	stop := context.AfterFunc(ctx, func() { c.keys.Close() })
	defer stop()
	c.term.SetPrompt(Prompt)
	for {
		line, err := c.term.ReadLine()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, io.EOF) {
			select {
			case err := <-read:
				return err // the terminal is gone
			default:
				continue
			}
		}
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return err
		}
		c.exec(ctx, line)
	}
}

// exec runs a line that was typed and prints its error.
func (c *Console) exec(ctx context.Context, line string) error {
	return c.tell(line, func(args []string) error { return c.run(ctx, args) })
}

// Background runs a line that nobody typed, beside what is typed: it has no keyboard, so that ^C, the prompt and the line
// being typed stay the operator's, and its output stands above that line.
func (c *Console) Background(ctx context.Context, line string) error {
	fmt.Fprintf(c.term, "%s%s\n", Prompt, line)
	return c.tell(line, func(args []string) error {
		defer c.holdForJSON(args)()
		out := &lines{w: c.term}
		defer out.flush()
		return c.sh.Run(&shell.Call{Ctx: ctx, AtHost: true, Args: args, Out: out})
	})
}

func (c *Console) tell(line string, run func(args []string) error) error {
	args, err := shell.Split(line)
	if err == nil && len(args) == 0 {
		return nil
	}
	if err == nil {
		err = run(args)
	}
	if err != nil {
		fmt.Fprintf(c.term, "error: %s\n", shell.Printable(err.Error()))
	}
	return err
}

func (c *Console) run(ctx context.Context, args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.keys.OnInterrupt(cancel)
	defer c.keys.OnInterrupt(nil)
	// No prompt is to be repainted behind the command's output.
	c.term.SetPrompt("")
	defer c.term.SetPrompt(Prompt)
	raw := false
	setRaw := func(on bool) {
		raw = on
		c.keys.LineMode(!on)
		if on {
			c.keys.OnInterrupt(nil) // ^C belongs to the guest now
		} else {
			c.keys.OnInterrupt(cancel)
		}
	}
	defer c.holdForJSON(args)()
	out := &output{c: c, raw: &raw}
	err := c.sh.Run(&shell.Call{Ctx: ctx, AtHost: true, Args: args, Out: out, Input: c.keys, Raw: setRaw})
	if raw {
		setRaw(false)
	}
	if out.open {
		fmt.Fprintln(c.term)
	}
	return err
}

// output goes through the line editor, which turns line ends into CR LF; in raw
// mode it goes out as it is.
type output struct {
	c    *Console
	raw  *bool
	open bool // the last line has no end yet
}

func (o *output) Write(b []byte) (int, error) {
	if len(b) > 0 {
		o.open = b[len(b)-1] != '\n'
	}
	if *o.raw {
		return o.c.tty.Write(b)
	}
	return o.c.term.Write(b)
}

// lines passes whole lines on, for what is written beside a line being typed.
type lines struct {
	w    io.Writer
	part []byte
}

// longestPart is when a line without end is broken.
const longestPart = 64 << 10

func (l *lines) Write(b []byte) (int, error) {
	l.part = append(l.part, b...)
	end := bytes.LastIndexByte(l.part, '\n') + 1
	if end == 0 && len(l.part) < longestPart {
		return len(b), nil
	}
	if end == 0 {
		return len(b), l.flush()
	}
	_, err := l.w.Write(l.part[:end])
	l.part = append(l.part[:0], l.part[end:]...)
	return len(b), err
}

func (l *lines) flush() error {
	if len(l.part) == 0 {
		return nil
	}
	_, err := l.w.Write(append(l.part, '\n'))
	l.part = nil
	return err
}
