package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"godwit/cmd/internal/shell"
)

// say runs a line on a host that can not run machines.
func say(line string) (string, error) {
	h := newHost()
	h.virtErr = errors.New("no machines here")
	close(h.settled)
	args, err := shell.Split(line)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = h.sh.Run(&shell.Call{Ctx: context.Background(), AtHost: true, Args: args, Out: &out})
	return out.String(), err
}

func TestACommandForOneMachineTakesOneName(t *testing.T) {
	for _, c := range []string{"start", "pause", "reset", "nmi", "delete", "show"} {
		if _, err := say("vm " + c + " a b"); !errors.Is(err, shell.ErrUsage) || !strings.Contains(err.Error(), `not also "b"`) {
			t.Errorf("vm %s a b: %v", c, err)
		}
		if _, err := say("vm " + c + " a"); err == nil || errors.Is(err, shell.ErrUsage) {
			t.Errorf("vm %s a: %v", c, err)
		}
	}
}

func TestAMachineThatCanNotBeIsACallOfTheWrongKind(t *testing.T) {
	var n network
	h := n.add("a", idle, 0)
	for line, want := range map[string]string{
		"vm create web": "kernel is missing",
		"vm create web kernel=module:kernel mem=1M":              "8 MiB to",
		"vm create web kernel=module:kernel cpus=0":              "1 to 64",
		"vm create w/b kernel=module:kernel":                     "letters",
		"vm create web kernel=module:kernel on_crash=x":          "stop or reset",
		"vm create web kernel=module:kernel mem=16M mem=16M x=1": "given twice",
	} {
		err := h.do(context.Background(), new(bytes.Buffer), nil, line)
		if !errors.Is(err, shell.ErrUsage) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "example: vm create") {
			t.Errorf("%s: %v", line, err)
		}
	}
	n.end(t)
}

func TestModelsAreListedWithWhatThisHostLacks(t *testing.T) {
	var n network
	h := n.add("a", idle, 0)
	out := h.must(t, "vm models")
	for _, want := range []string{"godwit-v1  a promise", "; the default\n", "\nhost ", "\nnative ", "godwit-v1+spec", "md_clear"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	var b bytes.Buffer
	(&modelList{Models: []modelInfo{{Name: "m", Problem: "this host lacks x"}}}).Text(&b)
	if !strings.Contains(b.String(), "not here: this host lacks x\n") {
		t.Error(b.String())
	}
	n.end(t)
}

func TestTabOffersWhatMayStandNext(t *testing.T) {
	h := newHost()
	for _, c := range []struct {
		line, want string
		options    []string
	}{
		{"vm create web ker", "vm create web kernel=", nil},
		{"vm create web kernel=h", "vm create web kernel=http://", nil},
		{"vm create web mem=512M kernel=x m", "vm create web mem=512M kernel=x module=", nil},
		{"vm create web on_crash=r", "vm create web on_crash=reset ", nil},
		{"vm create web cpu=g", "vm create web cpu=godwit-v", nil},
		{"vm create web cpu=godwit-v", "vm create web cpu=godwit-v", []string{"cpu=godwit-v1", "cpu=godwit-v2"}},
		{"vm stop web f", "vm stop web force ", nil},
		{"vm stop web w", "vm stop web wait=", nil},
		{"vm console web l", "vm console web log ", nil},
		{"migrate settle web re", "migrate settle web re", []string{"release", "resume"}},
		{"vm migrate web 192.0.2.11 d", "vm migrate web 192.0.2.11 d", []string{"diverge=giveup", "diverge=stop", "downtime="}},
	} {
		if got, options := h.sh.Complete(c.line); got != c.want || !slices.Equal(options, c.options) {
			t.Errorf("%q: %q %q; want %q %q", c.line, got, options, c.want, c.options)
		}
	}
}
