package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"godwit/vdisk"
)

func TestDiskCommandsWorkTogether(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	want := make([]byte, 5<<20+700) // ends within a sector
	copy(want[1<<20:], bytes.Repeat([]byte("godwit"), 1000))
	copy(want[len(want)-10:], "0123456789")
	if err := os.WriteFile(at("a.raw"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(code int, args ...string) {
		t.Helper()
		if got := checkedDisk(t, args); got != code {
			t.Fatalf("disk %v: status %d, not %d", args, got, code)
		}
	}
	run(0, "convert", at("a.raw"), at("a.vhdx"), "-block", "1M")
	run(0, "check", at("a.vhdx"))
	run(0, "info", "-json", at("a.vhdx"))
	run(0, "map", at("a.vhdx"))
	run(0, "map", "-json", at("a.vhdx"))
	item := vdisk.UserItem{ID: vdisk.NewGUID(), Data: []byte("which machine's it is")}
	im, err := vdisk.OpenPath(at("a.vhdx"), vdisk.Options{}, vdisk.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.SetUserItem(item), im.Close()); err != nil {
		t.Fatal(err)
	}
	run(0, "convert", at("a.vhdx"), at("fixed.vhdx"), "-fixed", "-block", "1M", "-sector", "4096")
	if im, err = vdisk.OpenPath(at("fixed.vhdx"), vdisk.Options{ReadOnly: true}, vdisk.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	if it, err := im.UserItem(item.ID); err != nil || string(it.Data) != string(item.Data) {
		t.Errorf("the conversion did not keep user metadata: %v", err)
	}
	im.Close()
	run(0, "convert", at("fixed.vhdx"), at("b.raw"), "-json")
	got, err := os.ReadFile(at("b.raw"))
	if err != nil || len(got) < len(want) || !bytes.Equal(got[:len(want)], want) || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
		t.Errorf("what was converted there and back is not what it was (%d bytes, %v)", len(got), err)
	}
	run(0, "create", "-parent", at("a.vhdx"), at("child.vhdx"), "-json")
	run(0, "check", at("child.vhdx"))
	run(0, "convert", at("child.vhdx"), at("c.raw"))
	if c, err := os.ReadFile(at("c.raw")); err != nil || !bytes.Equal(c[:len(want)], want) {
		t.Errorf("a new child does not read as its parent (%v)", err)
	}

	run(1, "create", "-size", "1G", at("a.vhdx")) // is there already
	run(1, "convert", at("a.raw"), at("x.vhdx"), "-block", "3M")
	if _, err := os.Stat(at("x.vhdx")); err == nil {
		t.Error("a conversion that failed left its file")
	}
	run(2, "create", "-size", "12Q", at("y.vhdx"))
	run(2, "convert", at("a.raw"), at("y.unknown"))
	if err := os.Truncate(at("a.vhdx"), 4<<20); err != nil {
		t.Fatal(err)
	}
	run(damaged, "check", at("a.vhdx"))
	run(1, "info", at("nothing.vhdx"))
}

func TestRepairCommandMendsATruncatedImage(t *testing.T) {
	at := filepath.Join(t.TempDir(), "a.vhdx")
	if got := disk([]string{"create", "-size", "4M", "-block", "1M", "-fixed", at}); got != 0 {
		t.Fatal(got)
	}
	st, err := os.Stat(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(at, st.Size()-3<<19); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args []string
		want int
	}{
		{[]string{"check", at}, damaged},
		{[]string{"repair", "-n", at}, 0},
		{[]string{"check", "-json", at}, damaged},
		{[]string{"repair", "-json", at}, 0},
		{[]string{"check", at}, 0},
		{[]string{"repair", at}, 0},
		{[]string{"repair", at + "x"}, 1},
	} {
		if got := checkedDisk(t, step.args); got != step.want {
			t.Errorf("disk %v: status %d, not %d", step.args, got, step.want)
		}
	}
}

func TestSnapshotAndCommitCommands(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(code int, args ...string) {
		t.Helper()
		if got := checkedDisk(t, args); got != code {
			t.Fatalf("disk %v: status %d, not %d", args, got, code)
		}
	}
	run(0, "create", "-size", "4M", "-block", "1M", at("a.vhdx"))
	run(0, "snapshot", at("a.vhdx"), at("a-1.vhdx"))
	run(1, "snapshot", at("a.vhdx"), at("a-1.vhdx"))
	write := func(name string, p []byte, off int64) {
		t.Helper()
		im, err := vdisk.OpenPath(at(name), vdisk.Options{}, vdisk.FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = im.WriteAt(p, off)
		if err := errors.Join(err, im.Close()); err != nil {
			t.Fatal(err)
		}
	}
	p := bytes.Repeat([]byte("godwit+8"), 512)
	write("a-1.vhdx", p, 1<<20)
	run(0, "commit", "-json", at("a-1.vhdx"))
	run(0, "commit", "-remove", at("a-1.vhdx"))
	if _, err := os.Stat(at("a-1.vhdx")); err == nil {
		t.Error("the child was not removed")
	}
	run(0, "convert", at("a.vhdx"), at("a.raw"))
	if got, err := os.ReadFile(at("a.raw")); err != nil || !bytes.Equal(got[1<<20:][:len(p)], p) {
		t.Errorf("the parent does not hold what was committed: %v", err)
	}
	run(0, "snapshot", "-json", at("a.vhdx"), at("a-2.vhdx"))
	write("a.vhdx", p, 0)
	run(1, "commit", at("a-2.vhdx"))
	run(damaged, "check", at("a-2.vhdx"))
	run(1, "commit", at("a.vhdx"))
}

func TestEveryDiskCommandHasHelpAndAnExample(t *testing.T) {
	for _, name := range []string{"create", "info", "check", "repair", "snapshot", "commit", "resize", "compact", "convert", "map", "bench"} {
		if !strings.Contains(diskUsage, "\n    "+name+" ") {
			t.Errorf("disk %s has no example", name)
		}
		for _, args := range [][]string{{name, "-h"}, {"help", name}} {
			if code := checkedDisk(t, args); code != 0 {
				t.Errorf("disk %v ends with status %d", args, code)
			}
		}
	}
	for _, args := range [][]string{{"help"}, {"-h"}} {
		if code := checkedDisk(t, args); code != 0 {
			t.Errorf("disk %v ends with status %d", args, code)
		}
	}
	for _, args := range [][]string{{}, {"frobnicate"}, {"help", "frobnicate"}, {"convert", "one"}} {
		if code := checkedDisk(t, args); code != 2 {
			t.Errorf("disk %v ends with status %d", args, code)
		}
	}
}

func TestDiskCommandsCalledWronglyHaveStatus2(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.raw")
	if err := os.WriteFile(file, make([]byte, 512), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"create", file + ".vhdx"}, {"resize", file}, {"convert", file, file + ".unheard-of"}, {"info"}, {"fly", file}} {
		if got := disk(args); got != 2 {
			t.Errorf("disk %v: status %d", args, got)
		}
	}
	if got := disk([]string{"info", file}); got != 1 {
		t.Errorf("info of a file that is no image: status %d", got)
	}
}

func TestSizesAreShownShort(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1 KiB", 1536: "1.5 KiB", 100 << 30: "100 GiB", 3000320: "2.86 MiB", 8<<30 + 4<<20: "8.00 GiB", 64 << 40: "64 TiB"} {
		if got := human(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
