package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"godwit/cmd/internal/config"
	"godwit/cmd/internal/console"
	"godwit/cmd/internal/shell"
	"godwit/kernel"
)

// A host is everything that runs on one machine.
type host struct {
	cfg     *config.Config
	sh      *shell.Shell
	console *console.Console
	ready   time.Duration // from the kernel's first instruction to the prompt
}

func newHost() *host {
	h := &host{cfg: config.Default(), sh: shell.New()}
	h.sh.Add(h.hostCommands()...)
	return h
}

// logf writes a line to the host's log.
func (h *host) logf(format string, args ...any) {
	// The runtime's standard error is the kernel's log.
	println(fmt.Sprintf("godwit: "+format, args...))
}

// run brings the host up and serves its console. Whatever fails on the way is
// said, and the host goes on with the rest.
func (h *host) run(ctx context.Context) {
	problems := h.configure()
	h.console = console.New(kernel.SerialConsole(), h.sh)
	kernel.SetLogSink(h.console.Log)
	for _, p := range problems {
		h.logf("%v", p)
	}
	h.ready = time.Duration(kernel.Nanotime())
	fmt.Fprintf(h.console, "godwit: ready, %s, %s, up after %d ms\n", h.cfg.Name, h.resources(), h.ready.Milliseconds())
	go func() {
		for _, line := range h.cfg.Run {
			fmt.Fprintf(h.console, "%s%s\n", console.Prompt, line)
			h.console.Exec(ctx, line)
		}
	}()
	for {
		err := h.console.Run(ctx)
		// A serial line that fails is tried again: it is all an operator has.
		h.logf("console: %v; starting it again", err)
		time.Sleep(time.Second)
	}
}

func (h *host) configure() []config.Problem {
	problems := h.cfg.CommandLine(kernel.CommandLine())
	name := h.cfg.Module
	if name == "" {
		name = config.DefaultModule
	}
	if data, ok := module(name); ok {
		problems = append(problems, h.cfg.ModuleText(name, data)...)
	} else if h.cfg.Module != "" {
		problems = append(problems, config.Problem{Where: "command line", What: fmt.Sprintf("config: no boot module is named %q; there are %s", name, moduleNames())})
	}
	return problems
}

func (h *host) resources() string {
	m := kernel.Memory()
	return fmt.Sprintf("%d CPUs, %s", kernel.NumCPU(), shell.Bytes(m.Total))
}

// module finds a boot module by name.
func module(name string) ([]byte, bool) {
	for _, m := range kernel.Modules() {
		if m.Name == name {
			return m.Data, true
		}
	}
	return nil, false
}

func moduleNames() string {
	s := ""
	for i, m := range kernel.Modules() {
		if i > 0 {
			s += ", "
		}
		s += m.Name
	}
	if s == "" {
		return "none"
	}
	return s
}

func goVersion() string { return runtime.Version() }
