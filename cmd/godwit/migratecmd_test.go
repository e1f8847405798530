package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/migrate"
	"godwit/vmm"
	"godwit/vmm/vcpu"
	"godwit/vmm/vmmtest"
)

// idle is a guest that does nothing.
func idle(v *vmmtest.VCPU, e *vcpu.Exit) error {
	e.Reason = vcpu.ExitHost
	v.Block(time.Millisecond)
	return nil
}

// stuckTerminal takes nothing more once it was to show word.
type stuckTerminal struct {
	word string
	free chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

func (s *stuckTerminal) Write(b []byte) (int, error) {
	if strings.Contains(string(b), s.word) {
		<-s.free
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

// A move shows how far it is. A terminal that takes no text, or a client that has hung, must not hold the guest up,
// least of all while it stands still.
func TestAStuckTerminalDoesNotHoldUpAMove(t *testing.T) {
	var n network
	a, b := n.add("a", idle, 0), n.add("b", idle, 0)
	a.must(t, "vm create web kernel=module:kernel mem=16M")
	a.must(t, "vm start web")
	out := &stuckTerminal{word: "stopping", free: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- a.do(context.Background(), out, nil, "vm migrate web b") }()
	within(t, "the guest runs on b", func() bool {
		vm, err := b.vms.Get("web")
		return err == nil && vm.Status() == vmm.Running
	})
	close(out.free)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s := out.out.String(); !strings.Contains(s, "stopping") || !strings.Contains(s, "round 0:") || !strings.Contains(s, "done") {
		t.Errorf("it showed %q", s)
	}
	b.must(t, "vm stop web force")
	b.must(t, "vm delete web")
	n.end(t)
}

// Whoever moves a machine that does not run hears that, and not that the other host can not be reached.
func TestOnlyARunningMachineIsMoved(t *testing.T) {
	var n network
	h := n.add("a", idle, 0)
	h.must(t, "vm create web kernel=module:kernel mem=16M")
	for line, want := range map[string]string{
		"vm migrate web nowhere": "vm web is stopped: only a running machine can be moved",
		"vm migrate db nowhere":  `no vm is called "db"; those here: web`,
	} {
		var out bytes.Buffer
		if err := h.do(context.Background(), &out, nil, line); err == nil || err.Error() != want || out.Len() != 0 {
			t.Errorf("%s: %v, %q", line, err, out.String())
		}
	}
	h.must(t, "vm delete web")
	n.end(t)
}

// A machine that never converges is stopped for as long as it takes, if nobody said otherwise. That must not pass in silence.
func TestADowntimeOverItsLimitIsTold(t *testing.T) {
	const limit = 300 * time.Millisecond
	for _, c := range []struct {
		foretold, stood time.Duration
		progress, text  bool // something is told
	}{
		{limit, limit, false, false},
		{limit / 2, limit + time.Millisecond, false, true},
		{17 * limit, 16 * limit, true, true},
	} {
		r := migrate.Report{State: "Stopping", Limit: limit, Estimate: c.foretold}
		var progress, text bytes.Buffer
		p := moveProgress{c: &shell.Call{Out: &progress}}
		p.show(r)
		r.State, r.Downtime.Total, r.Downtime.Verify = "Done", c.stood+time.Hour, time.Hour
		p.show(r)
		report{r}.Text(&text)
		if got := strings.Contains(progress.String(), "300ms allowed (diverge=giveup"); got != c.progress {
			t.Errorf("foretold %v: while it moves: %q", c.foretold, progress.String())
		}
		if got := strings.Contains(text.String(), "more than the 300ms allowed"); got != c.text {
			t.Errorf("foretold %v, stood for %v: %q", c.foretold, c.stood, text.String())
		}
	}
}
