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
			Detail: "Lines that begin \"vm\" are whole machines, measured by their guests; lines that begin \"backend\" are the " +
				"way through the virtualization alone. FILTER is part of a measurement's name. Under qemu-system -icount shift=0 " +
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

func (x benchResult) String() string {
	return fmt.Sprintf("%-8s %-28s %8d", x.Part, x.Name, x.Ticks)
}

// Text says nothing that was not said when it was measured.
func (r *benchResults) Text(w io.Writer) {
	fmt.Fprintf(w, "bench: %s: %d measured, in ticks of the TSC\n", r.Backend, len(r.Results))
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
	// Two at once would measure each other, and each switches the garbage collector off and on again.
	if !h.measuring.CompareAndSwap(false, true) {
		return errors.New("a bench is under way already: let it end, or interrupt it with ^C where it runs")
	}
	defer h.measuring.Store(false)
	r := &benchResults{Backend: h.backend.Name(), Results: []benchResult{}}
	add := func(x benchResult) {
		r.Results = append(r.Results, x)
		c.Printf("%v\n", x)
	}
	failed := []error{bench.Run(c.Ctx, m.Host(), filter, func(x bench.Result) { add(benchResult{"vm", x.Name, x.Ticks}) })}
	conformance.Bench(c.Ctx, h.backend, physMemory{}, filter, func(x conformance.Cost) {
		if x.Err != nil {
			failed = append(failed, fmt.Errorf("bench: backend %s: %w", x.Name, x.Err))
			return
		}
		add(benchResult{"backend", x.Name, uint64(x.Ticks)})
	})
	if failed[0] == nil {
		failed = append(failed, c.Ctx.Err())
	}
	err = errors.Join(failed...)
	if len(r.Results) == 0 && err == nil {
		return fmt.Errorf("no measurement's name holds %q; without a filter all are made", filter)
	}
	return errors.Join(c.Show(r), err) // what was measured before it failed counts
}
