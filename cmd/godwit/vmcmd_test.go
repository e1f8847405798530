package main

import (
	"bytes"
	"context"
	"errors"
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
