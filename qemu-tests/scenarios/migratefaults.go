package scenarios

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"godwit/qemu-tests/rig"
)

func migrateFaults() *rig.Scenario {
	return &rig.Scenario{
		Name: "migrate-faults", About: "moves that are cancelled, cut off or lose a host: exactly one host goes on running the guest", Cores: 2, Machines: 2, Limit: 20 * time.Minute,
		Skip: onQEMU, Run: runMigrateFaults,
	}
}

// faultStep is one thing that goes wrong with a move from host `from`. It returns where the guest runs afterwards.
type faultStep struct {
	name string
	run  func(ctx context.Context, t *rig.T, p *pair, from int) (at int, err error)
}

var faultSteps = []faultStep{
	{"cancel in mid-move", cancelInMidMove},
	{"network cut in mid-move", cutInMidMove},
	{"a move after the network is back", plainMove},
	{"target killed in mid-move", killTargetInMidMove},
	{"network cut at the commit", cutAtCommit},
	{"source killed after the commit", killSourceAfterCommit},
}

func runMigrateFaults(ctx context.Context, t *rig.T) error {
	p, err := startPair(ctx, t, 1)
	if err != nil {
		return err
	}
	spec := rig.GuestSpec{Name: guestName, CPUs: 1, MemoryMiB: 160, CommandLine: "guest=workload guest.mem=16M guest.rate=100"}
	if err := p.hosts[0].StartGuest(ctx, spec); err != nil {
		return err
	}
	v, err := p.hosts[0].Judge(ctx, guestName, 0)
	if err != nil {
		return err
	}
	at := 0
	for _, s := range faultSteps {
		begin := time.Now()
		if at, err = s.run(ctx, t, p, at); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if v, err = p.hosts[at].Judge(ctx, guestName, v.Up+1); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t.Logf("%s: %.1f s, then the guest runs on %s: %s", s.name, time.Since(begin).Seconds(), p.hosts[at].Name, v.Line)
	}
	if v, err = p.hosts[at].FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	t.Measure("verdict", "%s", strings.TrimPrefix(v.Line, "guest: "))
	return nil
}

// beginMove starts a move from host `from` and waits until it is in the state named.
func (p *pair) beginMove(ctx context.Context, from int, state string) (command string, err error) {
	command = fmt.Sprintf("vm migrate %s %s", guestName, p.addr[1-from])
	if err := p.hosts[from].Begin(command); err != nil {
		return "", err
	}
	// An error ends the wait as well.
	m, err := p.hosts[from].Await(ctx, "the state "+state, regexp.MustCompile(`(?m)^(`+state+`|error: .*)\n`), 3*time.Minute)
	if err == nil && m.Groups[1] != state {
		err = errors.New(m.Groups[1])
	}
	return command, err
}

// failedMove waits for the end of a move that must fail, with a reason that matches why.
func (p *pair) failedMove(ctx context.Context, from int, command, why string) error {
	const patience = 3 * time.Minute // sources and targets give each other up after ten seconds
	text, err := p.hosts[from].End(ctx, command, patience)
	var said *rig.CommandError
	switch {
	case err == nil:
		return fmt.Errorf("%s: the move did not fail:\n%s", p.hosts[from].Name, text)
	case !errors.As(err, &said):
		return err
	case !regexp.MustCompile(why).MatchString(said.Message):
		return fmt.Errorf("%s: the move failed for another reason than %q: %w", p.hosts[from].Name, why, err)
	}
	return nil
}

// gone waits until host i has nothing of the guest.
func (p *pair) gone(ctx context.Context, i int) error {
	for {
		text, err := p.hosts[i].Do(ctx, "vm list -json", rig.CommandPatience)
		if err != nil {
			return err
		}
		if strings.HasPrefix(strings.TrimSpace(text), "[]") {
			return nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return fmt.Errorf("%s still has the guest: %w:\n%s", p.hosts[i].Name, err, text)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func cancelInMidMove(ctx context.Context, t *rig.T, p *pair, from int) (int, error) {
	command, err := p.beginMove(ctx, from, "copying")
	if err != nil {
		return from, err
	}
	const ctrlC = "\x03"
	if err := p.hosts[from].Send(ctrlC); err != nil {
		return from, err
	}
	if err := p.failedMove(ctx, from, command, "cancelled"); err != nil {
		return from, err
	}
	return from, p.gone(ctx, 1-from)
}

func cutInMidMove(ctx context.Context, t *rig.T, p *pair, from int) (int, error) {
	command, err := p.beginMove(ctx, from, "copying")
	if err != nil {
		return from, err
	}
	p.lan.Cut(p.nic[1-from], true)
	if err := p.failedMove(ctx, from, command, `no sign of life|the connection broke|sending `); err != nil {
		return from, err
	}
	if err := p.gone(ctx, 1-from); err != nil {
		return from, err
	}
	p.lan.Cut(p.nic[1-from], false)
	return from, nil
}

func plainMove(ctx context.Context, t *rig.T, p *pair, from int) (int, error) {
	r, err := p.move(ctx, from)
	if err != nil {
		return from, err
	}
	t.Logf("%v", r)
	return 1 - from, p.gone(ctx, from)
}

func killTargetInMidMove(ctx context.Context, t *rig.T, p *pair, from int) (int, error) {
	command, err := p.beginMove(ctx, from, "copying")
	if err != nil {
		return from, err
	}
	p.hosts[1-from].Kill()
	if err := p.failedMove(ctx, from, command, `no sign of life|the connection broke|sending `); err != nil {
		return from, err
	}
	return from, p.start(ctx, t, 1-from, p.hosts[1-from].Name+"-again", 1)
}

// cutAtCommit may come before the commit arrives or after: the guest runs on one of the two, and nobody has to decide.
func cutAtCommit(ctx context.Context, t *rig.T, p *pair, from int) (int, error) {
	command, err := p.beginMove(ctx, from, "committing")
	if err != nil {
		return from, err
	}
	p.lan.Cut(p.nic[1-from], true)
	time.Sleep(3 * time.Second)
	p.lan.Cut(p.nic[1-from], false)
	text, err := p.hosts[from].End(ctx, command, 5*time.Minute)
	var said *rig.CommandError
	switch {
	case err == nil:
		t.Logf("the commit arrived")
		return 1 - from, p.gone(ctx, from)
	case errors.As(err, &said):
		t.Logf("the commit did not arrive: %s%s", text, said.Message)
		return from, p.gone(ctx, 1-from)
	}
	return from, err
}

func killSourceAfterCommit(ctx context.Context, t *rig.T, p *pair, from int) (int, error) {
	if _, err := p.beginMove(ctx, from, "committing"); err != nil {
		return from, err
	}
	for {
		status, err := p.hosts[1-from].GuestStatus(ctx, guestName)
		if err == nil && status == "running" {
			p.hosts[from].Kill()
			return 1 - from, nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return from, err
		}
	}
}
