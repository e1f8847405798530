package main

import (
	"errors"
	"fmt"
	"io"
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
	o := selftest.Options{Duration: 10 * time.Second, Stop: c.Ctx.Done(), Progress: func(line string) { c.Printf("%s\n", line) }}
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
	return nil
}
