package main

import (
	"errors"
	"fmt"
	"io"

	"godwit/cmd/internal/shell"
	"godwit/vmm/conformance"
)

func (h *host) selftestCommands() []*shell.Command {
	return []*shell.Command{
		{Name: "selftest vcpu", Args: "[FILTER]", Summary: "hold this processor's virtualization to the vCPU contract with a suite of small guests",
			Detail:  "FILTER is part of a test's name; all tests that hold it are run.",
			Example: "selftest vcpu", Shows: true, Run: h.cmdSelftestVCPU},
	}
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
		return shell.Usagef("one filter is wanted")
	}
	if h.backend == nil {
		return h.virtErr
	}
	filter := ""
	if len(c.Args) == 1 {
		filter = c.Args[0]
	}
	r := &vcpuResults{Backend: h.backend.Name(), Tests: []vcpuResult{}}
	s := conformance.Run(h.backend, physMemory{}, filter, func(t conformance.Result) {
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
	if len(r.Tests) == 0 {
		return fmt.Errorf("no test's name holds %q", filter)
	}
	if err := c.Show(r); err != nil {
		return err
	}
	if r.Failed > 0 {
		return errors.New("selftest vcpu: the suite failed")
	}
	return nil
}
