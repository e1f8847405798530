package rig

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"godwit/qemu-tests/machine"
)

// Runner runs scenarios, as many at once as the computer has processors for.
type Runner struct {
	Scenarios []*Scenario
	Grounds   []machine.Ground
	Files     Files
	Dir       string // logs go to Dir/SCENARIO-GROUND
	Cores     int
	Progress  io.Writer
	// Alone: there is one scenario on one ground, whose lines need not say so, and whose facts the caller prints.
	Alone bool
}

// Run runs everything and returns the results in the order of the scenarios and grounds.
func (r *Runner) Run(ctx context.Context) []Result {
	results := make([]Result, len(r.Scenarios)*len(r.Grounds))
	cores := newCores(r.Cores)
	out := &lines{w: r.Progress, begin: time.Now()}
	var wg sync.WaitGroup
	// Those that need all processors come last: no processor then idles until another is free.
	for _, alone := range []bool{false, true} {
		for i, s := range r.Scenarios {
			for j, g := range r.Grounds {
				need := min(s.cores(g), r.Cores)
				if (need == r.Cores) != alone {
					continue
				}
				result := &results[i*len(r.Grounds)+j]
				if !cores.take(ctx, need) {
					*result = Result{Scenario: s.Name, Ground: g.Name(), Why: "interrupted"}
					continue
				}
				wg.Go(func() {
					defer cores.give(need)
					*result = r.one(ctx, s, g, out)
				})
			}
		}
	}
	wg.Wait()
	return results
}

func (r *Runner) one(ctx context.Context, s *Scenario, g machine.Ground, out *lines) Result {
	dir := filepath.Join(r.Dir, slug(s.Name+"-"+g.Name()))
	label := fmt.Sprintf("%s on %s: ", s.Name, g.Name())
	if r.Alone {
		label = ""
	}
	res := s.run(ctx, g, r.Files, dir, out.prefixed(label))
	switch {
	case r.Alone:
	case res.Outcome == Passed:
		out.printf("%spassed in %.1f s%s", label, res.Took.Seconds(), facts(res.Facts))
	case res.Outcome == Failed:
		out.printf("%sFAILED after %.1f s: %s", label, res.Took.Seconds(), res.Why)
	case res.Outcome == NotRun:
		out.printf("%snot run: %s", label, res.Why)
	}
	return res
}

// claim empties the folder for a run's logs and keeps other runs out of it until free is called.
func claim(dir string) (free func(), err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("another run of this is at work in %s: wait for its end, or run this one in another copy of the repository", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	old, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range old {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return func() { d.Close() }, nil
}

func facts(fs []Fact) (s string) {
	for i, f := range fs {
		if i == 0 {
			s += "; "
		} else {
			s += ", "
		}
		s += f.Name + " " + f.Value
	}
	return s
}

// cores counts free processors.
type cores struct {
	mu   sync.Mutex
	cond *sync.Cond
	free int
}

func newCores(n int) *cores {
	c := &cores{free: n}
	c.cond = sync.NewCond(&c.mu)
	return c
}

// take is called by one goroutine only. It tells whether it got them before ctx ended.
func (c *cores) take(ctx context.Context, n int) bool {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cond.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.free < n && ctx.Err() == nil {
		c.cond.Wait()
	}
	if ctx.Err() != nil {
		return false
	}
	c.free -= n
	return true
}

func (c *cores) give(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free += n
	c.cond.Broadcast()
}

// lines prints whole lines from several goroutines, each with the time since the beginning.
type lines struct {
	mu    sync.Mutex
	w     io.Writer
	begin time.Time
}

func (l *lines) printf(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%6.1f  %s\n", time.Since(l.begin).Seconds(), fmt.Sprintf(format, a...))
}

func (l *lines) prefixed(p string) io.Writer { return prefixed{l, p} }

type prefixed struct {
	l      *lines
	prefix string
}

func (p prefixed) Write(b []byte) (int, error) {
	text := b
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	p.l.printf("%s%s", p.prefix, text)
	return len(b), nil
}
