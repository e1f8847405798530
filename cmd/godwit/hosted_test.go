package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/migrate"
	"godwit/migrate/vmguest"
	"godwit/vmm"
	"godwit/vmm/vmmtest"
)

// hosted is a host on Linux: its commands are the real ones, its guests Go functions.
type hosted struct {
	*host
	machines *vmmtest.Host
}

// network joins hosted hosts by name.
type network struct {
	mu    sync.Mutex
	hosts map[string]*hosted
	wrap  func(net.Conn) net.Conn // what lies between a source and a target
	all   sync.WaitGroup
}

// patienceOfHosts is how long a silent peer is borne.
const patienceOfHosts = 1 * time.Second

func (n *network) dial(_ context.Context, address string) (net.Conn, error) {
	name, _, _ := net.SplitHostPort(address)
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[name]
	if to == nil {
		return nil, errors.New("no route to host")
	}
	a, b := net.Pipe()
	n.all.Add(1)
	go func() { defer n.all.Done(); to.mover.ServeConn(b) }()
	if n.wrap != nil {
		return n.wrap(a), nil
	}
	return a, nil
}

func (n *network) add(name string, p vmmtest.Program, memory uint64) *hosted {
	h := &hosted{newHost(), vmmtest.New(p, memory)}
	h.cfg.Name = name
	h.open = func(*shell.Call, string) ([]byte, error) { return vmmtest.Kernel(), nil }
	h.machines.File = func(context.Context, string) ([]byte, error) { return vmmtest.Kernel(), nil }
	h.backend, h.vms = h.machines.Backend, vmm.NewRegistry(h.machines.Host)
	h.mover = migrate.NewManager(migrate.Config{
		Timing: migrate.DefaultTiming.WithPatience(patienceOfHosts), Target: &vmguest.Target{Registry: h.vms}, Find: vmguest.Find(h.vms), Dial: n.dial,
	})
	close(h.settled)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[string]*hosted{}
	}
	n.hosts[name] = h
	return h
}

// end closes all hosts, which have no machine any more, and checks that nothing is left of those they had.
func (n *network) end(t *testing.T) {
	t.Helper()
	for _, h := range n.hosts {
		h.mover.Close()
	}
	n.all.Wait()
	for name, h := range n.hosts {
		if s, v, b := h.machines.Left(); s != 0 || v != 0 || b != 0 {
			t.Errorf("left behind on %s: %d spaces, %d VCPUs, %d bytes; %d machines", name, s, v, b, len(h.vms.List()))
		}
	}
}

// do runs a command as a console does, with its output in out.
func (h *hosted) do(ctx context.Context, out io.Writer, keys io.Reader, line string) error {
	c := &shell.Call{Ctx: ctx, AtHost: true, Args: strings.Fields(line), Out: out}
	if keys != nil {
		c.Input, c.Raw = keys, func(bool) {}
	}
	return h.sh.Run(c)
}

// must is do that succeeds.
func (h *hosted) must(t *testing.T, line string) string {
	t.Helper()
	var out bytes.Buffer
	if err := h.do(context.Background(), &out, nil, line); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return out.String()
}

func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 6000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within a minute: %s", what)
}
