package rig

import (
	"fmt"
	"io"
	"strings"
)

// Table prints results, scenario by ground, the reasons for what was not run or failed, and the totals on the last
// line. It returns how many failed.
func Table(w io.Writer, results []Result) (failed int) {
	var scenarios, grounds []string
	cells := map[[2]string]Result{}
	for _, r := range results {
		scenarios, grounds = appendNew(scenarios, r.Scenario), appendNew(grounds, r.Ground)
		cells[[2]string{r.Scenario, r.Ground}] = r
	}
	var notes []string
	rows := [][]string{append([]string{"scenario"}, grounds...)}
	passed, notRun := 0, 0
	for _, s := range scenarios {
		row := []string{s}
		for _, g := range grounds {
			r, ok := cells[[2]string{s, g}]
			switch {
			case !ok:
				row = append(row, "")
			case r.Outcome == Passed:
				passed++
				row = append(row, fmt.Sprintf("passed %.0f s", r.Took.Seconds()))
			case r.Outcome == Failed:
				failed++
				row = append(row, fmt.Sprintf("FAILED (%d)", note(&notes, "failed: "+s+" on "+g+": "+telling(r.Why))))
			default:
				notRun++
				row = append(row, fmt.Sprintf("not run (%d)", note(&notes, "not run: "+r.Why)))
			}
		}
		rows = append(rows, row)
	}
	printAligned(w, rows)
	if len(notes) != 0 {
		fmt.Fprintln(w)
	}
	for i, n := range notes {
		fmt.Fprintf(w, "(%d) %s\n", i+1, n)
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d not run\n", passed, failed, notRun)
	return failed
}

// telling is the part of a reason that fits on one line: its first line, and, where that only announces more, the last
// thing said below it.
func telling(why string) string {
	first, rest, _ := strings.Cut(why, "\n")
	announced := strings.HasSuffix(first, ":")
	first = strings.TrimSuffix(first, "; last lines:")
	if !announced {
		return first
	}
	last := ""
	for line := range strings.Lines(rest) {
		text, quoted := strings.CutPrefix(strings.TrimSpace(line), "|")
		if text = strings.TrimSpace(text); text != "" && text != "godwit>" && (quoted || last == "") {
			last = text
		}
	}
	if last == "" {
		return strings.TrimSuffix(first, ":")
	}
	return strings.TrimSuffix(first, ":") + ": " + last
}

// note returns the number of a note, the same for the same text.
func note(notes *[]string, text string) int {
	for i, n := range *notes {
		if n == text {
			return i + 1
		}
	}
	*notes = append(*notes, text)
	return len(*notes)
}

func appendNew(list []string, s string) []string {
	for _, x := range list {
		if x == s {
			return list
		}
	}
	return append(list, s)
}

func printAligned(w io.Writer, rows [][]string) {
	var width []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len(c))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			fmt.Fprintf(&b, "%-*s  ", width[i], c)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
