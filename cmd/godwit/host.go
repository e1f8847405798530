package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"godwit/cmd/internal/config"
	"godwit/cmd/internal/console"
	"godwit/cmd/internal/shell"
	"godwit/kernel"
	"godwit/migrate"
	"godwit/vmm"
	"godwit/vmm/vcpu"
	"godwit/vnet/hostnet"
)

// A host is everything that runs on one machine.
type host struct {
	cfg     *config.Config
	sh      *shell.Shell
	console *console.Console
	ready   time.Duration // from the kernel's first instruction to the prompt

	backend   vcpu.Backend
	vms       *vmm.Registry // nil: virtErr says why
	virtErr   error
	settled   chan struct{}    // closed when machines can be made: see settleClock
	net       *hostnet.Net     // nil: ip=none
	mover     *migrate.Manager // nil without net or vms
	measuring atomic.Bool      // a bench runs
	// open gets a file by its name: file.
	open func(c *shell.Call, name string) ([]byte, error)
}

func newHost() *host {
	h := &host{cfg: config.Default(), sh: shell.New(), settled: make(chan struct{})}
	h.open = h.file
	h.sh.Add(h.hostCommands()...)
	h.sh.Add(h.vmCommands()...)
	h.sh.Add(h.migrateCommands()...)
	h.sh.Add(h.netCommands()...)
	h.sh.Add(h.selftestCommands()...)
	h.sh.Add(h.benchCommands()...)
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
	h.startVirt()
	go h.settleClock()
	h.startNet(ctx)
	h.ready = time.Duration(kernel.Nanotime())
	fmt.Fprintf(h.console, "godwit: ready, %s, %s, up after %d ms\n", h.cfg.Name, h.resources(), h.ready.Milliseconds())
	go func() {
		for _, line := range h.cfg.Run {
			h.console.Background(ctx, line)
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
	problems = append(problems, h.cfg.Conflicts()...)
	kernel.SetHaltAtEnd(h.cfg.Panic == "halt")
	kernel.SetPollIdle(h.cfg.Idle == "poll")
	return problems
}

func (h *host) resources() string {
	m := kernel.Memory()
	virt := "no virtualization"
	if h.backend != nil {
		virt = h.backend.Name()
	}
	cpus := "1 CPU"
	if n := kernel.NumCPU(); n != 1 {
		cpus = fmt.Sprintf("%d CPUs", n)
	}
	return fmt.Sprintf("%s, %s, %s", cpus, shell.Bytes(m.Total), virt)
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

func moduleList() (names []string) {
	for _, m := range kernel.Modules() {
		names = append(names, m.Name)
	}
	return names
}

func moduleNames() string {
	if l := moduleList(); len(l) > 0 {
		return strings.Join(l, ", ")
	}
	return "none"
}

func goVersion() string { return runtime.Version() }
