package vdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Requests go on while snapshots are taken, none fails, and each frozen image holds
// what had been written when it was taken.
func TestSnapshotsOfARunningDisk(t *testing.T) {
	const size, ss = 8 * mib, 4096
	dir := t.TempDir()
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%d.vhdx", i)) }
	b, err := OpenFile(name(0), FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(b, CreateOptions{Size: size, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := NewLiveDisk(im)
	// Each writer owns every fourth sector, and writes ever greater numbers. From
	// what it knows before and after, what a snapshot may hold follows.
	const writers = 4
	var issued, done [size / ss]atomic.Uint64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			q := d.NewQueue(2)
			defer q.Close()
			rng := rand.New(rand.NewPCG(uint64(w), 19))
			ended := make(chan struct{}, 1)
			r := &Request{Complete: func(*Request) { ended <- struct{}{} }}
			buf := make([]byte, ss)
			for n := uint64(1); !stop.Load(); n++ {
				s := rng.Int64N(size/ss/writers)*writers + int64(w)
				le.PutUint64(buf, n)
				le.PutUint64(buf[ss-8:], n)
				r.Kind, r.Offset, r.Buffers = Write, s*ss, [][]byte{buf}
				if n%16 == 0 {
					r.Kind = WriteFUA
				}
				issued[s].Store(n)
				if err := q.Submit(r); err != nil {
					t.Error(err)
					return
				}
				if <-ended; r.Status() != Done {
					t.Errorf("a write ended as %v: %v", r.Status(), r.Err())
					return
				}
				done[s].Store(n)
			}
		}()
	}
	const shots = 5
	var before, after [shots + 1][size / ss]uint64
	for i := 1; i <= shots; i++ {
		for s := range done {
			before[i][s] = done[s].Load()
		}
		err := d.SnapshotFile(name(i), SnapshotOptions{BlockSize: mib << (i % 2), Ready: func() error {
			if i == 3 {
				return errors.New("not now")
			}
			return nil
		}})
		for s := range issued {
			after[i][s] = issued[s].Load()
		}
		if (err != nil) != (i == 3) {
			t.Fatalf("snapshot %d: %v", i, err)
		}
		if i == 3 {
			if _, err := os.Stat(name(3)); err == nil {
				t.Error("a snapshot that was called off left its file")
			}
			os.Symlink("2.vhdx", name(3)) // the disk is still that one
			continue
		}
		// The frozen image can be read beside the disk; the new one is in use.
		frozen, err := OpenPath(name(i-1), Options{ReadOnly: true}, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, size)
		if _, err := frozen.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		frozen.Close()
		for s := range issued {
			n, m := le.Uint64(p[s*ss:]), le.Uint64(p[s*ss+ss-8:])
			if n != m || n < before[i][s] || n > after[i][s] {
				t.Fatalf("snapshot %d: sector %d holds write %d/%d, where %d was done before and %d begun after", i, s, n, m, before[i][s], after[i][s])
			}
		}
		if _, err := OpenPath(name(i), Options{}, FileOptions{}); !errors.Is(err, ErrInUse) {
			t.Errorf("the disk's newest image can be opened twice: %v", err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	top, err := OpenPath(name(shots), Options{}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	p := make([]byte, ss)
	for s := range done {
		if _, err := top.ReadAt(p, int64(s)*ss); err != nil {
			t.Fatal(err)
		}
		if n := le.Uint64(p); n != done[s].Load() {
			t.Fatalf("sector %d holds write %d, not the last, %d", s, n, done[s].Load())
		}
	}
}

// After a crash during a snapshot the disk is one image or the other, and both read
// as what was flushed.
func TestSnapshotSurvivesPowerCuts(t *testing.T) {
	for seed := range uint64(4) {
		p := newPatient(t, seed%2 == 1)
		rng := rand.New(rand.NewPCG(seed, 23))
		old := &crashDisk{Memory: p.Memory, durable: p.Memory.Snapshot()}
		fresh := &crashDisk{Memory: NewMemory(), durable: NewMemory()}
		im, err := Open(old, p.o)
		if err != nil {
			t.Fatal(err)
		}
		d := NewLiveDisk(im)
		write := func(n byte, off int64) {
			t.Helper()
			copy(p.want[off:], bytes.Repeat([]byte{n}, 5*512))
			if _, err := d.WriteAt(p.want[off:off+5*512], off); err != nil {
				t.Fatal(err)
			}
		}
		write(1, 2*mib+512)
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		ready, states := false, 0
		check := func(*crashDisk) {
			a, b := old.cut(rng), fresh.cut(rng)
			o := p.o
			if ready {
				o.Parent = func(paths []ParentPath) (Backing, error) {
					if paths[0].Path == "frozen" {
						return a.Snapshot(), nil
					}
					return p.o.Parent(paths)
				}
			} else {
				b = a
			}
			again, err := Open(b, o)
			if err != nil {
				t.Fatalf("seed %d, state %d, with the child %v: %v", seed, states, ready, err)
			}
			compare(t, again, &model{p.want})
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			states++
		}
		old.onEvent, fresh.onEvent = check, check
		if err := d.Snapshot(fresh, SnapshotOptions{ParentPaths: []ParentPath{{keyRelative, "frozen"}}, Ready: func() error { ready = true; return nil }}); err != nil {
			t.Fatal(err)
		}
		old.onEvent, fresh.onEvent = nil, nil
		frozen := append([]byte(nil), p.want...)
		write(2, 3*mib+512)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		under, err := Open(old.Memory, p.o)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, under, &model{frozen})
		under.Close()
		if states < 8 {
			t.Errorf("only %d states were visited", states)
		}
	}
}

func TestSnapshotOfAReadOnlyDiskIsRefused(t *testing.T) {
	p := newPatient(t, false)
	im, err := Open(p.Memory, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	d := NewLiveDisk(im)
	if err := d.Snapshot(NewMemory(), SnapshotOptions{}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("answered %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
