package scenarios

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

// crash is one way in which a host's own code can fail, and what its report must hold.
type crash struct {
	kind string
	want []string // regular expressions
}

// Every report has registers, names of the functions on the stack, and the log's last lines.
var (
	registers = `(?m)^  rax [0-9a-f]{16}  rbx .*\n(?s:.*)rip [0-9a-f]{16}  flg [0-9a-f]{16}`
	lastWords = `(?m)^last lines of the log.*\n(?s:.*)crash: KIND, as the operator wished`
	crashes   = []crash{
		{"nil", []string{`panic: runtime error: invalid memory address or nil pointer dereference`, `page fault at address 0000000000000000`, registers, `selftest\.init\.func\d+ .*selftest/crash\.go:\d+`, lastWords}},
		{"wild", []string{`fatal error: fault`, `page fault at address 0000123456789000`, registers, `selftest\.init\.func\d+ .*selftest/crash\.go:\d+`, lastWords}},
		{"text", []string{`fatal error: fault`, `page fault at address`, registers, `selftest\.init\.func\d+ .*selftest/crash\.go:\d+`, lastWords}},
		// The next two the program finds by itself: there is no exception, so no registers but those of Go's trace.
		{"divide", []string{`panic: runtime error: integer divide by zero`, `goroutine \d+ .*running`, `selftest\.init\.func\d+\(`, `selftest/crash\.go:\d+`, lastWords}},
		{"stack", []string{`fatal error: stack overflow`, `selftest\.deep\(`, `selftest/crash\.go:\d+`, `sp=0x[0-9a-f]+ pc=0x[0-9a-f]+`, lastWords}},
		// Whoever touches the last page is reported: the eater, or the collector at its work.
		{"memory", []string{`godwit: fatal: out of memory: .*Go heap, which has \d+ MiB`, registers, `(selftest\.eat  .*selftest/crash|runtime\.\S+  runtime/\w+)\.go:\d+`, lastWords}},
		{"kernel", []string{`godwit: fatal: page fault at address 0000000000000010 in the kernel on CPU \d`, registers, `selftest\.wildInKernel  .*selftest/crash\.go:\d+`, lastWords}},
		{"kernelstack", []string{`godwit: fatal: kernel stack overflow`, registers, `selftest\.deep  .*selftest/crash\.go:\d+`, lastWords}},
	}
)

func crashScenario() *rig.Scenario {
	return &rig.Scenario{
		Name: "crash", About: "failures of the host's own code end in a readable report, and it reboots or halts as configured", Limit: 6 * time.Minute,
		Skip: notOnBochs, Run: crashAll,
	}
}

func crashAll(ctx context.Context, t *rig.T) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", CPUs: 2, Boot: image(t, "ip=none"), Reboots: true})
	if err != nil {
		return err
	}
	for _, c := range crashes {
		if err := crashOnce(ctx, h, c, "rebooting .*"); err != nil {
			return err
		}
		if err := h.AwaitReady(ctx); err != nil {
			return fmt.Errorf("after crash %s: %w", c.kind, err)
		}
	}
	t.Measure("kinds", "%d", len(crashes))
	// The option may stand in the config module as well.
	conf, err := writeFile(t, "godwit.conf", "panic=halt\n")
	if err != nil {
		return err
	}
	h, err = t.Host(ctx, machine.Spec{Name: "halting", Boot: image(t, "ip=none", conf), Reboots: true})
	if err != nil {
		return err
	}
	if err := crashOnce(ctx, h, crashes[0], `halted \(panic=halt\)`); err != nil {
		return err
	}
	return silent(ctx, h)
}

// silent is an error if a host that has halted prints anything.
func silent(ctx context.Context, h *rig.Host) error {
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	if after := h.Rest(); after != "" {
		return fmt.Errorf("%s goes on after it halted: %q", h.Name, after)
	}
	return nil
}

// crashOnce makes the host crash and reads its report, with the line that tells how it ends.
func crashOnce(ctx context.Context, h *rig.Host, c crash, end string) error {
	h.Discard()
	if err := h.Send("selftest crash " + c.kind + "\r"); err != nil {
		return err
	}
	m, err := h.Await(ctx, "the end of the report of crash "+c.kind, regexp.MustCompile(`(?m)^godwit: `+end+`\n`), time.Minute)
	if err != nil {
		return err
	}
	for _, want := range c.want {
		want = strings.ReplaceAll(want, "KIND", c.kind)
		if !regexp.MustCompile(want).MatchString(m.Before) {
			return fmt.Errorf("crash %s: the report has nothing like %q\n%s", c.kind, want, m.Before)
		}
	}
	return nil
}
