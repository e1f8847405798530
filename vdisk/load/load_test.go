package load

import (
	"sync"
	"testing"

	"godwit/vdisk"
)

// recorder is a disk that notes what it is asked.
type recorder struct {
	vdisk.Disk
	mu      sync.Mutex
	offsets map[int64]int
	running int
	most    int
	flushes []int // writes that had ended when each came
	during  int   // flushes that found writes under way
	ended   int
	buffers map[*byte]bool
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	r.offsets[off]++
	r.buffers[&p[0]] = true
	r.running++
	r.most = max(r.most, r.running)
	r.mu.Unlock()
	n, err := r.Disk.WriteAt(p, off)
	r.mu.Lock()
	r.running--
	r.ended++
	r.mu.Unlock()
	return n, err
}

func (r *recorder) Flush() error {
	r.mu.Lock()
	r.flushes = append(r.flushes, r.ended)
	if r.running > 0 {
		r.during++
	}
	r.mu.Unlock()
	return r.Disk.Flush()
}

func record(t *testing.T, l Load) *recorder {
	t.Helper()
	const size = 64 << 10
	m := vdisk.NewMemory()
	if err := m.Truncate(size); err != nil {
		t.Fatal(err)
	}
	raw, err := vdisk.OpenRaw(m, 512)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Disk: raw, offsets: map[int64]int{}, buffers: map[*byte]bool{}}
	q := vdisk.NewQueue(r, 64)
	defer q.Close()
	if _, err := Run(q, size, l); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLoadGoesWhereItSays(t *testing.T) {
	for _, step := range []int64{4096, 11 * 4096} { // an odd stride visits all of 16 places
		r := record(t, Load{Kind: vdisk.Write, Size: 4096, Step: step, Depth: 3, Count: 32})
		if len(r.offsets) != 16 || r.ended != 32 || r.most > 3 {
			t.Errorf("step %d: %d places, %d writes, %d at a time", step, len(r.offsets), r.ended, r.most)
		}
		for off, n := range r.offsets {
			if n != 2 || off%4096 != 0 {
				t.Errorf("step %d: %d was written %d times", step, off, n)
			}
		}
		if len(r.flushes) != 0 {
			t.Errorf("%d flushes that nobody asked for", len(r.flushes))
		}
	}
}

func TestLoadHasAsManyBuffersAsItSays(t *testing.T) {
	l := Load{Kind: vdisk.Write, Size: 4096, Step: 4096, Depth: 4, Count: 400}
	if n := len(record(t, l).buffers); n != 4 {
		t.Errorf("%d buffers for 4 requests", n)
	}
	l.OneBuffer = true
	if n := len(record(t, l).buffers); n != 1 {
		t.Errorf("%d buffers where one is for all", n)
	}
}

func TestLoadDrainsBeforeItFlushes(t *testing.T) {
	r := record(t, Load{Kind: vdisk.Write, Size: 4096, Step: 4096, Depth: 4, Count: 16, FlushEvery: 4})
	want := []int{4, 8, 12}
	if len(r.flushes) != len(want) || r.during != 0 {
		t.Fatalf("flushes after %v writes, %d of them beside writes; they belong after %v", r.flushes, r.during, want)
	}
	for i := range want {
		if r.flushes[i] != want[i] {
			t.Errorf("flush %d came after %d writes, not %d", i, r.flushes[i], want[i])
		}
	}
	r = record(t, Load{Kind: vdisk.Write, Size: 4096, Step: 4096, Depth: 4, Count: 4000, FlushEvery: 4})
	if n := len(r.flushes); n != 999 || r.during != 0 || r.ended != 4000 {
		t.Errorf("%d flushes among %d writes, %d of them beside some", n, r.ended, r.during)
	}
	r = record(t, Load{Kind: vdisk.Write, Size: 4096, Step: 4096, Depth: 4, Count: 4000, FlushEvery: 4, NoDrain: true})
	// The queue lets those that wait for a flush under way share the next one.
	if n := len(r.flushes); n == 0 || n > 999 || r.ended != 4000 {
		t.Errorf("%d flushes beside %d writes", n, r.ended)
	}
}

func TestLoadReportsFailures(t *testing.T) {
	m := vdisk.NewMemory()
	m.Truncate(4096)
	raw, _ := vdisk.OpenRaw(m, 512)
	q := vdisk.NewQueue(raw, 2)
	defer q.Close()
	m.Truncate(0)
	if _, err := Run(q, 4096, Load{Kind: vdisk.Read, Size: 4096, Step: 4096, Depth: 2, Count: 10}); err == nil {
		t.Error("reading a disk that is gone succeeded")
	}
	for _, l := range []Load{{}, {Size: 8192, Depth: 1, Count: 1}, {Size: 512, Count: 1}, {Size: 512, Depth: 1}} {
		if _, err := Run(q, 4096, l); err == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}
