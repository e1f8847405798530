package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestDiskResizeAndCompact(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(code int, args ...string) {
		t.Helper()
		if got := checkedDisk(t, args); got != code {
			t.Fatalf("disk %v: status %d, not %d", args, got, code)
		}
	}
	data := make([]byte, 8<<20)
	copy(data[3<<20:], bytes.Repeat([]byte("godwit"), 100_000))
	copy(data[6<<20:], bytes.Repeat([]byte("vhdx"), 100_000))
	if err := os.WriteFile(at("a.raw"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	run(0, "convert", "-block", "1M", at("a.raw"), at("a.vhdx"))
	same := func(want []byte) {
		t.Helper()
		os.Remove(at("b.raw"))
		run(0, "check", at("a.vhdx"))
		run(0, "convert", at("a.vhdx"), at("b.raw"))
		if got, err := os.ReadFile(at("b.raw")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes that are not the %d meant (%v)", len(got), len(want), err)
		}
	}
	run(0, "resize", "-size", "12M", at("a.vhdx"))
	same(append(bytes.Clone(data), make([]byte, 4<<20)...))
	run(0, "resize", "-json", "-size", "8M", at("a.vhdx"))
	same(data)
	run(1, "resize", "-size", "5M", at("a.vhdx"))
	run(1, "resize", "-size", "1000", at("a.vhdx"))
	run(2, "resize", at("a.vhdx"))
	same(data)
	run(0, "resize", "-discard", "-size", "5M", at("a.vhdx"))
	same(data[:5<<20])
	before, err := os.Stat(at("a.vhdx"))
	if err != nil {
		t.Fatal(err)
	}
	run(0, "compact", "-json", at("a.vhdx"))
	run(0, "compact", "-quiet", at("a.vhdx"))
	if after, err := os.Stat(at("a.vhdx")); err != nil || after.Size() > before.Size() {
		t.Errorf("%d bytes became %d (%v)", before.Size(), after.Size(), err)
	}
	same(data[:5<<20])
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	c := diskCommand{noMeter: true}
	if code, err := c.compact(stopped, []string{at("a.vhdx")}); code != 1 || err != nil {
		t.Errorf("an interrupted compaction: %d, %v", code, err)
	}
	same(data[:5<<20])
}
