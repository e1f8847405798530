package vdisk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkFile puts an image in a file beside a plain file: same file system, same
// pattern, blocks allocated.
func BenchmarkFile(b *testing.B) {
	const size = 64 * mib
	type disk interface {
		ReadAt([]byte, int64) (int, error)
		WriteAt([]byte, int64) (int, error)
	}
	dir := b.TempDir()
	raw, err := OpenFile(filepath.Join(dir, "raw"), FileOptions{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	f, err := OpenFile(filepath.Join(dir, "a.vhdx"), FileOptions{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := Create(f, CreateOptions{Size: size, BlockSize: 2 * mib}); err != nil {
		b.Fatal(err)
	}
	im, err := Open(f, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer im.Close()
	all := make([]byte, size)
	fill(rand.New(rand.NewPCG(1, 1)), all)
	for _, d := range []disk{raw, im} {
		if _, err := d.WriteAt(all, 0); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range []int{4 * kib, 64 * kib, mib} {
		for _, write := range []bool{false, true} {
			for _, random := range []bool{false, true} {
				for name, d := range map[string]disk{"raw": raw, "vhdx": im} {
					what := map[bool]string{false: "read", true: "write"}[write]
					order := map[bool]string{false: "sequential", true: "random"}[random]
					b.Run(fmt.Sprintf("%s/%s/%dK/%s", what, order, n/kib, name), func(b *testing.B) {
						p := all[:n]
						if !write {
							p = make([]byte, n)
						}
						rng := rand.New(rand.NewPCG(2, 2))
						b.SetBytes(int64(n))
						b.ReportAllocs()
						for i := range b.N {
							at := int64(i)
							if random {
								at = rng.Int64N(size)
							}
							at = at * int64(n) % size / int64(n) * int64(n)
							var err error
							if write {
								_, err = d.WriteAt(p, at)
							} else {
								_, err = d.ReadAt(p, at)
							}
							if err != nil {
								b.Fatal(err)
							}
						}
					})
				}
			}
		}
	}
}

// BenchmarkAllocatingFlush writes 4 KiB to a block that has no place yet, and
// flushes: the whole way through the log.
func BenchmarkAllocatingFlush(b *testing.B) {
	name := filepath.Join(b.TempDir(), "a.vhdx")
	f, err := OpenFile(name, FileOptions{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	const size = 64 << 30
	if err := Create(f, CreateOptions{Size: size, BlockSize: mib}); err != nil {
		b.Fatal(err)
	}
	im, err := Open(f, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(name)
	defer im.Close()
	p := make([]byte, 4*kib)
	b.ReportAllocs()
	for i := range b.N {
		if _, err := im.WriteAt(p, int64(i)*mib%size); err != nil {
			b.Fatal(err)
		}
		if err := im.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}
