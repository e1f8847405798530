package vdisk

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// calls counts what reaches a file.
type calls struct {
	*File
	one, many atomic.Int32
}

func (c *calls) ReadAt(p []byte, off int64) (int, error) {
	c.one.Add(1)
	return c.File.ReadAt(p, off)
}

func (c *calls) WriteAt(p []byte, off int64) (int, error) {
	c.one.Add(1)
	return c.File.WriteAt(p, off)
}

func (c *calls) readv(bufs [][]byte, off int64) error {
	c.many.Add(1)
	return c.File.readv(bufs, off)
}

func (c *calls) writev(bufs [][]byte, off int64) error {
	c.many.Add(1)
	return c.File.writev(bufs, off)
}

// Requests in many pieces, over the borders of blocks, with and without a place:
// what is read is what was written, and pieces share calls.
func TestScatteredBuffersShareCalls(t *testing.T) {
	for _, direct := range []bool{false, true} {
		f, err := OpenFile(filepath.Join(t.TempDir(), "a.vhdx"), FileOptions{Create: true, Direct: direct})
		if err != nil && direct {
			t.Logf("no direct I/O here: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		const size = 6 * mib
		if err := Create(f, CreateOptions{Size: size, BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		c := &calls{File: f}
		im, err := Open(c, Options{})
		if err != nil {
			t.Fatal(err)
		}
		q := im.NewQueue(1)
		done := make(chan struct{}, 1)
		submit := func(r *Request) *Request {
			r.Complete = func(*Request) { done <- struct{}{} }
			if err := q.Submit(r); err != nil {
				t.Fatal(err)
			}
			<-done
			return r
		}
		rng := rand.New(rand.NewPCG(5, 6))
		want := make([]byte, size)
		pieces := func(n int) (bufs [][]byte) {
			for n > 0 {
				m := min(n, 512*(1+rng.IntN(20)))
				bufs, n = append(bufs, make([]byte, m)), n-m
			}
			return bufs
		}
		for range 300 {
			n := 512 * (1 + rng.IntN(600))
			off := rng.IntN((size-n)/512+1) * 512
			r := &Request{Kind: Read, Offset: int64(off), Buffers: pieces(n)}
			if rng.IntN(2) == 0 {
				r.Kind = Write
				for at, i := off, 0; i < len(r.Buffers); i++ {
					fill(rng, r.Buffers[i])
					at += copy(want[at:], r.Buffers[i])
				}
			}
			if submit(r); r.Status() != Done {
				t.Fatal(r.Err())
			}
			if r.Kind == Read && !bytes.Equal(bytes.Join(r.Buffers, nil), want[off:][:n]) {
				t.Fatalf("%d bytes at %d are not what was written", n, off)
			}
		}
		// The whole disk in pieces of 4 KiB: 64 of them a call.
		if _, err := im.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		all := &Request{Kind: Read}
		got := make([]byte, size)
		for at := 0; at < size; at += 4096 {
			all.Buffers = append(all.Buffers, got[at:][:4096])
		}
		c.one.Store(0)
		c.many.Store(0)
		if submit(all); all.Status() != Done || !bytes.Equal(got, want) {
			t.Errorf("the disk in small pieces: %v", all.Err())
		}
		if one, many := c.one.Load(), c.many.Load(); one != 0 || many != size/4096/maxVectors {
			t.Errorf("%d pieces took %d single calls and %d for many", len(all.Buffers), one, many)
		}
		few := &Request{Kind: Write, Buffers: all.Buffers[:20], Complete: func(*Request) { done <- struct{}{} }}
		if n := testing.AllocsPerRun(50, func() { q.Submit(few); <-done }); n != 0 {
			t.Errorf("a request in pieces allocates %v times", n)
		}
		for _, bad := range []*Request{
			{Kind: Read, Offset: size - 4096, Buffers: all.Buffers[:2]},
			{Kind: Write, Offset: -4096, Buffers: all.Buffers[:2]},
			{Kind: Read, Buffers: [][]byte{got[:100], got[100:512]}},
			{Kind: Write, Buffers: [][]byte{got[:100], got[100:512]}},
		} {
			if submit(bad); bad.Status() != Failed {
				t.Errorf("%v at %d of pieces of %d bytes: %v", bad.Kind, bad.Offset, len(bad.Buffers[0]), bad.Status())
			}
		}
		q.Close()
		// Cut off within a block: an error says so, in one piece or many.
		if err := f.Truncate(3 * mib); err != nil {
			t.Fatal(err)
		}
		if err := im.transfer(all.Buffers, 0, false); err == nil {
			t.Error("a truncated file was read to its end")
		}
		im.failed.Store(&err)
		im.Close()
	}
}

// BenchmarkPieces reads and writes 64 KiB in 16 pieces, in one call and in 16.
func BenchmarkPieces(b *testing.B) {
	for _, kind := range []Kind{Read, Write} {
		for _, shared := range []bool{true, false} {
			b.Run(kind.String()+map[bool]string{true: "/one call", false: "/each its own"}[shared], func(b *testing.B) {
				f, err := OpenFile(filepath.Join(b.TempDir(), "a.vhdx"), FileOptions{Create: true})
				if err != nil {
					b.Fatal(err)
				}
				const size = 16 * mib
				if err := Create(f, CreateOptions{Size: size, BlockSize: 2 * mib}); err != nil {
					b.Fatal(err)
				}
				var back Backing = f
				if !shared {
					back = &Faulty{f, func(Op, int64, int64) error { return nil }}
				}
				im, err := Open(back, Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer im.Close()
				if _, err := im.WriteAt(make([]byte, size), 0); err != nil {
					b.Fatal(err)
				}
				q := im.NewQueue(1)
				defer q.Close()
				done := make(chan struct{}, 1)
				r := &Request{Kind: kind, Complete: func(*Request) { done <- struct{}{} }}
				for range 16 {
					r.Buffers = append(r.Buffers, make([]byte, 4*kib))
				}
				b.SetBytes(64 * kib)
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					r.Offset = int64(i) * 64 * kib % size
					q.Submit(r)
					<-done
				}
			})
		}
	}
}
