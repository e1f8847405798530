package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sort"
	"strconv"
	"time"

	"godwit/cmd/internal/control"
	"godwit/cmd/internal/shell"
	"godwit/migrate"
	"godwit/migrate/vmguest"
	"godwit/vnet/hostnet"
)

// startNet brings up the network and what is served on it.
func (h *host) startNet(ctx context.Context) {
	if h.cfg.Net.Mode == "none" {
		return
	}
	c := hostnet.Config{Hostname: h.cfg.Name, Log: func(l string) { h.logf("%s", l) }}
	if h.cfg.Net.Mode == "static" {
		c.Interfaces = []hostnet.InterfaceConfig{{Match: "net0", Address: h.cfg.Net.Address, Gateway: h.cfg.Net.Gateway}}
	}
	h.net = hostnet.Start(c)
	if h.vms != nil {
		h.mover = migrate.NewManager(migrate.Config{
			Timing: migrate.DefaultTiming.WithPatience(time.Duration(h.cfg.Patience) * time.Second),
			Target: &vmguest.Target{Registry: h.vms},
			Find:   vmguest.Find(h.vms),
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				return h.net.DialContext(ctx, "tcp", address)
			},
		})
		if h.cfg.Migrate != 0 {
			go h.serve(ctx, "migrations", h.cfg.Migrate, func(l net.Listener) error { return h.mover.Serve(l) })
		}
	}
	if h.cfg.Control != 0 {
		s := &control.Server{Host: h.cfg.Name, Shell: h.sh, Log: h.logf}
		go h.serve(ctx, "commands", h.cfg.Control, func(l net.Listener) error { return s.Serve(ctx, l) })
	}
}

// serve listens, again and again should it fail.
func (h *host) serve(ctx context.Context, what string, port uint16, f func(net.Listener) error) {
	<-h.settled
	for ctx.Err() == nil {
		l, err := h.net.Listen("tcp", ":"+strconv.Itoa(int(port)))
		if err == nil {
			h.logf("taking %s on TCP port %d, without authentication", what, port)
			err = f(l)
			l.Close()
		}
		h.logf("%s: %v; trying again in 5 s", what, err)
		time.Sleep(5 * time.Second)
	}
}

func (h *host) netCommands() []*shell.Command {
	return []*shell.Command{
		{Name: "net", Summary: "show the host's network interfaces, addresses and counters", Example: "net -json", Shows: true, Run: h.cmdNet},
		{Name: "ping", Args: "HOST [COUNT]", Summary: "ask a host for an echo (default: 4 times)", Example: "ping 192.0.2.1", Shows: true, Run: h.cmdPing},
	}
}

type netStatus struct{ hostnet.Status }

func (h *host) cmdNet(c *shell.Call) error {
	if h.net == nil {
		return fmt.Errorf("the network is off (ip=none on the command line)")
	}
	return c.Show(netStatus{h.net.Status()})
}

func (s netStatus) Text(w io.Writer) {
	if s.Problem != "" {
		fmt.Fprintln(w, s.Problem)
	}
	for _, i := range s.Interfaces {
		fmt.Fprintf(w, "%s  %s\n", i.Name, i.Device)
		t := shell.Table{}
		t.Row("  MAC", i.MAC)
		t.Row("  link", i.Link)
		addr := i.Address
		if addr == "" {
			addr = "none"
			if i.Problem != "" {
				addr += ": " + i.Problem
			}
		}
		t.Row("  address", addr+" ("+i.Method+")")
		if i.Conflict != "" {
			t.Row("  CONFLICT", i.Conflict)
		}
		if i.Gateway != "" {
			t.Row("  gateway", i.Gateway)
		}
		if i.LeaseEnds != nil {
			t.Row("  lease", fmt.Sprintf("from %s until %s", i.Server, i.LeaseEnds.UTC().Format(time.RFC3339)))
		}
		names := make([]string, 0, len(i.Counters))
		for n := range i.Counters {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			if i.Counters[n] != 0 {
				t.Row("  "+n, i.Counters[n])
			}
		}
		t.Text(w)
	}
	t := shell.Table{}
	t.Row("packets received", s.Stack.PacketsReceived)
	t.Row("packets sent", s.Stack.PacketsSent)
	t.Row("packets dropped", s.Stack.PacketsDropped)
	t.Row("TCP connections", s.Stack.TCPConnections)
	t.Row("TCP retransmissions", s.Stack.TCPRetransmissions)
	t.Text(w)
}

func (h *host) cmdPing(c *shell.Call) error {
	n := 4
	if len(c.Args) == 2 {
		var err error
		if n, err = strconv.Atoi(c.Args[1]); err != nil || n < 1 {
			return shell.Usagef("%q is no count", c.Args[1])
		}
	} else if len(c.Args) != 1 {
		return shell.Usagef("a host is wanted")
	}
	if h.net == nil {
		return fmt.Errorf("the network is off (ip=none on the command line)")
	}
	r := &pingResult{Host: c.Args[0], Replies: []float64{}}
	for i := range n {
		if i > 0 {
			select {
			case <-c.Ctx.Done():
				return c.Ctx.Err()
			case <-time.After(time.Second):
			}
		}
		ctx, cancel := context.WithTimeout(c.Ctx, pingWait)
		rtt, err := h.net.Ping(ctx, r.Host)
		cancel()
		r.Sent++
		switch {
		case err == nil:
			ms := float64(rtt.Microseconds()) / 1e3
			r.Replies = append(r.Replies, ms)
			c.Printf("%s answered after %.3f ms\n", r.Host, ms)
		case c.Ctx.Err() != nil:
			return c.Ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			c.Printf("%s: no answer within %v\n", r.Host, pingWait)
		default:
			return err // the next would fare no better
		}
	}
	if err := c.Show(r); err != nil {
		return err
	}
	if len(r.Replies) == 0 {
		return fmt.Errorf("%s: none of %d echo requests was answered", r.Host, r.Sent)
	}
	return nil
}

const pingWait = 3 * time.Second

type pingResult struct {
	Host    string    `json:"host"`
	Sent    int       `json:"sent"`
	Replies []float64 `json:"replies_ms"`
}

func (r *pingResult) Text(w io.Writer) {
	fmt.Fprintf(w, "%d of %d echo requests were answered\n", len(r.Replies), r.Sent)
}
