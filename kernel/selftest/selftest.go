// Package selftest tries the machine and the kernel under the Go program, all at
// once: garbage collection, timers, crypto, floating point and vector work, maps,
// preemption, page faults, interprocessor interrupts and TLB shootdowns on all
// CPUs. Every result is checked. The worst bugs of a kernel like this one show only
// when its parts are mixed, so that is what it does; a part alone can be named when
// one has failed.
//
// The parts that need no privilege also run on Linux, which is how they are tested
// themselves.
package selftest

import (
	"cmp"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"godwit/kernel"
)

// Options say how long and how hard.
type Options struct {
	Duration time.Duration
	Only     string            // names of parts, separated by commas; empty for all
	Progress func(line string) // called every few seconds, may be nil
	Workers  int               // goroutines a part; 0 for one per CPU, at least 2
	Stop     <-chan struct{}   // ends the test early
	Patience time.Duration     // for the last rounds to end; 0 for a minute
}

// A Result is what one part did.
type Result struct {
	Name  string `json:"name"`
	Ops   uint64 `json:"rounds"`
	Bad   uint64 `json:"wrong"`                 // rounds with a wrong result
	Stuck int    `json:"stuck"`                 // goroutines whose last round did not end
	Notes string `json:"notes,omitempty"`       // a measurement, if the part makes one
	First string `json:"first_wrong,omitempty"` // what was wrong first
}

// A Report is the outcome of a run.
type Report struct {
	Took    time.Duration `json:"took_ns"`
	CPUs    int           `json:"cpus"`
	Results []Result      `json:"parts"`
	GCs     uint32        `json:"collections"`
	Leaked  int64         `json:"leaked_bytes"` // bytes of physical memory not given back
}

// OK reports whether everything was right.
func (r *Report) OK() bool {
	for i := range r.Results {
		if r.Results[i].Bad != 0 || r.Results[i].Stuck != 0 || r.Results[i].Ops == 0 {
			return false
		}
	}
	return r.Leaked == 0 && len(r.Results) > 0
}

func (r *Report) String() string {
	var b strings.Builder
	var ops, bad uint64
	for _, x := range r.Results {
		ops, bad = ops+x.Ops, bad+x.Bad
		fmt.Fprintf(&b, "  %-10s %9d rounds, %d wrong", x.Name, x.Ops, x.Bad)
		if x.Notes != "" {
			fmt.Fprintf(&b, "; %s", x.Notes)
		}
		if x.First != "" {
			fmt.Fprintf(&b, "\n             first: %s", x.First)
		}
		if x.Ops == 0 {
			fmt.Fprintf(&b, "; NEVER FINISHED A ROUND")
		}
		if x.Stuck != 0 {
			fmt.Fprintf(&b, "; %d STILL IN A ROUND", x.Stuck)
		}
		b.WriteByte('\n')
	}
	if r.Leaked != 0 {
		fmt.Fprintf(&b, "  %d bytes of physical memory were not given back\n", r.Leaked)
	}
	word := "ok"
	if !r.OK() {
		word = "FAILED"
	}
	fmt.Fprintf(&b, "selftest: %s: %d rounds, %d wrong, %d collections, %d CPUs, %.1f s", word, ops, bad, r.GCs, r.CPUs, r.Took.Seconds())
	return b.String()
}

// A part is one kind of work. Each of its goroutines calls start once, and then
// the function it returned until the time is over: that does one round, and says
// what was wrong or nothing.
type part struct {
	name   string
	single bool // one goroutine is enough
	bare   bool // needs the kernel
	start  func(worker int, s *shared) func() string
	note   func(s *shared) string
}

// shared is what the goroutines of one part have in common.
type shared struct {
	ops, bad atomic.Uint64
	running  atomic.Int64
	max, sum atomic.Int64 // for notes
	mu       sync.Mutex
	first    atomic.Pointer[string]
	done     chan struct{}
}

func (s *shared) report(why string) {
	s.bad.Add(1)
	s.first.CompareAndSwap(nil, &why)
}

func (s *shared) maximum(v int64) {
	for {
		m := s.max.Load()
		if v <= m || s.max.CompareAndSwap(m, v) {
			return
		}
	}
}

// Parts lists the names Options.Only takes.
func Parts() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// Run does the test.
func Run(o Options) (*Report, error) {
	chosen, err := choose(o.Only)
	if err != nil {
		return nil, err
	}
	workers := o.Workers
	if workers == 0 {
		workers = max(2, runtime.NumCPU())
	}
	begin := time.Now()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	phys := kernel.Memory().Phys
	stop := make(chan struct{})
	sh := make([]*shared, len(chosen))
	var wg sync.WaitGroup
	for i, p := range chosen {
		s := &shared{done: stop}
		sh[i] = s
		n := workers
		if p.single {
			n = 1
		}
		s.running.Store(int64(n))
		for w := range n {
			wg.Go(func() {
				defer s.running.Add(-1)
				round := p.start(w, s)
				for { // at least one round, however short the time
					if why := round(); why != "" {
						s.report(why)
					}
					s.ops.Add(1)
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
	}
	wait(o, begin, chosen, sh)
	close(stop)
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(cmp.Or(o.Patience, time.Minute)):
	}

	r := &Report{Took: time.Since(begin), CPUs: runtime.NumCPU()}
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	r.GCs = after.NumGC - before.NumGC
	r.Leaked = int64(kernel.Memory().Phys) - int64(phys)
	for i, p := range chosen {
		x := Result{Name: p.name, Ops: sh[i].ops.Load(), Bad: sh[i].bad.Load(), Stuck: int(sh[i].running.Load())}
		if why := sh[i].first.Load(); why != nil {
			x.First = *why
		}
		if p.note != nil {
			x.Notes = p.note(sh[i])
		}
		r.Results = append(r.Results, x)
	}
	return r, nil
}

func choose(only string) ([]part, error) {
	var chosen []part
	want := map[string]bool{}
	for name := range strings.SplitSeq(only, ",") {
		if name != "" {
			want[name] = true
		}
	}
	for _, p := range parts {
		if len(want) != 0 && !want[p.name] {
			continue
		}
		delete(want, p.name)
		if p.bare && !kernel.Running() {
			continue
		}
		chosen = append(chosen, p)
	}
	for name := range want {
		return nil, fmt.Errorf("selftest: no part %q; there are %s", name, strings.Join(Parts(), ", "))
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("selftest: nothing of %q can run here", only)
	}
	return chosen, nil
}

// wait lets the time pass and shows progress.
func wait(o Options, begin time.Time, chosen []part, sh []*shared) {
	const step = 5 * time.Second
	for left := o.Duration; left > 0; left = o.Duration - time.Since(begin) {
		select {
		case <-o.Stop:
			return
		case <-time.After(min(left, step)):
		}
		if o.Progress == nil || time.Since(begin) >= o.Duration {
			continue
		}
		var ops, bad uint64
		slowest, least := "", uint64(1<<63)
		for i, s := range sh {
			n := s.ops.Load()
			ops, bad = ops+n, bad+s.bad.Load()
			if n < least {
				slowest, least = chosen[i].name, n
			}
		}
		o.Progress(fmt.Sprintf("selftest: %3.0f of %.0f s, %d rounds, %d wrong, fewest %s with %d", time.Since(begin).Seconds(), o.Duration.Seconds(), ops, bad, slowest, least))
	}
}
