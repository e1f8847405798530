package vma

import (
	"math/rand/v2"
	"testing"
)

// The table must say of every page what a plain array of pages says.
func TestMapAgreesWithAnArrayOfPages(t *testing.T) {
	const pages = 200
	r := rand.New(rand.NewPCG(3, 4))
	var m Map
	model := [pages]int{} // protection + 1, 0 if unmapped
	for step := range 50000 {
		i := r.IntN(pages)
		j := i + 1 + r.IntN(pages-i)
		a, b := uintptr(i)*PageSize, uintptr(j)*PageSize
		switch r.IntN(3) {
		case 0:
			if !m.Remove(a, b) {
				t.Fatal("Remove refused")
			}
			for k := i; k < j; k++ {
				model[k] = 0
			}
		default:
			p := Prot(r.IntN(2) * 3)
			if !m.Set(a, b, p) {
				t.Fatal("Set refused")
			}
			for k := i; k < j; k++ {
				model[k] = int(p) + 1
			}
		}
		for k := 1; k < m.Len(); k++ {
			x, y := m.At(k-1), m.At(k)
			if x.End > y.Start || x.Start >= x.End || x.End == y.Start && x.Prot == y.Prot {
				t.Fatalf("step %d: areas %v and %v", step, x, y)
			}
		}
		free := true
		for k := range pages {
			got, ok := m.Find(uintptr(k)*PageSize + 5)
			if ok != (model[k] != 0) || ok && int(got.Prot)+1 != model[k] {
				t.Fatalf("step %d: page %d is %v %v, want %d", step, k, got, ok, model[k])
			}
			if k >= i && k < j && model[k] != 0 {
				free = false
			}
		}
		if m.Free(a, b) != free {
			t.Fatalf("step %d: Free(%#x, %#x) = %v", step, a, b, !free)
		}
		if g, ok := m.Gap(0, pages*PageSize, 3*PageSize); ok && !m.Free(g, g+3*PageSize) {
			t.Fatalf("step %d: Gap at %#x is not free", step, g)
		}
	}
}

func TestFullTableRefusesAndKeepsWhatItHas(t *testing.T) {
	var m Map
	n := 0
	for m.Set(uintptr(2*n)*PageSize, uintptr(2*n+1)*PageSize, Read) {
		n++
	}
	if n < Max-2 || m.Len() != n {
		t.Fatalf("full at %d of %d", n, Max)
	}
	if _, ok := m.Find(uintptr(2*(n-1)) * PageSize); !ok {
		t.Fatal("an area was lost")
	}
}
