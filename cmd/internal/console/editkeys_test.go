package console

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"godwit/cmd/internal/shell"
)

func edited(t testing.TB, r io.Reader) string {
	b, err := io.ReadAll(&editKeys{r: r})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOnlyWholeKeysReachTheEditor(t *testing.T) {
	for in, want := range map[string]string{
		"vm list\r":                       "vm list\r",
		"gäß€😀\r":                         "gäß€😀\r",
		"\xff\xfea\xc3\r":                 "a\r",
		"\xc3(\xe2\x82x\r":                "(x\r",
		"a\x00\x04b\x7f":                  "ab\x7f",
		"a\x03b":                          "a\x05\x15b",
		"\x1b[A\x1b[3~\x1b[1;3C\x1bOP":    "\x1b[A\x1b[3~\x1b[1;3C\x1bOP",
		"\x1b[200~pasted\x1b[201~":        "pasted",
		"\x1b\rx":                         "\rx",
		"\x1b[12\rx":                      "\rx",
		"\x1b[12\x1b[Bx":                  "\x1b[Bx",
		"\x1b[" + strings.Repeat("1", 14): "",
		"\x1bxy":                          "y",
		"\x1b[@y":                         "y",
		"\x1b":                            "",
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "byte by byte": iotest.OneByteReader(strings.NewReader(in))} {
			if got := edited(t, r); got != want {
				t.Errorf("%q, %s: %q, want %q", in, name, got, want)
			}
		}
	}
}

func TestNoiseOnTheLineDoesNotEndTheConsole(t *testing.T) {
	for _, noise := range []string{
		"\x1b" + strings.Repeat("1", 1000), strings.Repeat("\xff", 1000), strings.Repeat("\x1b[", 1000), strings.Repeat("\xc3", 999),
		"\x1b[200~", "\x1b[200~\r\x1b[20", strings.Repeat("x", 5000), strings.Repeat("\x1b[D", 600) + "ä\xe2\x82",
	} {
		y, _ := start(t)
		go io.WriteString(y, noise+"\x03\rsay alive\r")
		y.expect(t, "said <alive>")
	}
}

func TestWhatComesFromElsewhereDoesNotSteerTheTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n\ttext": "plain\n\ttext", "ä€": "ä€", "a\x1b[2Jb": `a\x1b[2Jb`, "\xff\u009b": `\xff\xc2\x9b`, "\x7f\r": `\x7f\x0d`, "\ufffd": "\ufffd",
	} {
		if got := shell.Printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	y, c := start(t)
	c.Log("the guest says \x1b]0;owned\a")
	y.expect(t, `the guest says \x1b]0;owned\x07`)
}

// FuzzKeys types anything; the console must take a command after it.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{"say a\r", "\x1b[A\x1b[200~x\t", "\xff\xc3\x03", "sa\t\t\x1b[1;3D\x14\x0b\x17"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, keys []byte) {
		// One byte at a time and all at once must mean the same, and be whole keys of UTF-8.
		a, b := edited(t, bytes.NewReader(keys)), edited(t, iotest.OneByteReader(bytes.NewReader(keys)))
		if a != b || !utf8.ValidString(a) {
			t.Fatalf("%q, %q", a, b)
		}
		sh := shell.New()
		alive := make(chan bool, 1)
		sh.Add(&shell.Command{Name: "alive", Summary: "s", Example: "e", Run: func(*shell.Call) error {
			select {
			case alive <- true:
			default:
			}
			return nil
		}})
		c := New(struct {
			io.Reader
			io.Writer
		}{io.MultiReader(bytes.NewReader(keys), strings.NewReader("\x03\r\x03alive\r")), io.Discard}, sh)
		if len(keys) < maxSequence*100 { // the queue of keys is bounded
			c.Run(context.Background())
			select {
			case <-alive:
			default:
				t.Fatal("the console does not take commands any more")
			}
		}
	})
}
