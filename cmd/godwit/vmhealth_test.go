package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/device/pvpanic"
	"godwit/vmm/vcpu"
	"godwit/vmm/vmmtest"
)

// The machine of a guest whose kernel panicked runs; list, show, and the console's watcher tell both.
func TestAPanickedGuestIsShownBesideItsStatus(t *testing.T) {
	var panics atomic.Bool
	var n network
	h := n.add("a", func(v *vmmtest.VCPU, e *vcpu.Exit) error {
		if panics.CompareAndSwap(true, false) {
			return vmmtest.Out(v, e, pvpanic.Base, 1)
		}
		e.Reason = vcpu.ExitHost
		if v.Block(time.Millisecond) {
			e.Reason = vcpu.ExitKicked
		}
		return nil
	}, 0)
	health := func() any {
		var l []map[string]any
		if err := json.Unmarshal([]byte(h.must(t, "vm list -json")), &l); err != nil || len(l) != 1 {
			t.Fatalf("%v: %v", err, l)
		}
		if s := l[0]["status"]; s != "running" && s != "stopped" {
			t.Errorf("the status is %v", s)
		}
		return l[0]["health"]
	}
	h.must(t, "vm create web kernel=module:kernel mem=16M")
	if x := health(); x != nil {
		t.Errorf("a stopped machine's health: %v", x)
	}
	h.must(t, "vm start web")
	if x := health(); x != "ok" {
		t.Errorf("at first: %v", x)
	}
	leave, out, done := make(keysUntil), new(screen), make(chan error, 1)
	go func() { done <- h.do(context.Background(), out, leave, "vm console web") }()
	within(t, "the console", func() bool { return out.shows("^] returns") })
	panics.Store(true)
	within(t, "a panic", func() bool { return health() == "panicked" })
	within(t, "a word on the console", func() bool { return out.shows("[web runs a kernel that panicked") })
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !out.shows("back on the host; vm web is running, panicked ") {
		t.Error("back on the host, the health is not told")
	}
	for _, c := range []string{"vm list", "vm show web"} {
		if s := h.must(t, c); !strings.Contains(s, "running, panicked ") {
			t.Errorf("%s:\n%s", c, s)
		}
	}
	h.must(t, "vm stop web force")
	h.must(t, "vm delete web")
	n.end(t)
}
