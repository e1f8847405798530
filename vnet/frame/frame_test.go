package frame

import (
	"errors"
	"testing"
)

func TestPoolHandsOutEachBufferOnce(t *testing.T) {
	mem := &HeapMemory{}
	p, err := NewPool(mem, 300, 2048)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	var all []*Frame
	for f := p.Get(); f != nil; f = p.Get() {
		s := f.Segments[0]
		if seen[s.Bus] || len(s.Data) != 2048 || f.Length != 2048 || s.Bus%2048 != 0 {
			t.Fatalf("buffer at %#x of %d bytes, seen before: %v", s.Bus, len(s.Data), seen[s.Bus])
		}
		if b := mem.At(s.Bus, 2048); &b[0] != &s.Data[0] {
			t.Fatal("bus address and bytes do not agree")
		}
		seen[s.Bus] = true
		all = append(all, f)
	}
	if len(all) != 300 || p.InUse() != 300 {
		t.Fatalf("%d frames, %d in use", len(all), p.InUse())
	}
	all[0].Trim(60)
	all[0].Flags = NeedsChecksum
	all[0].Release()
	if f := p.Get(); f != all[0] || f.Length != 2048 || f.Flags != 0 {
		t.Error("a recycled frame is not as new")
	}
	p.Close()
	if p.Get() != nil {
		t.Error("a closed pool gave a frame")
	}
	for _, f := range all {
		if mem.Live() == 0 {
			t.Fatal("memory was freed while frames were out")
		}
		f.Release()
	}
	if mem.Live() != 0 {
		t.Errorf("%d allocations leaked", mem.Live())
	}
}

func TestReleasingTwiceIsLoud(t *testing.T) {
	p, _ := NewPool(&HeapMemory{}, 1, 64)
	f := p.Get()
	f.Release()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f.Release()
}

type scarce struct {
	HeapMemory
	left int
}

func (s *scarce) Alloc(size, align uint64) (uint64, []byte, error) {
	if s.left--; s.left < 0 {
		return 0, nil, errors.New("no memory")
	}
	return s.HeapMemory.Alloc(size, align)
}

func TestPoolThatCannotBeFilledLeaksNothing(t *testing.T) {
	mem := &scarce{left: 2}
	if _, err := NewPool(mem, 1000, 2048); err == nil {
		t.Error("no error")
	}
	if mem.Live() != 0 {
		t.Errorf("%d allocations leaked", mem.Live())
	}
}

func TestFrameOfSeveralSegments(t *testing.T) {
	f := New(nil)
	for i := range MaxSegments {
		if !f.Append(Segment{Data: []byte{byte(i), byte(i)}, Bus: NoDMA}) {
			t.Fatal("refused")
		}
	}
	if f.Append(Segment{Data: []byte{1}}) || f.Length != 2*MaxSegments {
		t.Errorf("length %d", f.Length)
	}
	b := make([]byte, 5)
	if n := f.Copy(b); n != 5 || b[4] != 2 {
		t.Errorf("copied %d: %v", n, b)
	}
	f.Reset()
	if f.Length != 0 || len(f.Segments) != 0 {
		t.Error("not empty")
	}
	f.Release()
}

func TestGetAndReleaseDoNotAllocate(t *testing.T) {
	p, _ := NewPool(&HeapMemory{}, 8, 2048)
	if n := testing.AllocsPerRun(100, func() {
		f := p.Get()
		f.Trim(100)
		f.Release()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
