package rig

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit/qemu-tests/machine"
)

type fakeGround struct {
	name    string
	err     error
	threads int
}

func (f fakeGround) Name() string           { return f.name }
func (f fakeGround) Vendor() machine.Vendor { return machine.SVM }
func (f fakeGround) Available() error       { return f.err }
func (f fakeGround) Scale() float64         { return 1 }
func (f fakeGround) Threads() int           { return f.threads }
func (f fakeGround) Start(context.Context, string, machine.Spec) (*machine.Machine, error) {
	return nil, errors.New("a fake ground has no machines")
}

func TestRunnerJudgesAndTheTableTells(t *testing.T) {
	scenarios := []*Scenario{
		{Name: "good", Run: func(_ context.Context, t *T) error { t.Measure("boot", "%d ms", 5); return nil }},
		{Name: "bad", Run: func(context.Context, *T) error { return errors.New("a reason\nand more") }},
		{Name: "panics", Run: func(context.Context, *T) error { panic("oh") }},
		{Name: "hangs", Limit: time.Millisecond, Run: func(ctx context.Context, _ *T) error { <-ctx.Done(); return context.Cause(ctx) }},
		{Name: "picky", Skip: func(machine.Ground) string { return "does not fit" }, Run: func(context.Context, *T) error { panic("ran") }},
	}
	r := Runner{Scenarios: scenarios, Grounds: []machine.Ground{fakeGround{name: "G1"}, fakeGround{name: "G2", err: errors.New("not here")}}, Dir: t.TempDir(), Cores: 2, Progress: io.Discard}
	var b strings.Builder
	if failed := Table(&b, r.Run(t.Context())); failed != 3 {
		t.Errorf("%d failed, want 3", failed)
	}
	const want = `scenario  G1           G2
good      passed 0 s   not run (1)
bad       FAILED (2)   not run (1)
panics    FAILED (3)   not run (1)
hangs     FAILED (4)   not run (1)
picky     not run (5)  not run (1)

(1) not run: not here
(2) failed: bad on G1: a reason
(3) failed: panics on G1: panic: oh
(4) failed: hangs on G1: took longer than 1ms
(5) not run: does not fit

1 passed, 3 failed, 6 not run
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestReasonsFitOnOneLine(t *testing.T) {
	for why, want := range map[string]string{
		"short":         "short",
		"one\nand more": "one",
		"h: waiting for x: nothing printed for 20s; last lines:\n    | a\n    | panic: b\n    | godwit> \n\nlogs: d": "h: waiting for x: nothing printed for 20s: panic: b",
		"selftest: a result was wrong:\nFAIL x\n":                                                          "selftest: a result was wrong: FAIL x",
		"h: guest g is not running, but crashed: triple fault\n  its events:\n    | 12:00:00 triple fault": "h: guest g is not running, but crashed: triple fault",
		"it printed:\n": "it printed",
	} {
		if got := telling(why); got != want {
			t.Errorf("%q becomes %q, want %q", why, got, want)
		}
	}
}

func TestRunnerKeepsWithinItsCores(t *testing.T) {
	var busy, most atomic.Int32
	var scenarios []*Scenario
	for i := range 12 {
		n := int32(1 + i%3)
		scenarios = append(scenarios, &Scenario{Name: "s" + string(rune('a'+i)), Cores: int(n), Run: func(context.Context, *T) error {
			now := busy.Add(min(n, 2))
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			runtime.Gosched()
			busy.Add(-min(n, 2))
			return nil
		}})
	}
	r := Runner{Scenarios: scenarios, Grounds: []machine.Ground{fakeGround{name: "G"}}, Dir: t.TempDir(), Cores: 2, Progress: io.Discard}
	for _, res := range r.Run(t.Context()) {
		if res.Outcome != Passed {
			t.Errorf("%s: %v", res.Scenario, res.Why)
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d cores were busy at once, there are 2", most.Load())
	}
}

func TestWhatNeedsAllProcessorsComesLast(t *testing.T) {
	var order []string // nothing runs beside another here
	note := func(name string) func(context.Context, *T) error {
		return func(context.Context, *T) error { order = append(order, name); return nil }
	}
	wide, pair := &Scenario{Name: "wide", Cores: 2, Run: note("wide")}, &Scenario{Name: "pair", Cores: 2, Machines: 2, Run: note("pair")}
	all := []*Scenario{wide, pair, {Name: "narrow", Run: note("narrow")}}
	r := Runner{Scenarios: all, Grounds: []machine.Ground{fakeGround{name: "G"}}, Dir: t.TempDir(), Cores: 2, Progress: io.Discard}
	results := r.Run(t.Context())
	if got := strings.Join(order, " "); got != "narrow wide pair" || results[0].Scenario != "wide" || results[2].Scenario != "narrow" {
		t.Errorf("ran %s; results %+v", got, results)
	}
	slow := fakeGround{name: "S", threads: 1} // one thread a machine
	if wide.cores(slow) != 1 || pair.cores(slow) != 2 {
		t.Errorf("where a machine is one thread, two processors take %d, two machines %d", wide.cores(slow), pair.cores(slow))
	}
}

func TestInterruptedRunsAreNotFailures(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var ran atomic.Int32
	s := &Scenario{Name: "s", Run: func(ctx context.Context, _ *T) error { ran.Add(1); cancel(); <-ctx.Done(); return context.Cause(ctx) }}
	r := Runner{Scenarios: []*Scenario{s, s, s}, Grounds: []machine.Ground{fakeGround{name: "G"}}, Dir: t.TempDir(), Cores: 1, Progress: io.Discard}
	for i, res := range r.Run(ctx) {
		if res.Outcome != NotRun || res.Why != "interrupted" {
			t.Errorf("run %d: %v %s", i, res.Outcome, res.Why)
		}
	}
	if ran.Load() != 1 {
		t.Errorf("%d runs after ^C", ran.Load())
	}
}

func TestReplyIsFoundBehindAWrappedEcho(t *testing.T) {
	const text = "godwit> vm create a ker\nnel=module:vmlinuz\nline one\nline two\ngodwit> "
	m := reply("vm create a kernel=module:vmlinuz").FindStringSubmatch(text)
	if m == nil || m[1] != "line one\nline two\n" {
		t.Errorf("got %q", m)
	}
	if m := reply("vm list").FindStringSubmatch("godwit> vm list\nno virtual mach"); m != nil {
		t.Errorf("an unfinished reply matched: %q", m)
	}
}

func TestVerdictOfAGuestThatDidNothingIsNotOK(t *testing.T) {
	const good = "guest: final ok up=66.435 cpus=1 pages=12288 writes=24499 checks=36710 passes=1 ticks=6323 lost=0 gap=190.1ms signals=1660 drift=-84ppm sum=0\n"
	v, ok := ParseVerdict(good)
	if !ok || !v.OK || v.idle() != "" {
		t.Errorf("%+v, %v: %s", v, ok, v.idle())
	}
	for _, change := range [][2]string{{"signals=1660", "signals=0"}, {"ticks=6323", "ticks=0"}, {"writes=24499 ", ""}, {"checks=36710", "checks=12287"}} {
		v, ok := ParseVerdict(strings.Replace(good, change[0], change[1], 1))
		if !ok || v.idle() == "" {
			t.Errorf("with %q: %+v, %v", change[1], v, ok)
		}
	}
}

func TestAnAnswerIsReadBetweenLinesOfTheLog(t *testing.T) {
	for text, ok := range map[string]bool{
		"{\"name\": \"a\"}\n": true, "godwit: a [note] {here}\n{\n  \"name\": \"a\"\n}\nkernel: later\n": true, "kernel: a note\n": false, "": false,
	} {
		var v struct{ Name string }
		if err := readAnswer(text, &v); (err == nil && v.Name == "a") != ok {
			t.Errorf("%q: %+v, %v", text, v, err)
		}
	}
}

func TestTwoRunsOfAScenarioDoNotShareAFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	free, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "host.serial")
	if err := os.WriteFile(log, []byte("of the first"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); err == nil || !strings.Contains(err.Error(), "another run") {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err != nil {
		t.Fatal(err)
	}
	free()
	if free, err = claim(dir); err != nil {
		t.Fatal(err)
	}
	defer free()
	if _, err := os.Stat(log); !os.IsNotExist(err) {
		t.Fatalf("the folder still holds the first run's log: %v", err)
	}
}

func TestAScenarioAloneIsNotNamedInEveryLine(t *testing.T) {
	s := &Scenario{Name: "s", Run: func(_ context.Context, t *T) error { t.Logf("begun"); return nil }}
	for alone, want := range map[bool]string{true: "0.0  begun\n", false: "0.0  s on G: begun\n"} {
		var b strings.Builder
		r := Runner{Scenarios: []*Scenario{s}, Grounds: []machine.Ground{fakeGround{name: "G"}}, Dir: t.TempDir(), Cores: 1, Progress: &b, Alone: alone}
		r.Run(t.Context())
		if got := strings.TrimLeft(b.String(), " "); !strings.HasPrefix(got, want) || alone && strings.Count(got, "\n") != 1 {
			t.Errorf("alone %v: %q", alone, got)
		}
	}
}
