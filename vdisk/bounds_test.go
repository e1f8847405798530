package vdisk

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// Writes that find a place, the commits that make them durable, and trims cost no
// memory once the image has warmed up.
func TestAllocatingAndFlushingAllocateNothing(t *testing.T) {
	f, err := OpenFile(filepath.Join(t.TempDir(), "a.vhdx"), FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(f, CreateOptions{Size: 4 << 30, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	done := make(chan struct{}, 1)
	q := im.NewQueue(1)
	defer q.Close()
	w := &Request{Kind: WriteFUA, Buffers: [][]byte{make([]byte, 4096)}, Complete: func(*Request) { done <- struct{}{} }}
	one := func() {
		w.Offset += mib
		if err := q.Submit(w); err != nil {
			t.Fatal(err)
		}
		<-done
		if w.Status() != Done {
			t.Fatal(w.Err())
		}
	}
	for range 8 {
		one()
	}
	if n := testing.AllocsPerRun(50, one); n != 0 {
		t.Errorf("a write with FUA to a new block allocates %v times", n)
	}
}

// The largest disk with the smallest blocks has 512 MiB of BAT. What is held of it
// stays within Options.MetaPages, whatever is asked.
func TestMetadataOfTheLargestDiskIsNotHeldWhole(t *testing.T) {
	const pages = 64
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: maxDisk, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(m, Options{MetaPages: pages})
	if err != nil {
		t.Fatal(err)
	}
	if whole := int(im.g.entries * 8 / logSector); whole < 1000*pages {
		t.Fatalf("a BAT of %d pages shows nothing", whole)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	p, most := make([]byte, 4096), 0
	for i := range 3000 {
		off := rng.Int64N(maxDisk/mib) * mib
		if i%4 == 0 {
			_, err = im.WriteAt(p, off)
		} else {
			_, err = im.ReadAt(p, off)
		}
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, len(im.meta.ring))
		front := 0
		for i := range im.meta.front {
			if q := im.meta.front[i].Load(); q != nil {
				front++
				if x, ok := im.meta.index.Load(q.off); !ok || x != q {
					t.Fatalf("the page at %#x was dropped, and is found still", q.off)
				}
			}
		}
		if front > len(im.meta.ring) {
			t.Fatalf("%d pages are found, %d held", front, len(im.meta.ring))
		}
	}
	// Those that wait for the log are held beyond the limit: 64 start a commit.
	if most > pages+64+1 {
		t.Errorf("%d pages were held at a time, the limit is %d", most, pages)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}
