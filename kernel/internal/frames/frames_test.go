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
