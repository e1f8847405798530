package consolering

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"godwit/vmm/device/devicetest"
)

func readAll(r *Ring) []byte {
	b := make([]byte, 2*Size)
	n, _ := r.ReadAt(b, 0)
	return b[:n]
}

func TestLateViewersReadFromTheStart(t *testing.T) {
	r := New()
	r.Write([]byte("Linux "))
	for _, b := range []byte("version") {
		r.WriteByte(b)
	}
	if got := readAll(r); string(got) != "Linux version" {
		t.Errorf("%q", got)
	}
}

func TestTheOldestGoesFirst(t *testing.T) {
	r := New()
	var all []byte
	for i := range Size/4 + 1000 {
		line := []byte{byte(i), byte(i >> 8), byte(i >> 16), '\n'}
		all = append(all, line...)
		r.Write(line)
	}
	if got := readAll(r); !bytes.Equal(got, all[len(all)-Size:]) {
		t.Error("not the last MiB")
	}
	if start, end := r.Bounds(); end-start != Size || end != int64(len(all)) {
		t.Errorf("from %d to %d", start, end)
	}
}

func TestFollowWaitsForMore(t *testing.T) {
	r := New()
	ctx, cancel := context.WithCancel(context.Background())
	var b [16]byte
	done := make(chan string)
	go func() {
		n, pos, err := r.Follow(ctx, b[:], 0)
		done <- string(b[:n])
		if err != nil || pos != int64(n) {
			t.Errorf("at %d, %v", pos, err)
		}
		_, _, err = r.Follow(ctx, b[:], pos)
		done <- err.Error()
	}()
	time.Sleep(time.Millisecond)
	r.WriteByte('!')
	if got := <-done; got != "!" {
		t.Errorf("%q", got)
	}
	cancel()
	if got := <-done; got != context.Canceled.Error() {
		t.Errorf("%q", got)
	}
}

func TestStateRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, first, first + 1, Size - 1, Size, Size + 12345} {
		a, z := New(), New()
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(i * i >> 3)
		}
		a.Write(text)
		b := devicetest.Save(a)
		if err := devicetest.Load(z, b); err != nil {
			t.Fatal(err)
		}
		a.Write([]byte("on"))
		z.Write([]byte("on"))
		if !bytes.Equal(readAll(a), readAll(z)) {
			t.Errorf("%d bytes differ after the move", n)
		}
		if !bytes.Equal(devicetest.Save(a), devicetest.Save(z)) {
			t.Errorf("%d bytes: the states differ", n)
		}
	}
	a := New()
	a.Write([]byte("short"))
	devicetest.RoundTrip(t, a, New())
	devicetest.Refused(t, New(), devicetest.Save(a), 0, 1, "more text than was ever written")
	devicetest.Refused(t, New(), devicetest.Save(a), 0, 200, "a short text lost its start")
	devicetest.Refused(t, New(), devicetest.Save(a), 7, 0x7f, "a text of 2^63 bytes")
}

// What compresses badly must fit too, and a log should shrink.
func TestStateIsCompressed(t *testing.T) {
	noise, log := New(), New()
	rng := rand.New(rand.NewPCG(1, 2))
	for range Size / 8 {
		noise.Write(binary.LittleEndian.AppendUint64(nil, rng.Uint64()))
	}
	for i := range Size / 64 {
		fmt.Fprintf(log, "[%12.6f] eth0: link is up, %d Mb/s, full duplex, message %d\n", float64(i)/7, i%1000, i)
	}
	for _, r := range []*Ring{noise, log} {
		z := New()
		if err := devicetest.Load(z, devicetest.Save(r)); err != nil || !bytes.Equal(readAll(z), readAll(r)) {
			t.Errorf("not what was saved: %v", err)
		}
	}
	if n := len(devicetest.Save(log)); n > Size/3 {
		t.Errorf("a MiB of log is %d bytes", n)
	}
}

func BenchmarkSave(b *testing.B) {
	r := New()
	for i := range Size / 50 {
		fmt.Fprintf(r, "[%12.6f] eth0: link is up, message %d\n", float64(i)/7, i)
	}
	for b.Loop() {
		devicetest.Save(r)
	}
}

func BenchmarkWriteByte(b *testing.B) {
	r := New()
	b.ReportAllocs()
	for b.Loop() {
		r.WriteByte('x')
	}
}
