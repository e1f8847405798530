package state

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

type dev struct {
	a uint32
	b []byte
}

func (d *dev) StateName() string    { return "dev0" }
func (d *dev) StateVersion() uint16 { return 2 }
func (d *dev) SaveState(w *Writer)  { w.U32(d.a); w.Blob(d.b) }
func (d *dev) LoadState(v uint16, r *Reader) error {
	d.a, d.b = r.U32(), bytes.Clone(r.Blob(16))
	return r.Err()
}

func save(t testing.TB) []byte {
	var w bytes.Buffer
	if err := Save(&w, &dev{7, []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func TestRoundTrip(t *testing.T) {
	r := bytes.NewReader(save(t))
	s, err := ReadSection(r)
	if err != nil {
		t.Fatal(err)
	}
	var d dev
	if err := s.Load(&d); err != nil || d.a != 7 || string(d.b) != "hello" {
		t.Fatalf("loaded %+v, %v", d, err)
	}
	if _, err := ReadSection(r); err != io.EOF {
		t.Fatalf("at the end: %v, want EOF", err)
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	good := save(t)
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, err := ReadSection(bytes.NewReader(b)); err == nil {
			t.Errorf("bit %d flipped: no error", i)
		}
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	good := save(t)
	for n := 1; n < len(good); n++ {
		if _, err := ReadSection(bytes.NewReader(good[:n])); err == nil || err == io.EOF {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestNewerVersionAndWrongLengthAreRefused(t *testing.T) {
	for _, s := range []Section{
		{Name: "dev0", Version: 3, Payload: []byte{0, 0, 0, 0, 0, 0, 0, 0}},
		{Name: "dev0", Version: 0, Payload: []byte{0, 0, 0, 0, 0, 0, 0, 0}},
		{Name: "dev0", Version: 2, Payload: []byte{0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{Name: "dev0", Version: 2, Payload: []byte{0, 0, 0}},
		{Name: "dev0", Version: 2, Payload: []byte{0, 0, 0, 0, 17, 0, 0, 0}},
	} {
		if err := s.Load(&dev{}); err == nil || !strings.Contains(err.Error(), `"dev0"`) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func FuzzReadSection(f *testing.F) {
	f.Add(save(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			s, err := ReadSection(r)
			if err != nil {
				return
			}
			s.Load(&dev{})
		}
	})
}
