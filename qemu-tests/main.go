// Command qemu-tests is the rig: it boots Godwit on emulated machines, drives it through its serial console and judges
// what it does.
//
//	go run ./qemu-tests files           make the guest's kernel and initramfs: .cache/guest/vmlinuz, build/guest/initramfs
//	go run ./qemu-tests test            run every scenario on every ground and print a table
//	go run ./qemu-tests test -run REGEXP -on REGEXP     only some scenarios, on some grounds
//	go run ./qemu-tests test -go        the tests of all Go packages first; the summary names those that were skipped
//	go run ./qemu-tests demo            two hosts boot from the network, a guest moves between them
//	go run ./qemu-tests bench           measure sizes, times and instructions
//	go run ./qemu-tests soak            the long checks: -duration 1h for the guest, -rounds 1000 for leaks
//	go run ./qemu-tests list            tell what the scenarios are
//
// Run it in the repository's root. See docs/rig.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit/qemu-tests/debian"
	"godwit/qemu-tests/guest"
	"godwit/qemu-tests/job"
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
	"godwit/qemu-tests/scenarios"
)

// commands maps each word to what it does.
var commands = map[string]func(ctx context.Context, args []string) error{
	"setup": setup,
	"files": files,
	"test":  test,
	"demo":  demo,
	"bench": bench,
	"soak":  soak,
	"list":  list,
}

// logs is where runs leave what machines printed.
const logs = "build/rig"

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go run ./qemu-tests setup | files | test [-go] [-run REGEXP] [-on REGEXP] | demo | bench [-run REGEXP] | soak [-duration TIME] [-rounds N] [-run REGEXP] | list")
	}
	flag.Parse()
	run, ok := commands[flag.Arg(0)]
	if !ok {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	err := run(ctx, flag.Args()[1:])
	if err != nil && ctx.Err() != nil { // whatever that broke
		err = errInterrupted
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "qemu-tests:", err)
		os.Exit(1)
	}
}

var errInterrupted = errors.New("interrupted")

// init asks for a signal should `go run`, which started us, be killed: it passes none on, and what we started would go on
// without anyone to end it.
func init() {
	parent := os.Getppid()
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent)); err != nil || strings.TrimSpace(string(name)) != "go" {
		return
	}
	// The setting is the calling thread's (prctl(2)): the main one, which lives as long as we do.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "qemu-tests: ask for a signal when `go run` dies:", err)
	}
	if os.Getppid() != parent {
		os.Exit(1)
	}
}

// setup installs all packages.
func setup(ctx context.Context, _ []string) error {
	return debian.Install(ctx, debian.Rig, os.Stderr)
}

func files(ctx context.Context, _ []string) error {
	if err := debian.Install(ctx, debian.Image, os.Stderr); err != nil {
		return err
	}
	f, err := guest.Build(ctx, ".", os.Stderr)
	if err == nil {
		fmt.Println(f.Kernel, f.Initramfs)
	}
	return err
}

// prepare installs and builds what scenarios need.
func prepare(ctx context.Context) (rig.Files, error) {
	if err := debian.Install(ctx, debian.Rig, os.Stderr); err != nil {
		return rig.Files{}, err
	}
	g, err := guest.Build(ctx, ".", os.Stderr)
	if err != nil {
		return rig.Files{}, err
	}
	mkimage := job.Command(ctx, "go", "run", "./boot/mkimage", "-o", "build", "-iso=false", "-module", g.Kernel, "-module", g.Initramfs)
	mkimage.Stdout, mkimage.Stderr = os.Stderr, os.Stderr
	if err := mkimage.Run(); err != nil {
		return rig.Files{}, fmt.Errorf("build the image: %w", err)
	}
	return rig.Files{Image: "build/godwit.img", ELF: "build/godwit.elf", Guest: g}, nil
}

func test(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("test", flag.ExitOnError)
	which := fs.String("run", "", "only scenarios that match this `regexp`")
	where := fs.String("on", "", "only grounds that match this `regexp`")
	code := fs.Bool("go", false, "the tests of all Go packages first")
	fs.Parse(args)
	var tests rig.GoResult
	if *code {
		var err error
		if tests, err = rig.GoTests(ctx, os.Stdout, "./..."); err != nil {
			return err
		}
	}
	r := rig.Runner{Dir: logs, Cores: max(2, runtime.NumCPU()), Progress: os.Stderr}
	var err error
	if r.Scenarios, err = choose("scenario", *which, scenarios.All(), scenarioName); err != nil {
		return err
	}
	if r.Grounds, err = choose("ground", *where, scenarios.Grounds(), machine.Ground.Name); err != nil {
		return err
	}
	if r.Files, err = prepare(ctx); err != nil {
		return err
	}
	begin := time.Now()
	results := r.Run(ctx)
	fmt.Println()
	if *code {
		rig.GoTable(os.Stdout, tests)
		fmt.Println()
	}
	failed := rig.Table(os.Stdout, results)
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case failed != 0:
		return fmt.Errorf("%d of %d scenarios failed in %v", failed, len(results), time.Since(begin).Round(time.Second))
	}
	return nil
}

func scenarioName(s *rig.Scenario) string { return s.Name }

// choose returns those of all whose names match a regular expression. None is an error: a run of nothing would pass.
func choose[T any](what, pattern string, all []T, name func(T) string) (chosen []T, err error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, x := range all {
		names = append(names, name(x))
		if match.MatchString(name(x)) {
			chosen = append(chosen, x)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no %s matches %q; there are: %s", what, pattern, strings.Join(names, " "))
	}
	return chosen, nil
}

// bestGround is KVM where that offers nested virtualization, else QEMU's emulation.
func bestGround() (machine.Ground, error) {
	kvm := machine.QEMU{KVM: true}
	if kvm.Available() == nil {
		return kvm, nil
	}
	return machine.QEMU{}, machine.QEMU{}.Available()
}

// demo prints its verdict on the last line, whatever happens.
func demo(ctx context.Context, _ []string) error {
	err := runDemo(ctx)
	if ctx.Err() != nil {
		err = errInterrupted // what it broke is of no interest
	}
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n")
		if why != err.Error() {
			fmt.Println(err)
		}
		fmt.Println("demo: failed:", why)
		os.Exit(1)
	}
	fmt.Println("demo: ok")
	return nil
}

func runDemo(ctx context.Context) error {
	fmt.Println("preparing: packages, guest, host image")
	files, err := prepare(ctx)
	if err != nil {
		return err
	}
	ground, err := bestGround()
	if err != nil {
		return err
	}
	fmt.Printf("ground: %s (%s)\n", ground.Name(), ground.Vendor())
	r := rig.Runner{Scenarios: []*rig.Scenario{scenarios.Demo}, Grounds: []machine.Ground{ground}, Files: files, Dir: logs, Cores: 2, Progress: os.Stdout, Alone: true}
	res := r.Run(ctx)[0]
	report(res)
	if res.Outcome != rig.Passed {
		return errors.New(res.Why)
	}
	return nil
}

func report(res rig.Result) {
	fmt.Println()
	for _, f := range res.Facts {
		fmt.Printf("%-24s %s\n", f.Name, f.Value)
	}
	fmt.Println()
}

func bench(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench", flag.ExitOnError)
	which := fs.String("run", "", "only measurements that match this `regexp`")
	fs.Parse(args)
	chosen, err := choose("measurement", *which, scenarios.Benches(), scenarioName)
	if err != nil {
		return err
	}
	files, err := prepare(ctx)
	if err != nil {
		return err
	}
	failed := 0
	for _, s := range chosen {
		r := rig.Runner{Scenarios: []*rig.Scenario{s}, Grounds: []machine.Ground{machine.QEMU{}}, Files: files, Dir: logs, Cores: 1, Progress: os.Stderr}
		res := r.Run(ctx)[0]
		fmt.Printf("\n%s: %s\n", s.Name, s.About)
		for _, f := range res.Facts {
			fmt.Printf("  %s %s\n", f.Name, f.Value)
		}
		if res.Outcome != rig.Passed {
			failed++
			fmt.Printf("  %v: %s\n", res.Outcome, res.Why)
		}
		fmt.Println()
	}
	if failed != 0 {
		return fmt.Errorf("%d measurements failed", failed)
	}
	return ctx.Err()
}

// soak runs the checks that take too long for every day, two at once where there are processors for it.
func soak(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("soak", flag.ExitOnError)
	which := fs.String("run", "", "only checks that match this `regexp`")
	duration := fs.Duration("duration", time.Hour, "how long the guest works")
	rounds := fs.Int("rounds", 1000, "rounds of create, start, stop and delete")
	fs.Parse(args)
	if *duration <= 0 || *rounds <= 0 {
		return errors.New("soak: the duration and the number of rounds must be above zero")
	}
	ground, err := bestGround()
	if err != nil {
		return err
	}
	r := rig.Runner{Grounds: []machine.Ground{ground}, Dir: logs, Cores: max(2, runtime.NumCPU()), Progress: os.Stderr}
	for _, g := range scenarios.Grounds() {
		if _, ok := g.(machine.Bochs); ok {
			r.Grounds = append(r.Grounds, g)
		}
	}
	if r.Scenarios, err = choose("check", *which, scenarios.Soaks(*duration, *rounds), scenarioName); err != nil {
		return err
	}
	if r.Files, err = prepare(ctx); err != nil {
		return err
	}
	results := r.Run(ctx)
	for _, res := range results {
		report(res)
	}
	switch failed := rig.Table(os.Stdout, results); {
	case ctx.Err() != nil:
		return errInterrupted
	case failed != 0:
		return fmt.Errorf("%d of %d long checks failed", failed, len(results))
	}
	return nil
}

func list(context.Context, []string) error {
	for _, s := range scenarios.All() {
		fmt.Printf("%-16s %s\n", s.Name, s.About)
		for _, g := range scenarios.Grounds() {
			if s.Skip != nil && s.Skip(g) != "" {
				fmt.Printf("%-16s not on %s: %s\n", "", g.Name(), s.Skip(g))
			}
		}
	}
	return nil
}
