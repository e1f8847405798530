package scenarios

import (
	"context"
	"fmt"
	"strings"
	"time"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

// Soaks are the checks that take too long for every day.
func Soaks(duration time.Duration, rounds int) []*rig.Scenario {
	const (
		perRound = 10 * time.Second // a bound: one takes less than half a second
		slack    = 15 * time.Minute
	)
	return append([]*rig.Scenario{
		{
			Name: "soak-guest", Skip: notOnBochs, About: fmt.Sprintf("a guest under memory load, timers and signals for %v", duration), Cores: 1, Limit: 2*duration + slack,
			Run: func(ctx context.Context, t *rig.T) error { return soakGuest(ctx, t, duration) },
		},
		{
			Name: "soak-leak", Skip: notOnBochs, About: fmt.Sprintf("%d rounds of create, start, stop and delete end with the memory they began with", rounds), Limit: time.Duration(rounds)*perRound + slack,
			Run: func(ctx context.Context, t *rig.T) error { return guestLeak(ctx, t, rounds) },
		},
		{
			Name: "soak-selftest", Skip: notOnBochs, About: "the kernel under everything at once on 4 processors for a minute", Cores: 2, Limit: slack,
			Run: func(ctx context.Context, t *rig.T) error { return kernelSelftest(ctx, t, 4, time.Minute) },
		},
	}, soakMigrations()...)
}

func soakGuest(ctx context.Context, t *rig.T, duration time.Duration) error {
	const (
		look    = 30 * time.Second
		silence = 5 * time.Minute // of a guest that reports every ten seconds
		tell    = 5 * time.Minute
	)
	h, err := t.Host(ctx, machine.Spec{Name: "host", CPUs: 3, MemoryMiB: 1024, Boot: image(t, "ip=none", t.GuestModules()...)})
	if err != nil {
		return err
	}
	spec := rig.GuestSpec{Name: guestName, CPUs: 2, MemoryMiB: 512, CommandLine: "guest=workload guest.mem=192M guest.rate=2000 guest.report=10s"}
	if err := h.StartGuest(ctx, spec); err != nil {
		return err
	}
	judge := func(after float64) (rig.Verdict, error) {
		limited, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("the guest was silent for %v", silence))
		defer cancel()
		return h.Judge(limited, guestName, after)
	}
	v, err := judge(0)
	if err != nil {
		return err
	}
	begin, told := time.Now(), time.Now()
	for time.Since(begin) < duration {
		if err := sleep(ctx, min(look, duration-time.Since(begin))); err != nil {
			return err
		}
		if v, err = judge(v.Up); err != nil {
			return fmt.Errorf("after %v: %w", time.Since(begin).Round(time.Second), err)
		}
		if time.Since(told) > tell {
			told = time.Now()
			t.Logf("%s", v.Line)
		}
	}
	if v, err = h.FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	t.Measure("verdict", "%s", strings.TrimPrefix(v.Line, "guest: "))
	return nil
}
