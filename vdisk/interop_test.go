package vdisk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tool runs one of the programs that these tests compare with.
func tool(t *testing.T, name, pkg string, args ...string) (out string, err error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, pkg)
	}
	b, err := exec.Command(path, args...).CombinedOutput()
	return string(b), err
}

func qemu(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tool(t, "qemu-img", "qemu-utils", args...)
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func ours(t *testing.T, path string, c CreateOptions, crash bool) []byte {
	t.Helper()
	b, err := OpenFile(path, FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(b, c); err != nil {
		t.Fatal(err)
	}
	b.Close()
	im, err := OpenPath(path, Options{}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{make([]byte, c.Size)}
	randomOps(t, im, m, rand.New(rand.NewPCG(21, 4)), 60)
	if crash {
		if err := im.Flush(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		im.Close()
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return m.data
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return m.data
}

func TestQEMUReadsWhatWeWrite(t *testing.T) {
	for name, c := range map[string]CreateOptions{
		"dynamic": {Size: 9*mib + 512*5, BlockSize: 2 * mib},
		"fixed":   {Size: 4 * mib, BlockSize: mib, Fixed: true},
	} {
		dir := t.TempDir()
		v, r := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "a.raw")
		if err := os.WriteFile(r, ours(t, v, c, false), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", name, qemu(t, "check", v))
		qemu(t, "compare", "-f", "vhdx", "-F", "raw", v, r)
	}
}

// One unwrapped run with its tail at its first entry is what QEMU replays rightly.
func TestQEMUReplaysOurLog(t *testing.T) {
	dir := t.TempDir()
	v, r := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "a.raw")
	want := ours(t, v, CreateOptions{Size: 4 * mib, BlockSize: mib}, true)
	if err := os.WriteFile(r, want, 0o644); err != nil {
		t.Fatal(err)
	}
	qemu(t, "check", "-r", "all", v)
	qemu(t, "compare", "-f", "vhdx", "-F", "raw", v, r)
	im, err := OpenPath(v, Options{ReadOnly: true}, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, im, &model{want})
	im.Close()
}

func TestWeReadAndWriteWhatQEMUMakes(t *testing.T) {
	for _, kind := range []string{"dynamic", "fixed"} {
		v := filepath.Join(t.TempDir(), kind+".vhdx")
		qemu(t, "create", "-q", "-f", "vhdx", "-o", "block_size=1M,subformat="+kind, v, "5M")
		if out, err := tool(t, "qemu-io", "qemu-utils", "-f", "vhdx", "-c", "write -P 0x5a 1M 64k", "-c", "write -P 0xa5 4500k 4k", v); err != nil {
			t.Fatalf("qemu-io: %v\n%s", err, out)
		}
		want := make([]byte, 5*mib)
		copy(want[mib:], bytes.Repeat([]byte{0x5a}, 64*kib))
		copy(want[4500*kib:], bytes.Repeat([]byte{0xa5}, 4*kib))
		if fs, err := CheckPath(v); err != nil || slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity != Noted }) { // QEMU leaves gaps
			t.Errorf("%s: our check says %v, %v", kind, fs, err)
		}
		im, err := OpenPath(v, Options{}, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{want}
		compare(t, im, m)
		randomOps(t, im, m, rand.New(rand.NewPCG(22, 4)), 60)
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		r := filepath.Join(t.TempDir(), "a.raw")
		if err := os.WriteFile(r, want, 0o644); err != nil {
			t.Fatal(err)
		}
		qemu(t, "check", v)
		qemu(t, "compare", "-f", "vhdx", "-F", "raw", v, r)
	}
}

// 7-Zip reads 4 KiB sectors, which QEMU refuses.
func TestSevenZipReadsWhatWeWrite(t *testing.T) {
	for _, c := range []CreateOptions{
		{Size: 4 * mib, BlockSize: mib},
		{Size: 4 * mib, BlockSize: mib, LogicalSector: 4096},
	} {
		dir := t.TempDir()
		v := filepath.Join(dir, "a.vhdx")
		want := ours(t, v, c, false)
		if out, err := tool(t, "7zz", "7zip", "x", "-y", "-tVHDX", "-o"+filepath.Join(dir, "out"), v); err != nil {
			t.Fatalf("7zz: %v\n%s", err, out)
		}
		files, err := os.ReadDir(filepath.Join(dir, "out"))
		if err != nil || len(files) != 1 {
			t.Fatalf("7zz made %v, %v", files, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "out", files[0].Name()))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("sectors of %d bytes: 7-Zip reads %d bytes that are not what was written (%v)", c.LogicalSector, len(got), err)
		}
	}
}

func TestVHDIInfoReadsWhatWeWrite(t *testing.T) {
	v := filepath.Join(t.TempDir(), "a.vhdx")
	ours(t, v, CreateOptions{Size: 4 * mib, BlockSize: mib}, false)
	out, err := tool(t, "vhdiinfo", "libvhdi-utils", v)
	if err != nil || !strings.Contains(out, "4194304 bytes") || !strings.Contains(out, "Dynamic") {
		t.Errorf("vhdiinfo: %v\n%s", err, out)
	}
}

// othersRead has an image of ours read by the tools that know its kind.
func othersRead(t *testing.T, v string, want []byte, sector int) {
	t.Helper()
	dir := t.TempDir()
	if sector != 4096 {
		r := filepath.Join(dir, "a.raw")
		if err := os.WriteFile(r, want, 0o644); err != nil {
			t.Fatal(err)
		}
		if out := qemu(t, "check", v); !strings.Contains(out, "No errors") {
			t.Errorf("qemu-img check: %s", out)
		}
		qemu(t, "info", v)
		qemu(t, "compare", "-f", "vhdx", "-F", "raw", v, r)
	}
	if out, err := tool(t, "7zz", "7zip", "t", "-tVHDX", v); err != nil {
		t.Errorf("7zz: %v\n%s", err, out)
	}
	if out, err := tool(t, "vhdiinfo", "libvhdi-utils", v); err != nil || !strings.Contains(out, fmt.Sprintf("%d bytes", len(want))) {
		t.Errorf("vhdiinfo: %v\n%s", err, out)
	}
}
