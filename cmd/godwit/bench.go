package main

import (
	"errors"
	"fmt"
	"io"

	"godwit/cmd/internal/shell"
	"godwit/vmm/bench"
	"godwit/vmm/conformance"
)

func (h *host) benchCommands() []*shell.Command {
	return []*shell.Command{
		{Name: "bench", Args: "[FILTER]", Summary: "measure what guests' exits cost, in ticks of the TSC",
			Detail: "Lines that begin \"vm\" are whole machines, measured by their guests; lines that begin \"backend\" are the\n" +
				"way through the virtualization alone. FILTER is part of a measurement's name. Under qemu-system -icount shift=0\n" +
				"ticks are instructions.",
			Example: "bench cpuid", Shows: true, Run: h.cmdBench},
	}
}

type benchResults struct {
	Backend string        `json:"backend"`
	Results []benchResult `json:"results"`
}

type benchResult struct {
	Part  string `json:"part"` // "vm" or "backend"
	Name  string `json:"name"`
	Ticks uint64 `json:"ticks"`
}

func (r *benchResults) Text(w io.Writer) {
	for _, x := range r.Results {
		fmt.Fprintf(w, "%-8s %-28s %8d\n", x.Part, x.Name, x.Ticks)
	}
}

func (h *host) cmdBench(c *shell.Call) error {
	if len(c.Args) > 1 {
		return shell.Usagef("one filter is wanted")
	}
	m, err := h.machines()
	if err != nil {
		return err
	}
	filter := ""
	if len(c.Args) == 1 {
		filter = c.Args[0]
	}
	r := &benchResults{Backend: h.backend.Name(), Results: []benchResult{}}
	err = bench.Run(c.Ctx, m.Host(), filter, func(x bench.Result) {
		r.Results = append(r.Results, benchResult{"vm", x.Name, x.Ticks})
	})
	conformance.Bench(c.Ctx, h.backend, physMemory{}, filter, func(x conformance.Cost) {
		if x.Err != nil {
			c.Printf("backend %s: %v\n", x.Name, x.Err)
			return
		}
		r.Results = append(r.Results, benchResult{"backend", x.Name, uint64(x.Ticks)})
	})
	if err == nil {
		err = c.Ctx.Err()
	}
	if len(r.Results) == 0 && err == nil {
		return fmt.Errorf("no measurement's name holds %q; without a filter all are made", filter)
	}
	return errors.Join(c.Show(r), err) // what was measured before it failed counts
}
