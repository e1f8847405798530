package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// newTestConsole returns a console on a pipe, whose clock the test moves.
func newTestConsole(t *testing.T) (c *Console, out *io.PipeWriter, now *time.Duration) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	now = new(time.Duration)
	return newConsole("m", io.Discard, r, io.Discard, func() time.Duration { return *now }, 1), w, now
}

func TestExpectConsumesInOrder(t *testing.T) {
	c, out, _ := newTestConsole(t)
	io.WriteString(out, "boot\r\n\x1b[2J\x1b[31mready\x1b[0m 12 ms\r\ngod")
	io.WriteString(out, "wit> ")
	m, err := c.Expect(t.Context(), regexp.MustCompile(`ready (\d+) ms`), time.Second)
	if err != nil || m.Before != "boot\n" || m.Groups[1] != "12" {
		t.Fatalf("got %+v, %v", m, err)
	}
	if m, err = c.Expect(t.Context(), regexp.MustCompile(`(?m)^godwit> `), time.Second); err != nil || m.Before != "\n" {
		t.Fatalf("got %+v, %v", m, err)
	}
	if got := c.LastLine("ready"); got != "ready 12 ms" {
		t.Errorf("LastLine %q", got)
	}
}

func TestExpectGivesUpOnSilenceAndOnEndlessTalk(t *testing.T) {
	never := regexp.MustCompile("never")
	c, out, _ := newTestConsole(t)
	ticks := time.Duration(0)
	c.clock = func() time.Duration { ticks += time.Second; return ticks }
	io.WriteString(out, "last words\n")
	_, err := c.Expect(t.Context(), never, 3*time.Second)
	if err == nil || !strings.Contains(err.Error(), "nothing printed for 3s") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("silence: %v", err)
	}
	go func() {
		for {
			if _, err := io.WriteString(out, "x\n"); err != nil {
				return
			}
		}
	}()
	if _, err = c.Expect(t.Context(), never, 30*time.Second); err == nil || !strings.Contains(err.Error(), "not seen in 5m0s") {
		t.Errorf("endless talk: %v", err)
	}
}

func TestExpectTellsThatTheMachineEnded(t *testing.T) {
	c, out, _ := newTestConsole(t)
	go func() { io.WriteString(out, "bye\n"); out.Close() }()
	if _, err := c.Expect(t.Context(), regexp.MustCompile("bye"), time.Second); err != nil {
		t.Errorf("what was printed before the end is lost: %v", err)
	}
	if _, err := c.Expect(t.Context(), regexp.MustCompile("never"), time.Second); !errors.Is(err, ErrEnded) {
		t.Errorf("got %v", err)
	}
}

func TestExpectEndsWithItsContext(t *testing.T) {
	c, _, _ := newTestConsole(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("^C")
	cancel(why)
	if _, err := c.Expect(ctx, regexp.MustCompile("never"), time.Hour); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestEscapeSequencesSplitAnywhereDisappear(t *testing.T) {
	const in, want = "a\x1b[1;31mb\x1b[Kc\x1bMd\r\n", "abcd\n"
	for cut := range len(in) {
		var p plainText
		if got := string(p.append(p.append(nil, []byte(in[:cut])), []byte(in[cut:]))); got != want {
			t.Errorf("cut at %d: %q, want %q", cut, got, want)
		}
	}
}

// A long run starts hundreds of machines.
func TestEndedMachineKeepsNoFilesOpen(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	newConsole("m", io.Discard, r, log, func() time.Duration { return 0 }, 1)
	w.Write([]byte("last words"))
	w.Close()
	for range 60000 {
		if _, err := log.Stat(); errors.Is(err, os.ErrClosed) {
			if b, _ := os.ReadFile(log.Name()); string(b) != "last words" {
				t.Errorf("the log holds %q", b)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the log stays open")
}
