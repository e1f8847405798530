package bootinfo

import (
	"math/rand/v2"
	"testing"
)

func mapOf(list ...Range) (i Info) {
	for _, r := range list {
		i.addRange(r.Start, r.End-r.Start, r.Type)
	}
	i.settle()
	return i
}

func TestReservedMemoryInsideRAMIsNotUsed(t *testing.T) {
	i := mapOf(Range{0x100000, 0x8000000, RAM}, Range{0x4000000, 0x4001000, Reserved}, Range{0, 0x9fc00, RAM}, Range{0x7ff0000, 0x8010000, ACPINVS})
	want := []Range{{0, 0x9fc00, RAM}, {0x100000, 0x4000000, RAM}, {0x4000000, 0x4001000, Reserved}, {0x4001000, 0x7ff0000, RAM}, {0x7ff0000, 0x8010000, ACPINVS}}
	if i.NMem != len(want) {
		t.Fatalf("%v", i.Mem[:i.NMem])
	}
	for k, r := range want {
		if i.Mem[k] != r {
			t.Errorf("range %d is %v, want %v", k, i.Mem[k], r)
		}
	}
}

func TestRAMNamedTwiceIsUsedOnce(t *testing.T) {
	i := mapOf(Range{0x100000, 0x8000000, RAM}, Range{0x200000, 0x9000000, RAM}, Range{0x100000, 0x8000000, RAM})
	if i.NMem != 1 || i.Mem[0] != (Range{0x100000, 0x9000000, RAM}) {
		t.Errorf("%v", i.Mem[:i.NMem])
	}
}

// Any map is sorted and disjoint afterwards, and says of every address what the most
// cautious of its entries said.
func TestAnyMemoryMapSettles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var list []Range
		for range 1 + r.IntN(40) {
			start := r.Uint64N(200)
			list = append(list, Range{start, start + 1 + r.Uint64N(60), uint32(r.IntN(7))})
		}
		i := mapOf(list...)
		for k := range i.Mem[:i.NMem] {
			if m := i.Mem[k]; m.Start >= m.End || k > 0 && i.Mem[k-1].End > m.Start {
				t.Fatalf("%v", i.Mem[:i.NMem])
			}
		}
		for a := range uint64(270) {
			want, got := -1, -1
			for _, m := range list {
				if m.Start <= a && a < m.End {
					want = max(want, rank(m.Type))
				}
			}
			for _, m := range i.Mem[:i.NMem] {
				if m.Start <= a && a < m.End {
					got = rank(m.Type)
				}
			}
			if got != want {
				t.Fatalf("%v: address %d has rank %d, want %d: %v", list, a, got, want, i.Mem[:i.NMem])
			}
		}
	}
}

func TestTooManyPiecesAreLeftOutAndToldOf(t *testing.T) {
	var list []Range
	list = append(list, Range{0, 1 << 20, RAM})
	for k := range uint64(100) {
		list = append(list, Range{k*100 + 50, k*100 + 60, Reserved})
	}
	if i := mapOf(list...); i.NMem != MaxRanges || !i.Truncated {
		t.Errorf("%d ranges, truncated %v", i.NMem, i.Truncated)
	}
}
