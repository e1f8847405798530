package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

type answer struct {
	Name string `json:"name"`
}

func (a answer) Text(w io.Writer) { fmt.Fprintln(w, "name:", a.Name) }

func sample() *Shell {
	s := New()
	s.Add(
		&Command{Name: "vm show", Args: "NAME", Summary: "show one", Example: "vm show a", Shows: true,
			Complete: func([]string, string) []string { return []string{"alpha", "alps"} },
			Run: func(c *Call) error {
				if len(c.Args) != 1 {
					return Usagef("one name is wanted, %d given", len(c.Args))
				}
				return c.Show(answer{c.Args[0]})
			}},
		&Command{Name: "vm start", Args: "NAME", Summary: "start one", Example: "vm start a", Run: func(*Call) error { return errors.New("no") }},
		&Command{Name: "stop", Summary: "stop", Example: "stop", Run: func(c *Call) error { return fmt.Errorf("it went on until %w", c.Ctx.Err()) }},
		&Command{Name: "halt", Summary: "halt", Example: "halt", Run: func(*Call) error { return fmt.Errorf("halt: cancelled: %w by ^C", context.Canceled) }},
		&Command{Name: "end", Summary: "end it all, " + strings.Repeat("and all ", 20), Example: "end", AtHost: true,
			Args: strings.Repeat("[word=VALUE] ", 12) + "[last=VALUE]", Detail: strings.Repeat("all of it, ", 20) + "at once.\nAnd more.", Run: func(c *Call) error { fmt.Fprintln(c.Out, "ended"); return nil }},
		&Command{Name: "crash", Summary: "crash", Example: "crash", Run: func(*Call) error { var m map[string]int; m["a"] = 1; return nil }},
	)
	return s
}

func run(s *Shell, line string) (string, error) {
	var b bytes.Buffer
	args, err := Split(line)
	if err == nil {
		ctx, cancel := context.WithCancel(context.Background())
		if line == "stop" {
			cancel()
		}
		err = s.Run(&Call{Ctx: ctx, Args: args, Out: &b})
		cancel()
	}
	return b.String(), err
}

func TestCommandsAnswerAsTextAndJSON(t *testing.T) {
	s := sample()
	for _, c := range []struct{ line, out, err string }{
		{"vm show a", "name: a\n", ""},
		{"vm -json show a", "", "vm needs one of: show, start"},
		{"vm show -json a", "{\n  \"name\": \"a\"\n}\n", ""},
		{"vm show", "", "usage: vm show NAME [-json]\n  example: vm show a"},
		{"vm start -json a", "", "takes no -json"},
		{"stop now", "", "stop: it takes no argument\n  usage: stop\n"},
		{"stop", "", "it went on until cancelled"},
		{"halt", "", "halt: cancelled by ^C"},
		{"vm shw a", "", `unknown command "vm shw"; vm needs one of: show, start`},
		{"help vm shw", "", `unknown command "vm shw"; vm needs one of: show, start`},
		{"vm", "", "vm needs one of: show, start"},
		{"nonsense", "", `unknown command "nonsense"`},
		{"", "", "no command"},
		{"crash", "", "internal error"},
		{`vm show "a`, "", "quote"},
	} {
		out, err := run(s, c.line)
		if out != c.out || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v; want %q, %q", c.line, out, err, c.out, c.err)
		}
	}
}

func TestHelpNamesEveryCommandWithAnExample(t *testing.T) {
	s := sample()
	out, err := run(s, "help")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.commands {
		if !strings.Contains(out, "\n"+c.Name+" ") && !strings.HasPrefix(out, c.Name+" ") || !strings.Contains(out, c.Example) {
			t.Errorf("help lacks %s", c.Name)
		}
		for _, word := range strings.Fields(c.Summary) {
			if !strings.Contains(out, word) {
				t.Errorf("help on %s lacks %q", c.Name, word)
			}
		}
	}
	for l := range strings.Lines(out) {
		if len(l) > 80 { // with its end
			t.Errorf("%q is too wide for a serial terminal", l)
		}
	}
	if out, _ := run(s, "help end"); strings.Count(out, "\n") < 5 || strings.Contains(out, "\n\n") {
		t.Errorf("help end: %s", out)
	} else {
		for l := range strings.Lines(out) {
			if len(l) > 80 {
				t.Errorf("%q is too wide for a serial terminal", l)
			}
		}
	}
	if out, _ := run(s, "help vm"); !strings.Contains(out, "vm show NAME") || !strings.Contains(out, "vm start NAME") {
		t.Errorf("help vm: %s", out)
	}
}

func TestHelpAsJSON(t *testing.T) {
	for line, want := range map[string]int{"help -json": len(sample().commands), "help vm -json": 2, "help vm show -json": 1, "vm show -json -h": 1} {
		out, err := run(sample(), line)
		var l []struct{ Name, Usage, Summary, Example string }
		if err != nil || json.Unmarshal([]byte(out), &l) != nil || len(l) != want {
			t.Errorf("%s: %d commands, %v: %s", line, len(l), err, out)
		}
		for _, c := range l {
			if c.Name == "" || c.Usage == "" || c.Summary == "" || c.Example == "" {
				t.Errorf("%s: %+v", line, c)
			}
		}
	}
}

// writes counts calls of Write.
type writes int

func (w *writes) Write(b []byte) (int, error) { *w++; return len(b), nil }

func TestAResultIsPrintedInOnePiece(t *testing.T) {
	var w writes
	if err := sample().Run(&Call{Ctx: context.Background(), Args: []string{"help"}, Out: &w}); err != nil || w != 1 {
		t.Errorf("%d pieces, %v: the host's log would come between", w, err)
	}
}

func TestKeysThatWereReadTooFarAreReadAgain(t *testing.T) {
	k := NewKeys()
	k.Write([]byte("abcd"))
	b := make([]byte, 3)
	k.Read(b)
	k.Unread(b[1:])
	k.Write([]byte("e"))
	b = make([]byte, 9)
	if n, _ := k.Read(b); string(b[:n]) != "bcde" {
		t.Errorf("%q", b[:n])
	}
}

func TestSomeCommandsAreOnlyForTheHostsOwnConsole(t *testing.T) {
	s := sample()
	if out, err := run(s, "end"); err == nil || out != "" || !strings.Contains(err.Error(), "serial console") {
		t.Errorf("over a network: %q, %v", out, err)
	}
	var b bytes.Buffer
	if err := s.Run(&Call{Ctx: context.Background(), AtHost: true, Args: []string{"end"}, Out: &b}); err != nil || b.String() != "ended\n" {
		t.Errorf("at the host: %q, %v", b.String(), err)
	}
	if out, _ := run(s, "help end"); !strings.Contains(out, "serial console") {
		t.Errorf("help: %s", out)
	}
}

func TestCompletion(t *testing.T) {
	s := sample()
	for _, c := range []struct {
		line, want string
		opts       []string
	}{
		{"v", "vm ", nil},
		{"vm s", "vm s", []string{"show", "start"}},
		{"vm sh", "vm show ", nil},
		{"vm show ", "vm show alp", nil},
		{"vm show alp", "vm show alp", []string{"alpha", "alps"}},
		{"vm show -", "vm show -json ", nil},
		{"zzz", "zzz", nil},
		{"help v", "help vm ", nil},
		{"help vm ", "help vm s", nil},
		{"help vm s", "help vm s", []string{"show", "start"}},
		{"help vm sh", "help vm show ", nil},
		{"help vm show ", "help vm show ", nil},
		{"", "", []string{"crash", "end", "halt", "help", "stop", "vm"}},
	} {
		got, opts := s.Complete(c.line)
		if got != c.want || !reflect.DeepEqual(opts, c.opts) {
			t.Errorf("%q: %q %v; want %q %v", c.line, got, opts, c.want, c.opts)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
	}{
		{`a  b`, []string{"a", "b"}},
		{`cmdline="console=ttyS0 quiet" x`, []string{"cmdline=console=ttyS0 quiet", "x"}},
		{`'a "b' "c 'd" "e\"f\\g\h"`, []string{`a "b`, `c 'd`, `e"f\g\h`}},
		{`"" x`, []string{"", "x"}},
	} {
		if got, err := Split(c.line); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.line, got, err, c.want)
		}
	}
}

func TestWordsBeforeAnOpenQuote(t *testing.T) {
	if got, err := Split(`a b="c d" 'e f`); err == nil || !reflect.DeepEqual(got, []string{"a", "b=c d"}) {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(`vm create a cmdline="x y" 'z'`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		var q []string
		for _, w := range words {
			q = append(q, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w)+`"`)
		}
		again, err := Split(strings.Join(q, " "))
		if err != nil || len(again) != len(words) || len(words) > 0 && !reflect.DeepEqual(again, words) {
			t.Fatalf("%q: %q, quoted again: %q, %v", line, words, again, err)
		}
	})
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"512M", "2G", "64KiB", "1 TB", "-1", "9999999999T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseBytes(s)
		if err == nil && (n > 1<<62 || s == "" || s[0] < '0' || s[0] > '9') {
			t.Fatalf("%q is %d", s, n)
		}
	})
}

func FuzzComplete(f *testing.F) {
	f.Add("vm sh")
	s := sample()
	f.Fuzz(func(t *testing.T, line string) { s.Complete(line) })
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]uint64{"512M": 512 << 20, "2G": 2 << 30, "64KiB": 64 << 10, "1 TB": 1 << 40, "7": 7, "0": 0} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "M", "-1", "1X", "99999999999999999999", "9999999999T", "1.5G"} {
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("%q: %d, no error", in, got)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 512 << 20: "512 MiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestAPasteThatIsNoCommandIsNotPrintedAgain(t *testing.T) {
	s := New()
	for _, args := range [][]string{{strings.Repeat("\u00e9", 5000)}, {"help", strings.Repeat("x", 5000)}} {
		if err := s.Run(&Call{Ctx: context.Background(), Args: args, Out: io.Discard}); err == nil || len(err.Error()) > 200 || !utf8.ValidString(err.Error()) {
			t.Errorf("%v", err)
		}
	}
}
