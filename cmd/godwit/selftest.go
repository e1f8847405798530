package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/migrate"
	"godwit/migrate/vmguest"
	"godwit/vmm/conformance"
)

func (h *host) selftestCommands() []*shell.Command {
	return []*shell.Command{
		h.kernelCommand(),
		h.crashCommand(),
		{Name: "selftest vcpu", Args: "[FILTER]", Summary: "hold this processor's virtualization to the vCPU contract with a suite of small guests",
			Detail: "FILTER is part of a test's name; all tests that hold it are run.\n" +
				"!PART,PART runs those that hold none of the parts. One with blanks is quoted.",
			Example: "selftest vcpu", Shows: true, Run: h.cmdSelftestVCPU},
		{Name: "selftest migrate", Args: "NAME [TRIPS]", Summary: "move a running machine to a second place on this host and back",
			Detail:  "Everything that a migration does but the network, checksums of all pages included. It needs the machine's memory a second time.",
			Example: "selftest migrate web 5", Shows: true, Run: h.cmdSelftestMigrate, Complete: h.completeVM},
	}
}

func (h *host) cmdSelftestMigrate(c *shell.Call) error {
	trips := 1
	if len(c.Args) == 2 {
		n, err := strconv.Atoi(c.Args[1])
		if err != nil || n < 1 || n > 1000 {
			return shell.Usagef("%q is no number from 1 to 1000", c.Args[1])
		}
		trips = n
	} else if len(c.Args) != 1 {
		return shell.Usagef("a machine is wanted")
	}
	vms, err := h.machines()
	if err != nil {
		return err
	}
	if _, err := vms.Get(c.Args[0]); err != nil {
		return err
	}
	var last migrate.Report
	moves := 0
	err = vmguest.Rehearse(c.Ctx, &vmguest.Target{Registry: vms}, c.Args[0], trips, migrate.Options{Verify: true}, func(r migrate.Report) {
		last = r
		moves++
		c.Printf("move %d: %s, %d rounds, %d pages, %d write faults, downtime %v\n", moves, strings.ToLower(r.State), len(r.Rounds), r.Pages, r.Faults, r.Downtime.Total.Round(10*time.Microsecond))
	})
	if err != nil {
		return err
	}
	return c.Show(report{last})
}

type vcpuResults struct {
	Backend string       `json:"backend"`
	Passed  int          `json:"passed"`
	Failed  int          `json:"failed"`
	Skipped int          `json:"skipped"`
	Tests   []vcpuResult `json:"tests"`
}

type vcpuResult struct {
	Name    string `json:"name"`
	Error   string `json:"error,omitempty"`
	Skipped string `json:"skipped,omitempty"`
	Exits   uint64 `json:"exits"`
}

func (r *vcpuResults) Text(w io.Writer) {
	fmt.Fprintf(w, "selftest vcpu: %s: %d passed, %d failed, %d skipped\n", r.Backend, r.Passed, r.Failed, r.Skipped)
}

func (h *host) cmdSelftestVCPU(c *shell.Call) error {
	if len(c.Args) > 1 {
		return shell.Usagef("one filter is wanted; with blanks in it, in quotes")
	}
	if h.backend == nil {
		return h.virtErr
	}
	filter := ""
	if len(c.Args) == 1 {
		filter = c.Args[0]
	}
	r := &vcpuResults{Backend: h.backend.Name(), Tests: []vcpuResult{}}
	s := conformance.Run(c.Ctx, h.backend, physMemory{}, filter, func(t conformance.Result) {
		v := vcpuResult{Name: t.Name, Skipped: t.Skipped, Exits: t.Exits}
		switch {
		case t.Skipped != "":
			c.Printf("skip  %s: %s\n", t.Name, t.Skipped)
		case t.Err != nil:
			v.Error = t.Err.Error()
			c.Printf("FAIL  %s: %v\n", t.Name, t.Err)
		default:
			c.Printf("pass  %s (%d exits)\n", t.Name, t.Exits)
		}
		r.Tests = append(r.Tests, v)
	})
	r.Passed, r.Failed, r.Skipped = s.Passed, s.Failed, s.Skipped
	if len(r.Tests) == 0 && c.Ctx.Err() == nil {
		return fmt.Errorf("no test's name holds %q; without a filter all are run", filter)
	}
	if err := c.Show(r); err != nil {
		return err
	}
	if err := c.Ctx.Err(); err != nil { // what did not run has not passed
		return err
	}
	if r.Failed > 0 {
		return errors.New("selftest vcpu: the suite failed")
	}
	return nil
}
