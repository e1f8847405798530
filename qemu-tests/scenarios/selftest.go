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

func selftests() []*rig.Scenario {
	return []*rig.Scenario{
		{
			Name: "conformance", About: "the vCPU suite: every exit kind, event, page-table operation and state, the same on each vendor", Limit: 6 * time.Minute,
			Run: conformance,
		},
		{
			Name: "selftest", About: "the kernel under everything at once on 4 processors (Bochs: 2): garbage collection, timers, crypto, vectors, faults, shoot-downs",
			Cores: 2, Limit: 15 * time.Minute,
			Run: func(ctx context.Context, t *rig.T) error {
				if _, ok := t.Ground.(machine.Bochs); ok {
					return kernelSelftest(ctx, t, 2, 5*time.Second)
				}
				return kernelSelftest(ctx, t, 4, 15*time.Second)
			},
		},
		{
			Name: "selftest-8cpus", About: "the same on 8 processors",
			Skip: onQEMU, Cores: 2, Limit: 15 * time.Minute,
			Run: func(ctx context.Context, t *rig.T) error { return kernelSelftest(ctx, t, 8, 10*time.Second) },
		},
		crashScenario(),
	}
}

func kernelSelftest(ctx context.Context, t *rig.T, cpus int, duration time.Duration) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", CPUs: cpus, MemoryMiB: 256 * cpus, Boot: image(t, "ip=none")})
	if err != nil {
		return err
	}
	// It reports every few seconds, but its last rounds may take long on a busy computer: it gives them up by itself.
	text, err := h.Do(ctx, fmt.Sprintf("selftest kernel %d", int(duration.Seconds())), 6*time.Minute)
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, text)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	t.Measure("self-test", "%s", lines[len(lines)-1])
	for _, l := range lines {
		if name, late, ok := strings.Cut(l, "late by "); ok && len(strings.Fields(name)) > 0 {
			t.Measure(strings.Fields(name)[0], "late by %s", late)
		}
	}
	return nil
}

func conformance(ctx context.Context, t *rig.T) error {
	cpus := 2
	if _, ok := t.Ground.(machine.Bochs); !ok {
		cpus = 3 // on TCG guests have all but the first: two processors of a guest run at once
	}
	h, err := t.Host(ctx, machine.Spec{Name: "host", CPUs: cpus, Boot: image(t, "ip=none")})
	if err != nil {
		return err
	}
	command := "selftest vcpu"
	if b, ok := t.Ground.(machine.Bochs); ok && b.Extension == machine.SVM {
		command += ` "!` + strings.Join(bochsSVMCannot, ",") + `"`
		t.Measure("left out, because Bochs's SVM can not run them", "tests named %s", strings.Join(bochsSVMCannot, ", "))
	}
	text, err := h.Do(ctx, command, 3*time.Minute)
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, text)
	}
	m := suiteResult.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("the suite gave no result:\n%s", text)
	}
	t.Measure("suite", "%s", m[1])
	if m[2] == "0" || m[3] != "0" {
		return fmt.Errorf("%s:\n%s", m[1], text)
	}
	return nil
}

// bochsSVMCannot names tests, by parts of their names, that Bochs 2.7's SVM can not run: a guest's triple fault ends the
// emulator, a guest that spins with interrupts off is never interrupted, and EXITINTINFO keeps what it said of an earlier
// event when INT n meets a task gate.
var bochsSVMCannot = []string{"triple fault", "random ", "deadline", "kick", "stale translations", "two processors", "task gates"}

var suiteResult = regexp.MustCompile(`selftest vcpu: (.*: (\d+) passed, (\d+) failed, \d+ skipped)`)
