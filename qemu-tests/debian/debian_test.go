package debian

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissingPackagesAreNamed(t *testing.T) {
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		t.Skip("no Debian machine")
	}
	got, err := missing(t.Context(), []Package{{"dpkg", ""}, {"no-such-package-godwit", ""}})
	if err != nil || len(got) != 1 || got[0] != "no-such-package-godwit" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestKernelIsFoundAmongDependencies(t *testing.T) {
	const out = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: fdutils\n"
	if got := dependsOnKernel(out); got != "linux-image-6.1.0-56-cloud-amd64" {
		t.Errorf("got %q", got)
	}
	for _, out := range []string{"", "x\n  Depends: libc6\n", "x\n  Suggests: linux-image-1\n"} {
		if got := dependsOnKernel(out); got != "" {
			t.Errorf("%q gives %q", out, got)
		}
	}
}

func TestKernelIsTakenFromThePackage(t *testing.T) {
	archive := func(names ...string) *tar.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			if err := w.WriteHeader(&tar.Header{Name: n, Size: int64(len(n)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(n)); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		return tar.NewReader(&b)
	}
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := writeKernel(archive("./boot/config-6.1", "./boot/vmlinuz-6.1"), path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "./boot/vmlinuz-6.1" {
		t.Errorf("wrote %q, %v", b, err)
	}
	if err := writeKernel(archive("./boot/config-6.1"), path); err == nil || !strings.Contains(err.Error(), "no boot/vmlinuz") {
		t.Errorf("package without a kernel: %v", err)
	}
}
