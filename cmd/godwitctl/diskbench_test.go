package main

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"testing"

	"godwit/cmd/internal/jsonform"
)

func TestDiskBenchMeasuresAllSidesAndCleansUp(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	said := make(chan []byte)
	go func() { b, _ := io.ReadAll(r); said <- b }()
	code := disk([]string{"bench", "-json", "-quiet", "-runs", "1", "-time", "1ms", "-size", "16M", "-rows",
		"^(read, sequential, 4K, depth 1|write, allocating, scattered, 64K, depth 8|trim.*2M.*)$", dir})
	os.Stdout = stdout
	w.Close()
	out := <-said
	if code != 0 {
		t.Fatalf("status %d: %s", code, out)
	}
	if err := jsonform.Check(out); err != nil {
		t.Errorf("%v in %s", err, out)
	}
	var rep struct {
		Sides []string
		Rows  []benchResult
	}
	if err := json.Unmarshal(out, &rep); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(rep.Rows) != 3 || len(rep.Sides) < 2 {
		t.Fatalf("%d rows of %d sides", len(rep.Rows), len(rep.Sides))
	}
	for _, row := range rep.Rows {
		for _, s := range rep.Sides {
			if f := row.Sides[s]; f == nil || f.Error == "" && (f.Median <= 0 || f.Ratio <= 0 || len(f.Runs) != 1) {
				t.Errorf("%s: %s measured %+v", row.Name, s, f)
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v stayed behind (%v)", left, err)
	}
	for _, bad := range [][]string{{"-rows", "nothing like that"}, {"-rows", "("}, {"-runs", "0"}, {"-size", "1M"}} {
		if code := disk(append([]string{"bench", dir}, bad...)); code != 2 {
			t.Errorf("disk bench %v: status %d", bad, code)
		}
	}
}

// Every load is one that qemu-img bench takes too, or both would not do the same.
func TestDiskBenchRowsSuitQemuImg(t *testing.T) {
	b := &bench{size: 256 << 20, vast: 64 << 30, block: 2 << 20, most: 256 << 20}
	names := map[string]bool{}
	for _, r := range benchRows() {
		step, size := b.step(r), b.diskSize(r)
		if step <= 0 || step >= 1<<31 || step%r.Size != 0 {
			t.Errorf("%s: a step of %d", r.Name, step)
		}
		if r.Scatter && (step/r.Size%2 == 0 && !r.Allocate || r.Allocate && step/b.block%2 == 0) {
			t.Errorf("%s: an even stride comes back before it has been everywhere", r.Name)
		}
		if n := int64(b.limit(r)); r.Allocate && n*r.Size > size {
			t.Errorf("%s: %d requests reach beyond %d bytes", r.Name, n, size)
		}
		if names[r.Name] {
			t.Errorf("two rows are called %q", r.Name)
		}
		names[r.Name] = true
	}
}

// Sides that write to a disk whose blocks are there do so in the same state of the page
// cache: nobody comes back to dirty pages more often than another.
func TestDiskBenchCountsMeanTheSameWork(t *testing.T) {
	b := &bench{size: 128 << 20}
	write := benchRow{Write: true, Size: 64 << 10} // 2048 are the whole disk
	for _, c := range []struct {
		row       benchRow
		was, want []int
	}{
		{write, []int{9000, 7000, 2100, 500, 0}, []int{2048, 2048, 2048, 500, 0}},
		{write, []int{9000, 12000, 7000, 6500, 0}, []int{6144, 6144, 6144, 6144, 0}},
		{write, []int{900, 1200, 2100, 20}, []int{900, 900, 2048, 20}},
		{benchRow{Size: 64 << 10}, []int{9000, 7000, 100}, []int{9000, 9000, 100}},
	} {
		got := slices.Clone(c.was)
		if b.even(c.row, got); !slices.Equal(got, c.want) {
			t.Errorf("%+v: of %v became %v, not %v", c.row, c.was, got, c.want)
		}
	}
}
