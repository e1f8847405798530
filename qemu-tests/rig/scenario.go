// Package rig runs scenarios on grounds and judges them: scenario.go is what a scenario is and has, host.go a booted Godwit,
// guest.go a guest on it, runner.go and table.go a whole run.
package rig

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"godwit/qemu-tests/guest"
	"godwit/qemu-tests/lan"
	"godwit/qemu-tests/machine"
)

// Scenario is one thing that must hold on every ground it names.
type Scenario struct {
	Name  string // such as "boot-4cpus"
	About string // one line: what holds if it passes
	// Skip tells why the scenario does not run on a ground, or "".
	Skip func(machine.Ground) string
	Run  func(context.Context, *T) error
	// Limit ends a run that hangs in spite of all time-outs inside; on slow grounds it is scaled. 0: two minutes. It is
	// six times what a run takes where nothing else runs, or more.
	Limit time.Duration
	// Cores is how many processors a run keeps busy; the rig starts no more at once than there are. 0: 1.
	Cores int
	// Machines is how many run at once. 0: 1.
	Machines int
}

// cores is how many processors a run on g keeps busy.
func (s *Scenario) cores(g machine.Ground) int {
	n := max(1, s.Cores)
	if t := g.Threads(); t != 0 {
		n = min(n, t*max(1, s.Machines))
	}
	return n
}

// Files is what scenarios boot.
type Files struct {
	Image string // build/godwit.img
	ELF   string // build/godwit.elf
	Guest guest.Files
}

// T is one run of a scenario.
type T struct {
	Ground machine.Ground
	Files  Files
	Dir    string // for logs and scratch files

	mu       sync.Mutex
	facts    []Fact
	log      io.Writer
	machines []*machine.Machine
}

// Fact is something measured on the way.
type Fact struct{ Name, Value string }

// Measure notes a fact for the report.
func (t *T) Measure(name, format string, a ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.facts = append(t.facts, Fact{name, fmt.Sprintf(format, a...)})
}

// Logf tells what happens, for whoever watches.
func (t *T) Logf(format string, a ...any) { fmt.Fprintf(t.log, format+"\n", a...) }

// Start starts a machine that ends with the scenario.
func (t *T) Start(ctx context.Context, s machine.Spec) (*machine.Machine, error) {
	return t.StartOn(ctx, t.Ground, s)
}

// StartOn is Start on another ground than the scenario's, for scenarios with unlike machines.
func (t *T) StartOn(ctx context.Context, g machine.Ground, s machine.Spec) (*machine.Machine, error) {
	m, err := g.Start(ctx, t.Dir, s)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.machines = append(t.machines, m)
	t.mu.Unlock()
	return m, nil
}

// LAN makes a network that ends with the scenario.
func (t *T) LAN(ctx context.Context, dir, bootFile string) (*lan.LAN, error) {
	return lan.New(ctx, dir, bootFile)
}

// Path names a scratch file.
func (t *T) Path(name string) string { return filepath.Join(t.Dir, name) }

// Outcome of a scenario on a ground.
type Outcome int

const (
	NotRun Outcome = iota
	Passed
	Failed
)

func (o Outcome) String() string {
	switch o {
	case NotRun:
		return "not run"
	case Passed:
		return "passed"
	case Failed:
		return "FAILED"
	}
	panic(fmt.Sprintf("rig: outcome %d", int(o)))
}

// Result is a scenario's outcome on one ground.
type Result struct {
	Scenario string
	Ground   string
	Outcome  Outcome
	Why      string // why it failed or did not run
	Facts    []Fact
	Took     time.Duration
}

// run runs s on g and cleans up behind it.
func (s *Scenario) run(ctx context.Context, g machine.Ground, f Files, dir string, log io.Writer) (r Result) {
	r = Result{Scenario: s.Name, Ground: g.Name()}
	if err := g.Available(); err != nil {
		r.Why = err.Error()
		return r
	}
	if s.Skip != nil {
		if r.Why = s.Skip(g); r.Why != "" {
			return r
		}
	}
	free, err := claim(dir)
	if err != nil {
		r.Outcome, r.Why = Failed, err.Error()
		return r
	}
	defer free()
	limit := s.Limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	limit = time.Duration(float64(limit) * g.Scale())
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took longer than %v", limit))
	t := &T{Ground: g, Files: f, Dir: dir, log: log}
	begin := time.Now()
	err = s.call(limited, t)
	cancel()
	for _, m := range t.machines {
		m.Kill()
	}
	r.Took, r.Facts = time.Since(begin), t.facts
	switch {
	case err == nil:
		r.Outcome = Passed
	case ctx.Err() != nil:
		r.Why = "interrupted"
	default:
		r.Outcome, r.Why = Failed, err.Error()+"\nlogs: "+dir
	}
	return r
}

// call turns a panic into a failure: the other scenarios shall run.
func (s *Scenario) call(ctx context.Context, t *T) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.Run(ctx, t)
}

// slug makes a name fit for a directory.
func slug(s string) string { return strings.ToLower(strings.ReplaceAll(s, "/", "-")) }
