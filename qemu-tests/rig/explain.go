package rig

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// guestFacts is what the rig reads of `vm show -json`.
type guestFacts struct {
	Status string `json:"status"`
	Events []struct {
		Time time.Time `json:"time"`
		Text string    `json:"text"`
	} `json:"events"`
	CPUs []struct {
		Exits  map[string]uint64 `json:"exits"`
		Halted float64           `json:"halted_seconds"`
	} `json:"cpus"`
}

func (h *Host) guest(ctx context.Context, name string) (g guestFacts, err error) {
	err = h.JSON(ctx, "vm show "+name, &g)
	return g, err
}

// GuestEvents is what the host noted about a guest, oldest first.
func (h *Host) GuestEvents(ctx context.Context, name string) (events []string, err error) {
	g, err := h.guest(ctx, name)
	for _, e := range g.Events {
		events = append(events, e.Text)
	}
	return events, err
}

// Explain adds to a failure what its host can tell of the guest: the last event stands on the first line, for the table;
// below it all events, the guest's last lines and the host's.
func (h *Host) Explain(ctx context.Context, name string, failure error) error {
	// The scenario's time may be over, which must not end the questions.
	const patience = 30 * time.Second
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	g, err := h.guest(asking, name)
	if err != nil {
		return errors.Join(failure, fmt.Errorf("and the host does not answer: %w", err))
	}
	first, rest, _ := strings.Cut(failure.Error(), "\n")
	e := &explained{failure: failure}
	if n := len(g.Events); n != 0 {
		first += ": " + g.Events[n-1].Text
	}
	fmt.Fprintf(&e.text, "%s\n", first)
	if rest != "" {
		fmt.Fprintf(&e.text, "%s\n", rest)
	}
	fmt.Fprintf(&e.text, "  guest %s is %s; its events:\n", name, g.Status)
	for _, v := range g.Events {
		fmt.Fprintf(&e.text, "    | %s %s\n", v.Time.UTC().Format("15:04:05.000"), v.Text)
	}
	for i, c := range g.CPUs {
		fmt.Fprintf(&e.text, "  its CPU %d: halted %.1f s, exits %v\n", i, c.Halted, c.Exits)
	}
	for _, q := range []struct{ what, command string }{
		{"it printed", "vm console " + name + " log"},
		{"the host's log", "log 12"},
	} {
		text, err := h.Do(asking, q.command, CommandPatience)
		if err != nil {
			text += err.Error()
		}
		fmt.Fprintf(&e.text, "  %s:\n%s\n", q.what, tail(text, 30))
	}
	return e
}

// explained is a failure with what was found out about it.
type explained struct {
	failure error
	text    strings.Builder
}

func (e *explained) Error() string { return strings.TrimRight(e.text.String(), "\n") }
func (e *explained) Unwrap() error { return e.failure }

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return "    | " + strings.Join(lines[max(0, len(lines)-n):], "\n    | ")
}
