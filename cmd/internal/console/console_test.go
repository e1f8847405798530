package console

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"godwit/cmd/internal/shell"
)

// A tty is the far end of a console: what was printed, and keys to type.
type tty struct {
	net.Conn
	mu  sync.Mutex
	out bytes.Buffer
}

func (y *tty) text() string { y.mu.Lock(); defer y.mu.Unlock(); return y.out.String() }

func (y *tty) expect(t *testing.T, want string) {
	t.Helper()
	for range 6000 {
		if strings.Contains(y.text(), want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q in %q", want, y.text())
}

func start(t *testing.T) (*tty, *Console) {
	a, b := net.Pipe()
	s := shell.New()
	s.Add(
		&shell.Command{Name: "say", Args: "WORD", Summary: "say", Example: "say a", Run: func(c *shell.Call) error {
			fmt.Fprintf(c.Out, "said <%s>\n", strings.Join(c.Args, "|"))
			return nil
		}},
		&shell.Command{Name: "hang", Summary: "hang", Example: "hang", Run: func(c *shell.Call) error {
			fmt.Fprintln(c.Out, "hanging")
			<-c.Ctx.Done()
			return fmt.Errorf("interrupted")
		}},
		&shell.Command{Name: "show", Summary: "show", Example: "show", Shows: true, Run: func(c *shell.Call) error {
			fmt.Fprint(c.Out, "[1,")
			if _, err := io.ReadFull(c.Input, make([]byte, 2)); err != nil {
				return err
			}
			fmt.Fprintln(c.Out, "2]")
			return nil
		}},
		&shell.Command{Name: "raw", Summary: "raw", Example: "raw", Run: func(c *shell.Call) error {
			c.Raw(true)
			fmt.Fprint(c.Out, "raw mode")
			b := make([]byte, 4)
			if _, err := io.ReadFull(c.Input, b); err != nil {
				return err
			}
			c.Raw(false)
			fmt.Fprintf(c.Out, "got %q\n", b)
			return nil
		}},
	)
	c := New(b, s)
	ctx, cancel := context.WithCancel(context.Background())
	y := &tty{Conn: a}
	var wg sync.WaitGroup
	wg.Add(2)
	go func() { defer wg.Done(); c.Run(ctx) }()
	go func() {
		defer wg.Done()
		b := make([]byte, 4096)
		for {
			n, err := a.Read(b)
			y.mu.Lock()
			y.out.Write(b[:n])
			y.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); a.Close(); b.Close(); wg.Wait() })
	y.expect(t, Prompt)
	return y, c
}

func TestTypedLinesRun(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "say hello\rsay \"two words\"\r")
	y.expect(t, "said <hello>\r\n")
	y.expect(t, "said <two words>\r\n")
}

func TestCtrlCForgetsTheLine(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "say wrong\x03say right\r")
	y.expect(t, "said <right>")
}

func TestCtrlCEndsACommand(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "hang\r")
	y.expect(t, "hanging\r\n")
	io.WriteString(y, "\x03")
	y.expect(t, "error: interrupted")
	io.WriteString(y, "say still\r")
	y.expect(t, "said <still>")
}

func TestTabCompletes(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "sa\t")
	y.expect(t, "say ")
	io.WriteString(y, "x\r")
	y.expect(t, "said <x>")
}

func TestHistoryComesBack(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "say once\r")
	y.expect(t, "said <once>")
	n := strings.Count(y.text(), "said <once>")
	io.WriteString(y, "\x1b[A\r")
	for range 6000 {
		if strings.Count(y.text(), "said <once>") > n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the line did not run again: %q", y.text())
}

func TestLogDoesNotTearTheLineBeingTyped(t *testing.T) {
	y, c := start(t)
	io.WriteString(y, "say ha")
	y.expect(t, "say ha")
	c.Log("host: something happened\n")
	y.expect(t, "host: something happened\r\n")
	io.WriteString(y, "lf\r")
	y.expect(t, "said <half>")
	if i := strings.Index(y.text(), "something happened\r\n"); !strings.Contains(y.text()[i:], Prompt+"say ha") {
		t.Errorf("the line was not drawn again: %q", y.text())
	}
}

func TestLogWaitsWhileJSONIsShown(t *testing.T) {
	y, c := start(t)
	io.WriteString(y, "show -json\r")
	y.expect(t, "[1,")
	c.Log("host: something happened")
	io.WriteString(y, "go")
	y.expect(t, "[1,2]\r\n")
	y.expect(t, "host: something happened\r\n")
}

func TestRawKeysReachTheCommandUntouched(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "raw\r")
	y.expect(t, "raw mode")
	io.WriteString(y, "\x03\r\x04x")
	y.expect(t, `got "\x03\r\x04x"`)
	io.WriteString(y, "say back\r")
	y.expect(t, "said <back>")
}

func TestACommandAtStartLeavesTheConsoleToTheOperator(t *testing.T) {
	y, c := start(t)
	io.WriteString(y, "hang\r")
	y.expect(t, "hanging\r\n")
	if err := c.Background(context.Background(), "say at start"); err != nil {
		t.Fatal(err)
	}
	y.expect(t, Prompt+"say at start\r\n")
	y.expect(t, "said <at|start>\r\n")
	io.WriteString(y, "\x03") // it is still the typed command's
	y.expect(t, "error: interrupted")

	io.WriteString(y, "say ha")
	y.expect(t, "say ha")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Background(ctx, "hang") }()
	for range 6000 {
		if strings.Count(y.text(), "hanging\r\n") == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	io.WriteString(y, "lf\r")
	y.expect(t, "said <half>")
	cancel()
	if err := <-ended; err == nil {
		t.Error("the command at start did not hang")
	}
	if err := c.Background(context.Background(), "nonsense"); err == nil {
		t.Error("no error")
	}
	y.expect(t, `error: unknown command "nonsense"`)
}

func TestOutputBesideALineBeingTypedIsWholeLines(t *testing.T) {
	var b bytes.Buffer
	l := &lines{w: &b}
	for _, c := range []struct{ in, out string }{{"a", ""}, {"b\nc", "ab\n"}, {"\nd\ne", "ab\nc\nd\n"}, {"", "ab\nc\nd\n"}} {
		if n, err := io.WriteString(l, c.in); n != len(c.in) || err != nil || b.String() != c.out {
			t.Errorf("%q: %d, %v, %q", c.in, n, err, b.String())
		}
	}
	if l.flush(); b.String() != "ab\nc\nd\ne\n" {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	l.Write(make([]byte, longestPart))
	if b.Len() != longestPart+1 {
		t.Errorf("%d bytes of a line without end", b.Len())
	}
}
