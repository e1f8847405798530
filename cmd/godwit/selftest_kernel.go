package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/kernel/selftest"
)

// kernelCommand tries the kernel and the machine under it.
func (h *host) kernelCommand() *shell.Command {
	return &shell.Command{Name: "selftest kernel", Args: "[SECONDS [PART,...]]", Summary: "try the kernel: memory, timers, crypto, faults and interrupts on all CPUs at once",
		Detail:  "10 seconds unless told otherwise. Parts: " + strings.Join(selftest.Parts(), " ") + ".",
		Example: "selftest kernel 60", Shows: true, Run: h.cmdSelftestKernel}
}

type kernelResults struct{ *selftest.Report }

func (r kernelResults) Text(w io.Writer) { fmt.Fprintln(w, r.Report) }

func (h *host) cmdSelftestKernel(c *shell.Call) error {
	// An emulator that shares two processors out to eight was seen to keep a round waiting for 12 s.
	const patience = 5 * time.Minute
	o := selftest.Options{Duration: 10 * time.Second, Patience: patience, Stop: c.Ctx.Done(), Progress: func(line string) { c.Printf("%s\n", line) }}
	if len(c.Args) > 2 {
		return shell.Usagef("a time and a list of parts are wanted")
	}
	if len(c.Args) > 0 {
		n, err := strconv.Atoi(c.Args[0])
		if err != nil || n < 1 || n > 86400 {
			return shell.Usagef("%q is no number of seconds from 1 to 86400", c.Args[0])
		}
		o.Duration = time.Duration(n) * time.Second
	}
	if len(c.Args) == 2 {
		o.Only = c.Args[1]
	}
	r, err := selftest.Run(o)
	if err != nil {
		return err
	}
	if err := c.Show(kernelResults{r}); err != nil {
		return err
	}
	if !r.OK() {
		return errors.New("selftest kernel: a result was wrong")
	}
	if err := c.Ctx.Err(); err != nil { // what was right until then is shown
		return err
	}
	return nil
}

// crashCommand shows an operator what a host's last words look like, and whether it comes back.
func (h *host) crashCommand() *shell.Command {
	kinds := selftest.CrashKinds()
	return &shell.Command{Name: "selftest crash", Args: "KIND [force]", Summary: "end this host in the way named, to see its report and what follows (option panic=)",
		Detail:  "Refused while machines run, unless the word force is added. Kinds: " + strings.Join(kinds, " ") + ".",
		Example: "selftest crash wild", AtHost: true, Run: func(c *shell.Call) error {
			if len(c.Args) == 0 || len(c.Args) > 2 || len(c.Args) == 2 && c.Args[1] != "force" {
				return shell.Usagef("a kind is wanted, and perhaps force")
			}
			if !slices.Contains(kinds, c.Args[0]) {
				return shell.Usagef("%q is none of %s", c.Args[0], strings.Join(kinds, ", "))
			}
			if err := h.quiet(); err != nil && len(c.Args) == 1 {
				return fmt.Errorf("%w; stop or migrate them, or add the word force", err)
			}
			h.logf("crash: %s, as the operator wished", c.Args[0])
			return selftest.Crash(c.Args[0])
		}, Complete: func([]string, string) []string { return append(slices.Clone(kinds), "force") }}
}
