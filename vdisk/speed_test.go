package vdisk_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"godwit/vdisk"
	"godwit/vdisk/load"
)

// BenchmarkQueues puts an image beside a raw file, each through a queue, allocated:
// what the format costs. They run in turn, a few milliseconds each; "of-raw" is the
// median of the image's speed over the file's.
func BenchmarkQueues(b *testing.B) {
	const size = 64 << 20
	dir := b.TempDir()
	open := func(name string) vdisk.Backing {
		f, err := vdisk.OpenFile(filepath.Join(dir, name), vdisk.FileOptions{Create: true})
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	f := open("a.raw")
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	raw, err := vdisk.OpenRaw(f, 512)
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	f = open("a.vhdx")
	if err := vdisk.Create(f, vdisk.CreateOptions{Size: size, BlockSize: 2 << 20}); err != nil {
		b.Fatal(err)
	}
	im, err := vdisk.Open(f, vdisk.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer im.Close()
	all := load.Buffer(size)
	for i := range all {
		all[i] = 0x55
	}
	disks := [2]vdisk.Disk{raw, im}
	var queues [2]*vdisk.Queue
	for i, d := range disks {
		if _, err := d.WriteAt(all, 0); err != nil {
			b.Fatal(err)
		}
		queues[i] = vdisk.NewQueue(d, 64)
		defer queues[i].Close()
	}
	for _, kind := range []vdisk.Kind{vdisk.Read, vdisk.Write} {
		for _, n := range []int64{4 << 10, 64 << 10, 1 << 20} {
			for _, depth := range []int{1, 8, 64} {
				b.Run(fmt.Sprintf("%v/%dK/depth%d", kind, n>>10, depth), func(b *testing.B) {
					b.SetBytes(n)
					b.ReportAllocs()
					var spent [2]time.Duration
					var ratios []float64
					slice := max(depth, int(4<<20/n))
					for done := 0; done < b.N; done += slice {
						var took [2]time.Duration
						for i := range disks {
							i ^= done / slice & 1
							l := load.Load{Kind: kind, Size: n, Step: n, Depth: depth, Count: min(slice, b.N-done), Fill: 0x55}
							if took[i], err = load.Run(queues[i], size, l); err != nil {
								b.Fatal(err)
							}
							spent[i] += took[i]
						}
						ratios = append(ratios, float64(took[0])/float64(took[1]))
					}
					slices.Sort(ratios)
					b.ReportMetric(ratios[len(ratios)/2], "of-raw")
					b.ReportMetric(float64(spent[0].Nanoseconds())/float64(b.N), "raw-ns/op")
					b.ReportMetric(float64(spent[1].Nanoseconds())/float64(b.N), "vhdx-ns/op")
				})
			}
		}
	}
}
