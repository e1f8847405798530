package main

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"godwit/cmd/internal/jsonform"
	"godwit/cmd/internal/shell"
	"godwit/kernel/selftest"
	"godwit/vmm/device/uart"
	"godwit/vmm/vcpu"
	"godwit/vmm/vmmtest"
	"godwit/vnet/hostnet"
)

// TestEveryJSONHasTheSameForm holds all that commands show with -json to what docs/console.md promises. What needs a real
// host is given a result to show; a command that is in neither list fails the test.
func TestEveryJSONHasTheSameForm(t *testing.T) {
	var n network
	a, b := n.add("a", chatty(), 0), n.add("b", idle, 0)
	ends := time.Now()
	results := map[string][]shell.Result{
		"net": {netStatus{}, netStatus{hostnet.Status{Interfaces: []hostnet.InterfaceStatus{{}, {
			Name: "net0", MAC: "52:54:00:12:34:56", MTU: 1500, DNS: []netip.Addr{{}}, LeaseEnds: &ends, Server: "192.0.2.1",
			Counters: map[string]uint64{"rx_frames": 1},
		}}}}},
		"ping":            {&pingResult{}, &pingResult{Replies: []float64{1.5}}},
		"bench":           {&benchResults{}, &benchResults{Results: []benchResult{{}}}},
		"selftest vcpu":   {&vcpuResults{}, &vcpuResults{Tests: []vcpuResult{{Error: "x", Skipped: "y"}}}},
		"selftest kernel": {kernelResults{&selftest.Report{}}, kernelResults{&selftest.Report{Results: []selftest.Result{{Notes: "x", First: "y"}}}}},
		"log":             {logLines{}, logLines{{1.5, "x"}}},
	}
	lines := map[string][]string{
		"help":             {"help", "help vm", "help vm create"},
		"host":             {"host"},
		"options":          {"options"},
		"vm list":          {"vm list"},
		"vm models":        {"vm models"},
		"vm show":          {"vm show web"},
		"vm migrate":       {"vm migrate web b verify=yes"},
		"migrate list":     {"migrate list"},
		"selftest migrate": {"selftest migrate web"},
		"log":              {"log"},
	}
	check := func(what string, out []byte) {
		t.Helper()
		if err := jsonform.Check(out); err != nil {
			t.Errorf("%s: %v in\n%s", what, err, out)
		}
	}
	shown := map[string]bool{}
	run := func(h *hosted, name string) {
		t.Helper()
		for _, line := range lines[name] {
			var out bytes.Buffer
			if err := h.do(context.Background(), &out, nil, line+" -json"); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			check(line, out.Bytes())
			shown[name] = true
		}
	}
	run(a, "vm list") // none
	run(a, "migrate list")
	a.must(t, "vm create web kernel=module:kernel mem=16M")
	run(a, "vm show") // never started
	a.must(t, "vm start web")
	vm, _ := a.vms.Get("web")
	within(t, "exits of all kinds", func() bool { return vm.Info().Console > 0 })
	for name, rs := range results {
		for _, r := range rs {
			var out bytes.Buffer
			if err := (&shell.Call{JSON: true, Out: &out}).Show(r); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			check(name, out.Bytes())
		}
		shown[name] = true
	}
	for _, name := range []string{"help", "host", "options", "log", "vm list", "vm models", "vm show", "selftest migrate", "vm migrate"} {
		run(a, name)
	}
	run(a, "migrate list")
	run(b, "migrate list")
	run(b, "vm list")
	for _, c := range a.sh.Commands() {
		if c.Shows && !shown[c.Name] {
			t.Errorf("%s -json is not looked at here", c.Name)
		}
	}
	// And the exits' names, which are keys.
	for r := range vcpu.NumReasons {
		check(r.String(), []byte(`{"`+r.String()+`": 1}`))
	}
	b.must(t, "vm stop web force")
	b.must(t, "vm delete web")
	n.end(t)
}

// chatty is a guest that prints a letter now and then.
func chatty() vmmtest.Program {
	return func(v *vmmtest.VCPU, e *vcpu.Exit) error {
		e.Reason = vcpu.ExitHost
		v.Block(time.Millisecond)
		return vmmtest.Out(v, e, uart.COM1, 'a')
	}
}

// Every command is told of in one line and has an example that begins with its name; usage errors show both.
func TestEveryCommandHasAnExample(t *testing.T) {
	var n network
	h := n.add("a", idle, 0)
	for _, c := range h.sh.Commands() {
		if !strings.HasPrefix(c.Example, c.Name) || strings.Contains(c.Summary, "\n") || strings.HasSuffix(c.Summary, ".") {
			t.Errorf("%s: summary %q, example %q", c.Name, c.Summary, c.Example)
		}
		out := h.must(t, "help "+c.Name)
		if words := strings.Join(strings.Fields(out), " "); !strings.Contains(out, c.Example) || !strings.Contains(words, c.Summary) {
			t.Errorf("help %s says %q", c.Name, out)
		}
		for l := range strings.Lines(out) {
			if len(l) > 80 && !strings.Contains(l, c.Example) {
				t.Errorf("help %s: %q is too wide for a serial terminal", c.Name, l)
			}
		}
		err := h.do(context.Background(), new(bytes.Buffer), nil, c.Name+" nonsense= and more of it")
		if c.Name != "vm create" && (err == nil || !strings.Contains(err.Error(), c.Example) && !strings.Contains(err.Error(), "help")) {
			t.Errorf("%s called wrongly says %v", c.Name, err)
		}
	}
	n.end(t)
}

// Two benches at once would measure each other, and leave the garbage collector switched off.
func TestABenchAtATime(t *testing.T) {
	var n network
	h := n.add("a", idle, 0)
	h.measuring.Store(true)
	if err := h.do(context.Background(), new(bytes.Buffer), nil, "bench"); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second bench: %v", err)
	}
	n.end(t)
}
