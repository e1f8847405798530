package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

const benchUsage = `godwitctl disk bench puts godwit's VHDX beside a raw file and beside qemu's raw, VHDX and qcow2, in DIR's file system.

usage: godwitctl disk bench [OPTION ...] DIR

Each row is one load; a round runs it once on each side, in changing order. Shown are the medians, and the medians of
the ratios within a round: above 1.00 godwit's VHDX is the faster one. The first change of an opening (new identities
in the headers, and with flushes the start of the log) is in the time beside qemu's, where it is too; beside godwit's
raw file, which has none, it is left out.

`

// A benchRow is one load, for all sides.
type benchRow struct {
	Name     string `json:"name"`
	Write    bool   `json:"write"`
	Trim     bool   `json:"trim,omitempty"`
	Scatter  bool   `json:"scattered"` // each request far from the last
	Allocate bool   `json:"allocating"`
	Size     int64  `json:"size"`
	Depth    int    `json:"depth"`
	Flush    int    `json:"flush_every,omitempty"`
	NoDrain  bool   `json:"no_drain,omitempty"`
}

// A figure is what one side did in one row, in requests a second.
type figure struct {
	Requests int       `json:"requests"` // of a run
	Median   float64   `json:"median"`
	Runs     []float64 `json:"runs"`
	// Steady is without the first change, Opening how many seconds that took; of
	// our own sides.
	Steady  []float64 `json:"steady,omitempty"`
	Opening []float64 `json:"opening_seconds,omitempty"`
	// Ratio is the median of ours to this side's, round by round; to our raw
	// file's, of what is steady.
	Ratio float64 `json:"ratio"`
	Error string  `json:"error,omitempty"`
}

type benchResult struct {
	benchRow
	Unit  string             `json:"unit"`
	Sides map[string]*figure `json:"sides"`
}

type bench struct {
	dir      string
	size     int64 // of the disks whose blocks are allocated
	vast     int64 // of those whose blocks are not
	block    int64
	most     int64 // bytes that an allocating run writes
	direct   bool
	aio      string
	rounds   int
	duration time.Duration
	sides    []side
	note     func(string)
	refilled int
}

// step between requests. Scattered ones visit each place once, in odd strides of
// about 0.618 of the disk or of 2 GiB, the most that qemu-img takes: no two that
// follow each other are near, and no readahead helps.
func (b *bench) step(r benchRow) int64 {
	if !r.Scatter {
		return r.Size
	}
	unit, n := r.Size, b.size/r.Size
	if r.Allocate {
		unit, n = b.block, b.vast/b.block // each in another block
	}
	n = min(n, 2<<30/unit)
	return (int64(float64(n)*(math.Sqrt(5)-1)/2) | 1) * unit
}

func (b *bench) diskSize(r benchRow) int64 {
	if r.Allocate {
		return b.vast
	}
	return b.size
}

// limit is how many requests a run may have.
func (b *bench) limit(r benchRow) int {
	switch {
	case r.Trim:
		return int(b.size / r.Size)
	case r.Allocate && r.Scatter:
		return int(min(b.vast/b.block, b.most/r.Size))
	case r.Allocate:
		return int(b.most / r.Size)
	}
	return 1 << 30
}

func benchRows() (rows []benchRow) {
	name := func(r benchRow) benchRow {
		w := []string{"read"}
		if r.Write {
			w[0] = "write"
		}
		if r.Trim {
			w[0] = "trim"
		}
		if r.Allocate {
			w = append(w, "allocating")
		}
		w = append(w, map[bool]string{false: "sequential", true: "scattered"}[r.Scatter], shortSize(r.Size), fmt.Sprintf("depth %d", r.Depth))
		switch {
		case r.Flush > 0 && r.NoDrain:
			w = append(w, fmt.Sprintf("flush beside every %d", r.Flush))
		case r.Flush > 0:
			w = append(w, fmt.Sprintf("flush every %d", r.Flush))
		}
		r.Name = strings.Join(w, ", ")
		return r
	}
	for _, kind := range []benchRow{{}, {Write: true}, {Write: true, Allocate: true}, {Write: true, Flush: 1}, {Write: true, Allocate: true, Flush: 1}} {
		for _, scatter := range []bool{false, true} {
			for _, size := range []int64{4 << 10, 64 << 10, 1 << 20} {
				for _, depth := range []int{1, 8, 64} {
					r := kind
					r.Scatter, r.Size, r.Depth = scatter, size, depth
					r.Flush *= depth
					rows = append(rows, name(r))
				}
			}
		}
	}
	for _, allocate := range []bool{false, true} {
		for _, depth := range []int{8, 64} {
			rows = append(rows, name(benchRow{Write: true, Allocate: allocate, Scatter: true, Size: 4 << 10, Depth: depth, Flush: depth, NoDrain: true}))
		}
	}
	for _, size := range []int64{64 << 10, 2 << 20} {
		rows = append(rows, name(benchRow{Trim: true, Size: size, Depth: 1}))
	}
	return rows
}

func shortSize(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%dM", n>>20)
	}
	return fmt.Sprintf("%dK", n>>10)
}

func (c *diskCommand) bench(ctx context.Context, names []string) (int, error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	pick, err := regexp.Compile(c.rows)
	if err != nil {
		return 2, fmt.Errorf("-rows: %w", err)
	}
	rows := slices.DeleteFunc(benchRows(), func(r benchRow) bool { return !pick.MatchString(r.Name) })
	if len(rows) == 0 {
		return 2, fmt.Errorf("no row matches %q", c.rows)
	}
	if c.runs < 1 || c.time <= 0 || c.size%(16<<20) != 0 {
		return 2, errors.New("-runs must be 1 or more, -time must be positive, and -size a multiple of 16M")
	}
	b := &bench{
		size: int64(c.size), vast: 64 << 30, block: int64(c.block), most: int64(c.size), direct: c.direct, aio: c.aio, rounds: c.runs,
		duration: c.time, note: func(s string) { fmt.Fprintln(os.Stderr, s) },
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(names[0], &st); err != nil {
		return 1, &os.PathError{Op: "statfs", Path: names[0], Err: err}
	}
	if free, need := int64(st.Bavail)*st.Bsize, 12*b.size; free < need {
		return 1, fmt.Errorf("%s has %s free, the images take up to %s; free some, or choose a smaller -size", names[0], human(free), human(need))
	}
	if b.dir, err = os.MkdirTemp(names[0], "godwit-bench-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(b.dir)
	meter := !c.noMeter && term.IsTerminal(int(os.Stderr.Fd()))
	start := time.Now()
	progress := func(done int, what string) {
		if c.noMeter {
			return
		}
		left := ""
		if done > 0 {
			left = fmt.Sprintf(", %v left", (time.Since(start) / time.Duration(done) * time.Duration(len(rows)-done)).Round(time.Second))
		}
		before, after := "\r\x1b[K", ""
		if !meter { // a line a row
			before, after = "", "\n"
		}
		fmt.Fprintf(os.Stderr, "%s%d of %d%s: %s%s", before, done, len(rows), left, what, after)
	}
	progress(0, "making the images")
	if err := b.prepare(ctx); err != nil {
		return 1, err
	}
	var results []benchResult
	var failed error
	for i, r := range rows {
		progress(i, r.Name)
		x, err := b.run(ctx, r)
		if ctx.Err() != nil {
			err = errors.New("interrupted; the images were removed, and the rows before this one shown")
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w", r.Name, err)
			break
		}
		results = append(results, x)
	}
	if meter {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	type report struct {
		Block   int64         `json:"block"`
		Size    int64         `json:"size"`
		Direct  bool          `json:"direct"`
		Rounds  int           `json:"rounds"`
		Seconds float64       `json:"seconds_per_run"`
		Sides   []string      `json:"sides"`
		Rows    []benchResult `json:"rows"`
	}
	rep := report{b.block, b.size, b.direct, b.rounds, b.duration.Seconds(), nil, results}
	for _, s := range b.sides {
		rep.Sides = append(rep.Sides, key(s))
	}
	if len(results) > 0 { // hours of work, perhaps
		c.show(rep, func() { b.table(results) })
	}
	if failed != nil {
		return 1, failed
	}
	return 0, nil
}

func (b *bench) table(results []benchResult) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "load\tgodwit VHDX/s\tMiB/s\t")
	for _, s := range b.sides[1:] {
		fmt.Fprintf(w, "/ %s\t", s.name())
	}
	fmt.Fprintln(w)
	for _, r := range results {
		ours := r.Sides[key(b.sides[0])]
		fmt.Fprintf(w, "%s\t%.0f\t%.1f\t", r.Name, ours.Median, ours.Median*float64(r.Size)/(1<<20))
		for _, s := range b.sides[1:] {
			switch f := r.Sides[key(s)]; {
			case f == nil || f.Ratio == 0:
				fmt.Fprint(w, "-\t")
			default:
				fmt.Fprintf(w, "%.2f\t", f.Ratio)
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	var opening []float64
	for _, r := range results {
		opening = append(opening, r.Sides[key(b.sides[0])].Opening...)
	}
	if len(opening) > 0 {
		fmt.Printf("The first change of an opening took %.1f ms (median of %d).\n", 1e3*median(opening), len(opening))
	}
}

// run measures one row.
func (b *bench) run(ctx context.Context, r benchRow) (benchResult, error) {
	res := benchResult{benchRow: r, Unit: "requests/s", Sides: map[string]*figure{}}
	counts := make([]int, len(b.sides))
	if !r.Allocate && !r.Trim { // a trim's run makes its own
		if err := b.refill(ctx); err != nil {
			return res, err
		}
	}
	for i, s := range b.sides {
		if err := s.can(r); err != "" {
			res.Sides[key(s)] = &figure{Error: err}
			continue
		}
		n, err := b.calibrate(ctx, s, r)
		if err != nil {
			return res, fmt.Errorf("%s: %w", s.name(), err)
		}
		counts[i] = n
	}
	b.even(r, counts)
	for i, s := range b.sides {
		if counts[i] > 0 {
			res.Sides[key(s)] = &figure{Requests: counts[i]}
		}
	}
	for round := range b.rounds {
		for i := range b.sides {
			// Back and forth: what one leaves to the file system does not
			// always meet the same next one.
			if i = (i + round/2) % len(b.sides); round%2 != 0 {
				i = len(b.sides) - 1 - i
			}
			if counts[i] == 0 {
				continue
			}
			s := b.sides[i]
			t, err := s.run(ctx, r, counts[i])
			if err != nil {
				return res, fmt.Errorf("%s: %w", s.name(), err)
			}
			f := res.Sides[key(s)]
			f.Runs = append(f.Runs, float64(counts[i])/(t.steady+t.opening).Seconds())
			if t.opening != 0 {
				f.Steady = append(f.Steady, float64(counts[i])/t.steady.Seconds())
				f.Opening = append(f.Opening, t.opening.Seconds())
			}
		}
	}
	ours := res.Sides[key(b.sides[0])]
	for _, f := range res.Sides {
		if len(f.Runs) == 0 {
			continue
		}
		mine, theirs := ours.Runs, f.Runs
		if f.Steady != nil {
			mine, theirs = ours.Steady, f.Steady
		}
		var ratios []float64
		for i, v := range theirs {
			ratios = append(ratios, mine[i]/v)
		}
		f.Median, f.Ratio = median(f.Runs), median(ratios)
	}
	return res, nil
}

// even makes counts mean the same work. The first write to a page of a synced file
// costs the file system several times what later ones do, so sides that have been
// through the disk a different number of times can not be compared: all go through it
// the same number of times, or none more than once. Our two, the closest of all, always
// have the same requests.
func (b *bench) even(r benchRow, counts []int) {
	counts[1] = counts[0]
	pass := int(b.size / r.Size)
	if !r.Write || r.Allocate || r.Flush > 0 || r.Trim {
		return
	}
	least := 1 << 30
	for _, n := range counts {
		if n > 0 {
			least = min(least, n)
		}
	}
	for i, n := range counts {
		if n > 0 {
			counts[i] = max(min(n, pass), least/pass*pass)
		}
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// calibrate finds how many requests fill the time of a run. It is the warm-up too.
// Runs have a cost of their own (qemu's first change is in its time), so it goes on
// until the requests fill the time, and does not reckon from a few.
func (b *bench) calibrate(ctx context.Context, s side, r benchRow) (int, error) {
	limit := b.limit(r)
	for n := min(limit, max(8, 2*r.Depth)); ; {
		t, err := s.run(ctx, r, n)
		if err != nil || n == limit || t.steady >= b.duration*2/3 {
			return n, err
		}
		more := float64(b.duration) / float64(max(t.steady, 1))
		n = int(min(float64(limit), float64(n)*min(max(more, 1.5), 8)))
	}
}

// key is a side's name in JSON.
func key(s side) string { return strings.ReplaceAll(strings.ToLower(s.name()), " ", "_") }
