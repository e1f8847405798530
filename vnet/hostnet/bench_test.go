package hostnet

import (
	"context"
	"io"
	"testing"

	"godwit/vnet/nic"
)

// BenchmarkTransfer is a TCP connection between two hosts, both of whose work
// counts, with and without an interface that segments.
func BenchmarkTransfer(b *testing.B) {
	for name, feat := range map[string]nic.Features{"plain": {}, "segmenting": {Checksum: true, Segment: 65536}} {
		b.Run(name, func(b *testing.B) {
			c := newCable(b)
			c.end[0].feat, c.end[1].feat = feat, feat
			from := host(b, static("net0", "10.0.0.1/24"), c.end[0])
			to := host(b, static("net0", "10.0.0.2/24"), c.end[1])
			l, err := to.Listen("tcp", ":7000")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			done := make(chan int64, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					done <- -1
					return
				}
				n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<20))
				c.Close()
				done <- n
			}()
			conn, err := from.DialContext(context.Background(), "tcp", "10.0.0.2:7000")
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			b.ResetTimer()
			for range b.N {
				if _, err := conn.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			conn.Close()
			if n := <-done; n != int64(b.N*len(buf)) {
				b.Fatalf("received %d bytes, want %d", n, b.N*len(buf))
			}
		})
	}
}
