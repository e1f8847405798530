package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// read unpacks an archive as Linux does (init/initramfs.c) and renders each entry as one line.
func read(t *testing.T, b []byte) (lines []string) {
	t.Helper()
	for at := 0; ; {
		if len(b) < at+headerSize || string(b[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		var v [13]uint32
		for i := range v {
			if _, err := fmt.Sscanf(string(b[at+6+8*i:][:8]), "%08X", &v[i]); err != nil {
				t.Fatal(err)
			}
		}
		mode, size, major, minor, nameSize := v[1], int(v[6]), v[9], v[10], int(v[11])
		name := string(b[at+headerSize:][:nameSize-1])
		if b[at+headerSize+nameSize-1] != 0 {
			t.Fatalf("name %q is not terminated", name)
		}
		body := (at + headerSize + nameSize + 3) &^ 3
		if name == trailer {
			return lines
		}
		lines = append(lines, fmt.Sprintf("%06o %s %d:%d %q", mode, name, major, minor, b[body:body+size]))
		at = (body + size + 3) &^ 3
	}
}

func TestArchiveUnpacks(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Dir("dev", 0o755)
	w.CharDevice("dev/console", 0o600, 5, 1)
	w.File("init", 0o755, []byte("12345"))
	w.File("empty", 0o644, nil)
	w.Link("bin", "usr/bin")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`040755 dev 0:0 ""`, `020600 dev/console 5:1 ""`, `100755 init 0:0 "12345"`, `100644 empty 0:0 ""`, `120777 bin 0:0 "usr/bin"`,
	}
	if got := read(t, b.Bytes()); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if b.Len()%4 != 0 {
		t.Errorf("archive has %d bytes, no multiple of four: a second archive could not follow", b.Len())
	}
}

type fullDisk struct{ room int }

func (f *fullDisk) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

func TestFirstErrorSticks(t *testing.T) {
	for room := range 300 {
		w := NewWriter(&fullDisk{room})
		w.Dir("dev", 0o755)
		w.File("init", 0o755, []byte("12345"))
		if err := w.Close(); err == nil {
			t.Fatalf("no error with room for %d bytes", room)
		}
	}
	for _, name := range []string{"", "/init", strings.Repeat("x", nameLimit)} {
		w := NewWriter(&bytes.Buffer{})
		w.File(name, 0o755, nil)
		if err := w.Close(); err == nil {
			t.Errorf("name of %d bytes accepted", len(name))
		}
	}
}
