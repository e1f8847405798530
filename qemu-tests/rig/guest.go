package rig

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"godwit/qemu-tests/guest"
	"godwit/qemu-tests/machine"
)

// GuestSpec is a machine for a host to run, booted from the boot modules that GuestModules names.
type GuestSpec struct {
	Name        string
	CPUs        int
	MemoryMiB   int
	CommandLine string // options of guest/init; the console is set already
	Model       string // of its processors; "": the host's default
}

// guestPatience is how long a guest may be silent: its kernel starts without a word.
const guestPatience = 2 * time.Minute

// GuestModules are the guest's files as modules of a host.
func (t *T) GuestModules() []machine.Module {
	return []machine.Module{
		{Path: t.Files.Guest.Kernel, Name: guest.KernelName},
		{Path: t.Files.Guest.Initramfs, Name: guest.InitramfsName},
	}
}

// StartGuest makes a guest and starts it.
func (h *Host) StartGuest(ctx context.Context, g GuestSpec) error {
	create := fmt.Sprintf(`vm create %s kernel=module:%s initrd=module:%s mem=%dM cpus=%d cmdline="console=ttyS0 quiet panic=1 %s"`,
		g.Name, guest.KernelName, guest.InitramfsName, g.MemoryMiB, g.CPUs, g.CommandLine)
	if g.Model != "" {
		create += " cpu=" + g.Model
	}
	for _, c := range []string{create, "vm start " + g.Name} {
		if _, err := h.Do(ctx, c, CommandPatience); err != nil {
			return err
		}
	}
	return nil
}

// GuestStatus is what `vm show` calls a guest's state, such as "running".
func (h *Host) GuestStatus(ctx context.Context, name string) (string, error) {
	g, err := h.guest(ctx, name)
	return g.Status, err
}

// GuestLog is everything the guest has printed (its last MiB).
func (h *Host) GuestLog(ctx context.Context, name string) (string, error) {
	return h.Do(ctx, "vm console "+name+" log", CommandPatience)
}

// GuestExpect watches a guest's console until pattern shows, typing before that if there is something to type.
func (h *Host) GuestExpect(ctx context.Context, name, typing string, pattern *regexp.Regexp) (machine.Match, error) {
	const leave = "\x1d"
	h.Discard()
	if err := h.Send("vm console " + name + "\r"); err != nil {
		return machine.Match{}, err
	}
	if _, err := h.Expect(ctx, consoleEntered, CommandPatience); err != nil {
		return machine.Match{}, err
	}
	if err := h.Send(typing); err != nil {
		return machine.Match{}, err
	}
	m, err := h.Expect(ctx, pattern, guestPatience)
	if left := h.Send(leave); left != nil {
		return m, errors.Join(err, left)
	}
	if _, left := h.Await(ctx, "the prompt", prompt, CommandPatience); left != nil {
		return m, errors.Join(err, left)
	}
	if err != nil {
		return m, h.Explain(ctx, name, err)
	}
	return m, nil
}

var consoleEntered = regexp.MustCompile(`returns to the host\n`)

// Verdict is what the guest's workload reports about the machine; see guest/init/report.go.
type Verdict struct {
	Kind   string // verdict or final
	OK     bool
	Up     float64 // seconds since the guest's boot
	Values map[string]string
	Line   string
}

var verdictLine = regexp.MustCompile(`guest: (verdict|final) (ok|bad) (.*) drift=.*\n`)

// ParseVerdict reads the last complete verdict in text.
func ParseVerdict(text string) (v Verdict, ok bool) {
	all := verdictLine.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return v, false
	}
	m := all[len(all)-1]
	v = Verdict{Kind: m[1], OK: m[2] == "ok", Values: map[string]string{}, Line: strings.TrimSpace(m[0])}
	for _, f := range strings.Fields(m[3]) {
		if key, value, ok := strings.Cut(f, "="); ok {
			v.Values[key] = value
		}
	}
	var err error
	v.Up, err = strconv.ParseFloat(v.Values["up"], 64)
	return v, err == nil
}

// Count is one of the verdict's numbers.
func (v Verdict) Count(key string) int {
	n, err := strconv.Atoi(v.Values[key])
	if err != nil {
		return -1 // no count is negative
	}
	return n
}

// Judge asks the guest for a verdict that is younger than after (in the guest's seconds), and is an error if it is bad.
func (h *Host) Judge(ctx context.Context, name string, after float64) (Verdict, error) {
	for {
		text, err := h.GuestLog(ctx, name)
		if err != nil {
			return Verdict{}, err
		}
		v, ok := ParseVerdict(text)
		switch {
		case ok && !v.OK:
			return v, h.Explain(ctx, name, fmt.Errorf("%s: guest %s: %s", h.Name, name, v.Line))
		case ok && v.Up > after:
			return v, nil
		}
		status, err := h.GuestStatus(ctx, name)
		if err != nil {
			return v, err
		}
		if status != "running" {
			return v, h.Explain(ctx, name, fmt.Errorf("%s: guest %s is not running, but %s", h.Name, name, status))
		}
		select {
		case <-ctx.Done():
			return v, h.Explain(ctx, name, fmt.Errorf("%s: guest %s: no verdict after %.1f s of its time: %w", h.Name, name, after, context.Cause(ctx)))
		case <-time.After(time.Second):
		}
	}
}

// FinalVerdict makes the guest stop working, check all its memory once more, and judge.
func (h *Host) FinalVerdict(ctx context.Context, name string) (Verdict, error) {
	m, err := h.GuestExpect(ctx, name, "final\n", regexp.MustCompile(`guest: final (ok|bad) .*\n`))
	if err != nil {
		return Verdict{}, err
	}
	v, _ := ParseVerdict(m.Groups[0])
	if !v.OK {
		return v, h.Explain(ctx, name, fmt.Errorf("%s: guest %s: %s", h.Name, name, strings.TrimSpace(m.Groups[0])))
	}
	if idle := v.idle(); idle != "" {
		return v, h.Explain(ctx, name, fmt.Errorf("%s: guest %s says ok, but did nothing: %s in %s", h.Name, name, idle, v.Line))
	}
	return v, nil
}

// idle names what a guest's workload counts and did not do at all: then "ok" says nothing.
func (v Verdict) idle() string {
	for _, key := range []string{"cpus", "pages", "writes", "checks", "ticks", "signals"} {
		if n := v.Count(key); n <= 0 {
			return fmt.Sprintf("%s is %q", key, v.Values[key])
		}
	}
	if v.Count("checks") < v.Count("pages") {
		return "not every page was checked"
	}
	return ""
}
