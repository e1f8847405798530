package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func controls() []*rig.Scenario {
	return []*rig.Scenario{{
		Name: "godwitctl", About: "the Linux program manages a host over TCP: a guest's whole life, JSON, errors with exit status 1, wrong calls with 2", Limit: 6 * time.Minute,
		Skip: onQEMU, Run: controlFromLinux,
	}}
}

const controlPort = 7481

// ctl runs a built godwitctl.
type ctl struct{ program, host string }

// run returns what a command printed and its exit status.
func (c ctl) run(ctx context.Context, args ...string) (out, complaint string, status int, err error) {
	const patience = 3 * time.Minute
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(limited, c.program, append([]string{"-host", c.host}, args...)...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if err != nil {
		return "", "", 0, fmt.Errorf("godwitctl %s: %w", strings.Join(args, " "), err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode(), nil
}

// ok runs a command that must succeed and whose output must hold every word of want.
func (c ctl) ok(ctx context.Context, args []string, want ...string) (string, error) {
	out, complaint, status, err := c.run(ctx, args...)
	if err != nil {
		return "", err
	}
	if status != 0 {
		return "", fmt.Errorf("godwitctl %s: exit status %d: %s", strings.Join(args, " "), status, complaint)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			return "", fmt.Errorf("godwitctl %s: printed no %q, but %q", strings.Join(args, " "), w, out)
		}
	}
	return out, nil
}

func controlFromLinux(ctx context.Context, t *rig.T) error {
	dir, err := folder(t, "")
	if err != nil {
		return err
	}
	lan, addr, _, err := hostOnLAN(ctx, t, dir, machine.Spec{MemoryMiB: 768}, fmt.Sprintf("name=remote control=insecure-tcp:%d", controlPort))
	if err != nil {
		return err
	}
	c := ctl{program: t.Path("godwitctl")}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", c.program, "./cmd/godwitctl")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build godwitctl: %w\n%s", err, out)
	}
	if c.host, err = lan.Forward(netip.AddrPortFrom(addr, controlPort)); err != nil {
		return err
	}
	return controlSteps(ctx, t, c)
}

func controlSteps(ctx context.Context, t *rig.T, c ctl) error {
	out, err := c.ok(ctx, []string{"-json", "host"})
	if err != nil {
		return err
	}
	var f hostFacts
	if err := json.Unmarshal([]byte(out), &f); err != nil || f.Name != "remote" {
		return fmt.Errorf("godwitctl -json host: %w in %q, want the name remote", err, out)
	}
	for _, s := range []struct {
		args []string
		want []string
	}{
		{[]string{"vm", "create", guestName, "kernel=module:vmlinuz", "initrd=module:initramfs", "mem=256M", "cmdline=console=ttyS0 quiet guest=workload guest.mem=8M"}, []string{"stopped"}},
		{[]string{"vm", "start", guestName}, []string{"running"}},
		{[]string{"vm", "list"}, []string{guestName, "running", "256"}},
	} {
		if _, err := c.ok(ctx, s.args, s.want...); err != nil {
			return err
		}
	}
	var shown struct {
		Config struct {
			Memory uint64 `json:"memory"`
			Line   string `json:"cmdline"`
		} `json:"config"`
		Status string `json:"status"`
	}
	if out, err = c.ok(ctx, []string{"vm", "show", guestName, "-json"}); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil || shown.Status != "running" || shown.Config.Memory != 256<<20 || !strings.HasSuffix(shown.Config.Line, "guest.mem=8M") {
		return fmt.Errorf("godwitctl vm show -json: %v in %q", err, out)
	}
	for { // the guest comes up
		if out, err = c.ok(ctx, []string{"vm", "console", guestName, "log"}); err != nil {
			return err
		}
		if v, ok := rig.ParseVerdict(out); ok {
			t.Measure("verdict", "%s", v.Line)
			break
		}
		if err := sleep(ctx, time.Second); err != nil {
			return fmt.Errorf("no verdict of the guest: %w:\n%s", err, out)
		}
	}
	// Errors come from the host, or from the program itself, which says so in another way.
	for _, bad := range []struct {
		args   []string
		status int
	}{
		{[]string{"vm", "start", "nobody"}, 1},
		{[]string{"vm", "delete", guestName}, 1}, // it runs
		{[]string{"selftest", "crash", "nil"}, 1},
		{[]string{"vm", "start"}, 2},
		{[]string{"fly"}, 2},
	} {
		out, complaint, status, err := c.run(ctx, bad.args...)
		if err != nil {
			return err
		}
		if status != bad.status || !strings.HasPrefix(complaint, "error: ") {
			return fmt.Errorf("godwitctl %s: exit status %d, %q and %q; want %d and an error", strings.Join(bad.args, " "), status, out, complaint, bad.status)
		}
	}
	for _, s := range []struct {
		args []string
		want string
	}{
		{[]string{"vm", "stop", guestName, "force"}, "stopped"},
		{[]string{"vm", "delete", guestName}, "deleted"},
	} {
		if _, err := c.ok(ctx, s.args, s.want); err != nil {
			return err
		}
	}
	if out, err = c.ok(ctx, []string{"vm", "list", "-json"}); err != nil {
		return err
	}
	if strings.TrimSpace(out) != "[]" {
		return fmt.Errorf("after the deletion there is still %q", out)
	}
	return nil
}
