// Package conformance is a suite of small guests that holds a backend to the
// contract of package vcpu. It knows no vendor: the expectations are the same on
// VT-x and AMD-V. It runs inside the host image, over the real hardware (or the
// emulator that plays it).
//
// A guest is a few instructions in one of five modes, on a machine of 4 MiB without
// devices: what a test wants to know, it reads from exits, registers and guest
// memory. Every wait has a deadline, so a backend that loses a guest fails one test.
package conformance

import (
	"context"
	"fmt"
	"strings"

	"godwit/kernel"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

// A Result is one test's.
type Result struct {
	Name    string
	Err     error  // nil if it passed
	Skipped string // why it could not run on this host
	Exits   uint64
}

// A Summary counts results.
type Summary struct{ Passed, Failed, Skipped int }

type test struct {
	name string
	mode mode // the one it runs in, or everyMode
	run  func(m *machine)
}

// Run runs every test whose name filter matches over backend b, and reports each
// when it ends. Once ctx has ended no other test begins.
func Run(ctx context.Context, b vcpu.Backend, a mem.Allocator, filter string, report func(Result)) (s Summary) {
	for _, t := range tests() {
		modes := []mode{t.mode}
		if t.mode == everyMode {
			modes = modes[:0]
			for m := range everyMode {
				modes = append(modes, m)
			}
		}
		for _, mode := range modes {
			r := Result{Name: t.name}
			if t.mode == everyMode {
				r.Name += "/" + mode.String()
			}
			if !matches(r.Name, filter) {
				continue
			}
			if ctx.Err() != nil {
				return s
			}
			runOne(b, a, t, mode, &r)
			switch {
			case r.Skipped != "":
				s.Skipped++
			case r.Err != nil:
				s.Failed++
			default:
				s.Passed++
			}
			report(r)
		}
	}
	return s
}

// matches takes a part of the name, or, behind "!", parts that it must not have: an
// emulator that stops at what a test does can be run without it.
func matches(name, filter string) bool {
	without, ok := strings.CutPrefix(filter, "!")
	if !ok {
		return strings.Contains(name, filter)
	}
	for _, x := range strings.Split(without, ",") {
		if strings.Contains(name, x) {
			return false
		}
	}
	return true
}

// A failure ends a test.
type failure struct{ err error }

type skip struct{ why string }

func runOne(b vcpu.Backend, a mem.Allocator, t test, mode mode, r *Result) {
	var m *machine
	defer func() {
		switch x := recover().(type) {
		case nil:
		case failure:
			r.Err = x.err
		case skip:
			r.Skipped = x.why
		default:
			panic(x)
		}
		if m != nil {
			r.Exits = m.cpu.Stats().Entries
			if err := m.close(); err != nil && r.Err == nil {
				r.Err = err
			}
		}
	}()
	var err error
	if m, err = newMachine(b, a); err != nil {
		r.Err = err
		return
	}
	m.mode = mode
	t.run(m)
}

func tests() (all []test) {
	for _, group := range [][]test{
		instructionTests, memoryTests, eventTests, windowTests, stateTests, registerTests, modeTests, taskTests, emulationTests, controlTests, runTests, hostileTests,
	} {
		all = append(all, group...)
	}
	return all
}

// fail ends the test.
func (m *machine) fail(format string, args ...any) {
	panic(failure{fmt.Errorf(format, args...)})
}

func (m *machine) must(err error) {
	if err != nil {
		m.fail("%w", err)
	}
}

// check ends the test unless got is want.
func check[T comparable](m *machine, what string, got, want T) {
	if got != want {
		m.fail("%s: %s, want %s", what, show(got), show(want))
	}
}

func show(x any) string {
	switch x.(type) {
	case uint8, uint16, uint32, uint64, int:
		return fmt.Sprintf("%#x", x)
	}
	return fmt.Sprintf("%+v", x)
}

// patience, in milliseconds, is how long a guest may take that does what it shall: nobody may give it a processor meanwhile.
const patience = 60000

// soon is a host TSC value some virtual milliseconds away.
func soon(ms uint64) uint64 {
	hz := kernel.TSCFrequency()
	if hz == 0 {
		hz = 1e9
	}
	return kernel.TSC() + ms*(hz/1000)
}
