package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"godwit/cmd/internal/shell"
)

// screen is a terminal that tests look at.
type screen struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}
func (s *screen) shows(x string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.out.String(), x)
}

// keysUntil is a keyboard on which nothing is typed until ^] after leave is closed.
type keysUntil chan struct{}

func (k keysUntil) Read(p []byte) (int, error) {
	<-k
	p[0] = escape
	return 1, nil
}

// Whoever watches a machine's console sees that it was stopped, or that it has gone to another host, and is not left in
// front of a screen on which nothing will ever happen.
func TestAConsoleTellsWhatBecomesOfItsMachine(t *testing.T) {
	var n network
	a, b := n.add("a", chatty(), 0), n.add("b", chatty(), 0)
	a.must(t, "vm create web kernel=module:kernel mem=16M")
	leave, out, done := make(keysUntil), new(screen), make(chan error, 1)
	go func() { done <- a.do(context.Background(), out, leave, "vm console web") }()
	within(t, "the console", func() bool { return out.shows("^] returns") })
	a.must(t, "vm start web")
	within(t, "the guest's letters", func() bool { return out.shows("aa") })
	a.must(t, "vm pause web")
	within(t, "the pause", func() bool { return out.shows("[web is paused]") })
	a.must(t, "vm start web")
	a.must(t, "vm migrate web b")
	within(t, "the move", func() bool { return out.shows("[web has left this host") })
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.must(t, "vm stop web force")
	b.must(t, "vm delete web")
	n.end(t)
}

// What another host says of a machine that it sends does not steer the terminal of whoever lists the machines.
func TestAMachineFromElsewhereDoesNotSteerTheTerminal(t *testing.T) {
	var n network
	h := n.add("a", idle, 0)
	h.must(t, "vm create web kernel=module:kernel mem=16M")
	vm, _ := h.vms.Get("web")
	spec := string(vm.Spec())
	h.must(t, "vm delete web")
	for _, bad := range []string{`\u001b[2J`, `\n`, `\u009b2J`} {
		if vm, err := h.vms.Receive("web", []byte(strings.Replace(spec, "module:kernel", "module:kernel"+bad, 1))); err == nil {
			t.Errorf("a kernel with %s in its name was taken", bad)
			vm.Abandon()
			h.vms.Forget(vm)
		}
	}
	var out bytes.Buffer
	if err := (&shell.Call{Out: &out}).Show(logLines{{1, "\x1b[2J"}}); err != nil || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%v, %q", err, out.String())
	}
	n.end(t)
}
