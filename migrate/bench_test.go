package migrate

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// flat is a guest that costs nothing itself: plain memory, nobody writes.
type flat struct {
	m     Machine
	data  []byte
	dirty Bitmap
	each  bool // Harvest finds every page written
}

func newFlat(pages int, zero int) *flat {
	f := &flat{m: Machine{Name: "flat", Regions: []Region{{0, uint64(pages) << PageShift}}}, data: make([]byte, pages<<PageShift)}
	for p := range pages {
		if p%100 >= zero {
			for i := 0; i < PageSize; i += 8 {
				f.data[p*PageSize+i] = byte(p + i/8 + 1)
			}
		}
	}
	return f
}

func (f *flat) Machine() Machine                   { return f.m }
func (f *flat) BeginTracking(int) error            { return nil }
func (f *flat) SetGroup(int)                       {}
func (f *flat) EndTracking()                       {}
func (f *flat) Harvest(Bitmap) int                 { return 0 }
func (f *flat) Written(uint64) bool                { return false }
func (f *flat) Counters() Counters                 { return Counters{} }
func (f *flat) ReadPages(first uint64, dst []byte) { copy(dst, f.data[first<<PageShift:]) }
func (f *flat) Pause(context.Context) error        { return nil }
func (f *flat) Resume()                            {}
func (f *flat) SaveState(w io.Writer) error        { _, err := w.Write(make([]byte, 64<<10)); return err }
func (f *flat) Release()                           {}
func (f *flat) WritePages(first uint64, d []byte) error {
	copy(f.data[first<<PageShift:], d)
	return nil
}
func (f *flat) ZeroPages(first, n uint64) error {
	clear(f.data[first<<PageShift : (first+n)<<PageShift])
	return nil
}
func (f *flat) LoadState(_ context.Context, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
func (f *flat) Start() error { return nil }
func (f *flat) Abort()       {}
func (f *flat) Prepare(context.Context, Machine) (Incoming, error) {
	return f, nil
}

// BenchmarkMove moves 64 MiB; MB/s counts guest memory, B/op is of the whole
// move, both ends.
func BenchmarkMove(b *testing.B) {
	const pages = 64 << 20 >> PageShift
	for _, zero := range []int{0, 50, 100} {
		for _, network := range []string{"pipe", "tcp"} {
			b.Run(fmt.Sprintf("%s/zero=%d%%", network, zero), func(b *testing.B) {
				src, dst := newFlat(pages, zero), newFlat(pages, 100)
				to := NewManager(Config{Target: dst})
				defer to.Close()
				dial := func(context.Context, string) (net.Conn, error) {
					x, y := net.Pipe()
					go to.ServeConn(y)
					return x, nil
				}
				address := "b"
				if network == "tcp" {
					ln, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						b.Fatal(err)
					}
					defer ln.Close()
					go to.Serve(ln)
					address = ln.Addr().String()
					dial = func(ctx context.Context, a string) (net.Conn, error) {
						var d net.Dialer
						return d.DialContext(ctx, "tcp", a)
					}
				}
				from := NewManager(Config{Dial: dial, Find: func(string) (Guest, error) { return src, nil }})
				defer from.Close()
				b.SetBytes(pages << PageShift)
				b.ReportAllocs()
				var down time.Duration
				var packed uint64
				for b.Loop() {
					r, err := from.Migrate(context.Background(), "flat", address, Options{})
					if err != nil {
						b.Fatal(err)
					}
					down += r.Downtime.Total
					packed += r.Packed
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/pages, "ns/page")
				b.ReportMetric(float64(down.Microseconds())/float64(b.N), "µs-downtime")
				b.ReportMetric(float64(packed)/float64(b.N)/pages*100, "%packed")
			})
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, zero := range []int{0, 50, 100} {
		b.Run(fmt.Sprintf("zero=%d%%", zero), func(b *testing.B) {
			f := newFlat(1024, zero)
			x := newBatch()
			b.SetBytes(PageSize)
			b.ReportAllocs()
			for i := 0; i < b.N; i += chunk {
				if x.room() < chunk {
					putHeader(x.buf, msgPages, 0, x.frame(0)[headerSize:])
					x.reset()
				}
				x.add(f, uint64(i%1024)&^(chunk-1), chunk)
			}
		})
	}
}

// BenchmarkGroupSize counts what each group size costs two writers, one going
// through memory in order and one jumping about, until both wrote 4096 pages
// since the last harvest: faults, and pages to send again.
func BenchmarkGroupSize(b *testing.B) {
	for group := 1; group <= MaxGroup; group *= 2 {
		for _, seq := range []bool{true, false} {
			b.Run(fmt.Sprintf("group=%d/sequential=%v", group, seq), func(b *testing.B) {
				var c Counters
				for b.Loop() {
					w := newWorld(b)
					g := newSimGuest(w.newHost("a", nil), Machine{Regions: []Region{{0, 256 << 20}}}, load{cpus: 1, seq: seq})
					g.BeginTracking(group)
					g.step1(4096)
					c = g.Counters()
				}
				b.ReportMetric(float64(c.Faults), "faults")
				b.ReportMetric(float64(c.Dirty), "pages")
			})
		}
	}
}
