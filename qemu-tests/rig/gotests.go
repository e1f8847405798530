package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"godwit/qemu-tests/job"
)

// GoResult is what `go test` did.
type GoResult struct {
	Packages int
	Passed   int // tests, not counting subtests
	Failed   int // likewise; a package that does not build or ends early counts as one
	Skipped  []GoSkip
}

// GoSkip is a test, or a subtest, that did not run.
type GoSkip struct{ Package, Test, Why string }

// GoTests runs `go test` on packages. It prints what `go test` would print, as soon as it is known.
func GoTests(ctx context.Context, w io.Writer, packages ...string) (GoResult, error) {
	cmd := job.Command(ctx, "go", append([]string{"test", "-json"}, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return GoResult{}, err
	}
	if err := cmd.Start(); err != nil {
		return GoResult{}, err
	}
	r, err := readGoTests(out, w)
	if err != nil {
		io.Copy(io.Discard, out)
	}
	ended := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case err != nil:
		return r, err
	case r.Failed != 0:
		return r, fmt.Errorf("go test: %d failed", r.Failed)
	case ended != nil:
		return r, fmt.Errorf("go test: %w", ended)
	}
	return r, nil
}

// goEvent is a line of `go test -json`; see `go doc test2json`, and `go help buildjson` for ImportPath.
type goEvent struct {
	Action, Package, Test, Output, ImportPath string
}

// readGoTests reads `go test -json` and prints the lines of packages, and what failing tests said.
func readGoTests(in io.Reader, w io.Writer) (r GoResult, err error) {
	said := map[[2]string][]string{} // by package and test: what it printed
	failed := map[string]bool{}      // packages of which a test failed
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 && err == io.EOF {
			return r, nil
		}
		if err != nil && err != io.EOF {
			return r, err
		}
		var e goEvent
		if json.Unmarshal(line, &e) != nil { // not from a test: the go command itself complains
			w.Write(line)
			continue
		}
		who := [2]string{e.Package, e.Test}
		top := !strings.Contains(e.Test, "/")
		switch e.Action {
		case "build-output":
			io.WriteString(w, e.Output)
		case "output":
			if e.Test == "" && isVerdict(e.Output) {
				io.WriteString(w, e.Output)
			} else if !strings.HasPrefix(e.Output, "=== ") {
				said[who] = append(said[who], e.Output)
			}
		case "pass", "fail", "skip":
			if e.Test == "" {
				if e.Action != "skip" { // it has tests
					r.Packages++
				}
				if e.Action == "fail" && !failed[e.Package] {
					r.Failed++
					for from, lines := range said { // of the test that ended the program, and of the program
						if from[0] == e.Package {
							printAll(w, lines)
						}
					}
				}
				break
			}
			switch e.Action {
			case "pass":
				if top {
					r.Passed++
				}
			case "fail":
				failed[e.Package] = true
				if top {
					r.Failed++
				}
				printAll(w, said[who])
			case "skip":
				r.Skipped = append(r.Skipped, GoSkip{e.Package, e.Test, reason(said[who])})
			}
			delete(said, who)
		}
	}
}

// isVerdict tells whether a package's line is what `go test` prints at its end.
func isVerdict(line string) bool {
	for _, p := range []string{"ok  \t", "FAIL\t", "?   \t", "---\t"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

func printAll(w io.Writer, lines []string) {
	for _, l := range lines {
		io.WriteString(w, l)
	}
}

var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: `)

// reason is what a skipped test said last, without its file and line.
func reason(said []string) string {
	text := ""
	for _, l := range said {
		at := logged.FindString(l)
		switch {
		case at != "":
			text = l[len(at):]
		case strings.HasPrefix(l, "        "): // goes on
			text += l
		}
	}
	return strings.Join(strings.Fields(text), " ")
}

// GoTable prints how many Go tests passed, and which were skipped and why.
func GoTable(w io.Writer, r GoResult) {
	fmt.Fprintf(w, "Go tests: %d passed, %d failed, %d skipped, in %d packages\n", r.Passed, r.Failed, len(r.Skipped), r.Packages)
	list := slices.Clone(r.Skipped)
	slices.SortFunc(list, func(a, b GoSkip) int { return strings.Compare(a.Package+a.Test, b.Package+b.Test) })
	for _, s := range list {
		fmt.Fprintf(w, "  skipped: %s: %s: %s\n", s.Package, s.Test, s.Why)
	}
}
