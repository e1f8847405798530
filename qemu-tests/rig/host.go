package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"godwit/qemu-tests/machine"
)

// Host is a machine on which Godwit came up, driven through its serial console.
type Host struct {
	*machine.Machine
	Ready time.Duration // from the emulator's start to the prompt, by the wall clock
}

// Patience for machines, in terms of QEMU: how long they may be silent. It only bounds a hang: what comes takes a tenth of
// it where nothing else runs.
const (
	bootPatience = 40 * time.Second
	// Network boot waits for firmware and its time-outs as well.
	netbootPatience = 2 * time.Minute
	CommandPatience = 40 * time.Second
)

var (
	// Firmware may leave its last line unfinished, so this need not begin one.
	readyLine = regexp.MustCompile(`godwit: ready.*\n`)
	prompt    = regexp.MustCompile(`(?m)^godwit> `)
)

// Host starts a machine and waits for its prompt.
func (t *T) Host(ctx context.Context, s machine.Spec) (*Host, error) {
	return t.HostOn(ctx, t.Ground, s)
}

// HostOn is Host on another ground than the scenario's.
func (t *T) HostOn(ctx context.Context, g machine.Ground, s machine.Spec) (*Host, error) {
	m, err := t.StartOn(ctx, g, s)
	if err != nil {
		return nil, err
	}
	patience := bootPatience
	if s.Boot.Network {
		patience = netbootPatience
	}
	h := &Host{Machine: m}
	return h, h.awaitReady(ctx, patience)
}

func (h *Host) awaitReady(ctx context.Context, patience time.Duration) error {
	if _, err := h.Await(ctx, "the line `godwit: ready`", readyLine, patience); err != nil {
		return err
	}
	if _, err := h.Await(ctx, "the prompt", prompt, CommandPatience); err != nil {
		return err
	}
	h.Ready = time.Since(h.Start)
	return nil
}

// CommandError is an error that a host's console reported.
type CommandError struct{ Host, Command, Message string }

func (e *CommandError) Error() string { return fmt.Sprintf("%s: %s: %s", e.Host, e.Command, e.Message) }

// Do runs a command and returns its output. patience is how long the host may be silent while it works.
func (h *Host) Do(ctx context.Context, command string, patience time.Duration) (string, error) {
	h.Discard()
	if err := h.Send(command + "\r"); err != nil {
		return "", err
	}
	m, err := h.Await(ctx, "the end of `"+command+"`", reply(command), patience)
	if err != nil {
		return "", err
	}
	return m.Groups[1], h.commandError(command, m.Groups[1])
}

// commandError finds the error in what a command printed.
func (h *Host) commandError(command, text string) error {
	if _, msg, ok := strings.Cut("\n"+text, "\nerror: "); ok {
		return &CommandError{h.Name, command, strings.TrimSpace(msg)}
	}
	return nil
}

// Begin types a command whose end is not waited for; see End.
func (h *Host) Begin(command string) error {
	h.Discard()
	return h.Send(command + "\r")
}

// End waits for the end of a command that Begin typed, and returns the output that nobody has expected since.
func (h *Host) End(ctx context.Context, command string, patience time.Duration) (string, error) {
	m, err := h.Await(ctx, "the end of `"+command+"`", prompt, patience)
	if err != nil {
		return "", err
	}
	return m.Before, h.commandError(command, m.Before)
}

// reply matches a command's echo, which the line editor may wrap anywhere, its output, and the next prompt.
func reply(command string) *regexp.Regexp {
	var echo strings.Builder
	for _, r := range command {
		echo.WriteString(regexp.QuoteMeta(string(r)) + `\n?`)
	}
	return regexp.MustCompile(echo.String() + `\n((?s:.*?))(?m:^)godwit> `)
}

// JSON runs a command with -json and decodes what it shows into v.
func (h *Host) JSON(ctx context.Context, command string, v any) error {
	return h.JSONWithin(ctx, command, v, CommandPatience)
}

// JSONWithin is JSON for a command that may be silent for longer.
func (h *Host) JSONWithin(ctx context.Context, command string, v any, patience time.Duration) error {
	text, err := h.Do(ctx, command+" -json", patience)
	if err != nil {
		return err
	}
	if err := readAnswer(text, v); err != nil {
		return fmt.Errorf("%s: %s: %w in %q", h.Name, command, err, text)
	}
	return nil
}

var answerBegins = regexp.MustCompile(`(?m:^)[{\[]`)

// readAnswer reads the JSON in what a command printed. A line of the host's log may stand before it, whose turn came
// between the command's line and its answer; those that waited for the command's end follow.
func readAnswer(text string, v any) error {
	begin := 0
	if at := answerBegins.FindStringIndex(text); at != nil {
		begin = at[0]
	}
	return json.NewDecoder(strings.NewReader(text[begin:])).Decode(v)
}

// Restart tells the host to reboot and waits for its prompt.
func (h *Host) Restart(ctx context.Context) error {
	h.Discard()
	if err := h.Send("reboot\r"); err != nil {
		return err
	}
	return h.AwaitReady(ctx)
}

// AwaitReady waits for the prompt of a host that boots again.
func (h *Host) AwaitReady(ctx context.Context) error { return h.awaitReady(ctx, bootPatience) }
