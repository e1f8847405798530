package frames

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

// machine is fake physical memory: the allocator's base is chosen so that physical
// address 0 lies where the slice begins.
func machine(t testing.TB, frames int) (*Allocator, uint64) {
	t.Helper()
	words := make([]uint64, (frames+512)*Size/8)
	at := (uintptr(unsafe.Pointer(&words[0])) + Size - 1) &^ (Size - 1)
	t.Cleanup(func() { words[0] = 0 }) // keeps it alive
	a := new(Allocator)
	a.Init(at, make([]uint8, frames))
	return a, uint64(frames) * Size
}

func TestBlocksAreAlignedDistinctAndComeBack(t *testing.T) {
	a, end := machine(t, 2048)
	if !a.Add(0x3000, end) {
		t.Fatal("Add refused")
	}
	all := a.Free()
	r := rand.New(rand.NewPCG(1, 2))
	owner := make([]int, 2048)
	type block struct{ phys, size uint64 }
	live := map[int]block{}
	for i := 1; i < 20000; i++ {
		if r.IntN(2) == 0 {
			size := uint64(1+r.IntN(40)) * Size
			align := uint64(Size) << r.IntN(5)
			p, ok := a.Alloc(size, align)
			if !ok {
				continue
			}
			if p%align != 0 || p < 0x3000 || p+size > end {
				t.Fatalf("Alloc(%#x, %#x) = %#x", size, align, p)
			}
			for f := p / Size; f < (p+size)/Size; f++ {
				if owner[f] != 0 {
					t.Fatalf("frame %#x handed out twice", f)
				}
				owner[f] = i
			}
			live[i] = block{p, size}
			continue
		}
		for id, b := range live { // give back, half the time in two pieces
			cut := uint64(0)
			if b.size > Size && r.IntN(2) == 0 {
				cut = Size
			}
			if cut != 0 && !a.Release(b.phys, cut) || !a.Release(b.phys+cut, b.size-cut) {
				t.Fatalf("Release of %#x refused", b.phys)
			}
			for f := b.phys / Size; f < (b.phys+b.size)/Size; f++ {
				owner[f] = 0
			}
			delete(live, id)
			break
		}
	}
	for _, b := range live {
		a.Release(b.phys, b.size)
	}
	if a.Free() != all {
		t.Fatalf("%#x bytes free at the end, %#x at the beginning", a.Free(), all)
	}
	if _, ok := a.AllocOrder(10); !ok {
		t.Fatal("free blocks did not join again: no 4 MiB in an empty 8 MiB")
	}
}

func TestReleaseRefusesWhatIsNotAllocated(t *testing.T) {
	a, end := machine(t, 64)
	a.Add(Size, end)
	p, _ := a.AllocOrder(0)
	for _, c := range []struct{ phys, size uint64 }{
		{p + 1, Size}, {p, 0}, {0, Size}, {end, Size}, {p, 2 * end}, {p ^ 8*Size, Size}, {^uint64(0) &^ (Size - 1), 2 * Size},
	} {
		if a.Release(c.phys, c.size) {
			t.Errorf("Release(%#x, %#x) accepted", c.phys, c.size)
		}
	}
	if !a.Release(p, Size) || a.Release(p, Size) {
		t.Error("the second Release of a frame was not the one refused")
	}
}

func TestAddRefusesOverlap(t *testing.T) {
	a, _ := machine(t, 64)
	if !a.Add(0x4000, 0x8000) || a.Add(0x7000, 0x9000) || a.Add(0x20000, 0x100000) {
		t.Error("overlapping or unreachable memory accepted")
	}
}

func BenchmarkFrame(b *testing.B) {
	a, end := machine(b, 4096)
	a.Add(Size, end)
	for b.Loop() {
		p, _ := a.AllocOrder(0)
		a.Release(p, Size)
	}
}

// A heap takes pages in order of its addresses, a page table for each 2 MiB of them, and all the while others take frames
// that stay.
func TestWhatAHeapGivesBackIsWholeBlocks(t *testing.T) {
	const blocks, heap = 32, 24
	a, end := machine(t, blocks*512)
	a.Add(0, end) // the first block is not whole
	var pages []uint64
	kept := 0
	keep := func() {
		if _, ok := a.AllocOrder(0); !ok {
			t.Fatal("no frame")
		}
		kept++
	}
	for range heap {
		keep() // the page table
		first, ok := a.OpenHome(5 * Size)
		if !ok || first%BlockSize != 5*Size {
			t.Fatalf("OpenHome: %#x, %v", first, ok)
		}
		pages = append(pages, first)
		for i := range uint64(512) {
			at := first&^(BlockSize-1) + i*Size
			if got := a.AllocAt(at); got != (i != 5) {
				t.Fatalf("AllocAt of frame %d of a home: %v", i, got)
			} else if got {
				pages = append(pages, at)
			}
			if i%100 == 0 {
				keep()
			}
		}
	}
	for _, p := range pages {
		if !a.Release(p, Size) {
			t.Fatalf("Release of %#x refused", p)
		}
	}
	if want := uint64(blocks*512-1-kept) * Size; a.Free() != want {
		t.Fatalf("%#x bytes free, want %#x", a.Free(), want)
	}
	whole := 0
	for {
		if _, ok := a.AllocOrder(blockOrder); !ok {
			break
		}
		whole++
	}
	if want := blocks - 1 - kept/512; whole != want {
		t.Errorf("%d blocks of 2 MiB are whole, want %d: %d frames are kept", whole, want, kept)
	}
}

func TestAFullMachineGivesAwayWhatHomesHaveLeft(t *testing.T) {
	a, end := machine(t, 4*512)
	a.Add(0, end)
	first, ok := a.OpenHome(0)
	if !ok {
		t.Fatal("no home")
	}
	n := 1
	for {
		if _, ok := a.AllocOrder(0); !ok {
			break
		}
		n++
	}
	if n != 4*512-1 || a.Free() != 0 {
		t.Errorf("%d frames of %d, %d bytes free", n, 4*512-1, a.Free())
	}
	if a.AllocAt(first+Size) || a.AllocAt(first) || a.AllocAt(Size) || a.AllocAt(end) || a.AllocAt(1<<50) {
		t.Error("a frame was given twice, or one that nobody has")
	}
	if _, ok := a.OpenHome(0); ok {
		t.Error("a home without a block")
	}
}

func TestHomesAndBlocksMixed(t *testing.T) {
	const frames = 16 * 512
	a, end := machine(t, frames)
	a.Add(0, end)
	all := a.Free()
	r := rand.New(rand.NewPCG(3, 4))
	used := make([]bool, frames)
	type block struct{ phys, size uint64 }
	var live []block
	take := func(p, size uint64) {
		for f := p / Size; f < (p+size)/Size; f++ {
			if used[f] {
				t.Fatalf("frame %#x handed out twice", f)
			}
			used[f] = true
		}
		live = append(live, block{p, size})
	}
	for range 200000 {
		switch k := r.IntN(10); {
		case k < 1:
			if p, ok := a.OpenHome(r.Uint64()); ok {
				take(p, Size)
			}
		case k < 4:
			p := r.Uint64N(end) &^ (Size - 1)
			if len(live) > 0 && r.IntN(4) > 0 {
				p = live[r.IntN(len(live))].phys + Size
			}
			if a.AllocAt(p) {
				take(p, Size)
			}
		case k < 6:
			size := uint64(Size) << r.IntN(11)
			if p, ok := a.Alloc(size, size); ok {
				take(p, size)
			}
		case len(live) > 0:
			i := r.IntN(len(live))
			b := live[i]
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			for f := b.phys / Size; f < (b.phys+b.size)/Size; f++ {
				used[f] = false
			}
			if !a.Release(b.phys, b.size) || b.size == Size && a.Release(b.phys, b.size) {
				t.Fatalf("Release of %#x+%#x refused, or taken twice", b.phys, b.size)
			}
		}
		free := uint64(0)
		if r.IntN(1000) == 0 {
			for _, u := range used[1:] {
				if !u {
					free += Size
				}
			}
			if a.Free() != free {
				t.Fatalf("%#x bytes free, want %#x", a.Free(), free)
			}
		}
	}
	for _, b := range live {
		a.Release(b.phys, b.size)
	}
	if a.Free() != all || a.head[1] != [MaxOrder + 1]uint64{} {
		t.Errorf("%#x bytes of %#x free at the end; in homes: %x", a.Free(), all, a.head[1])
	}
	if _, ok := a.AllocOrder(blockOrder + 3); !ok {
		t.Error("free blocks did not join again: no 16 MiB in an empty 32 MiB")
	}
}
