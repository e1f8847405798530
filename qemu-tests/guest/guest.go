// Package guest makes the files of the rig's guest: Debian's kernel as Debian ships it, and an initial RAM file system
// with our first process (guest/init) and busybox.
package guest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"godwit/qemu-tests/debian"
	"godwit/qemu-tests/guest/cpio"
	"godwit/qemu-tests/job"
)

// Names of the files, which are also the names of boot modules.
const (
	KernelName    = "vmlinuz"
	InitramfsName = "initramfs"
)

// Files are the guest's files on this machine.
type Files struct {
	Kernel    string
	Initramfs string
}

// Build makes the files below the repository's root: the kernel in .cache/guest, the rest in build/guest.
func Build(ctx context.Context, root string, progress io.Writer) (Files, error) {
	kernel, err := debian.Kernel(ctx, filepath.Join(root, ".cache/guest"), progress)
	if err != nil {
		return Files{}, err
	}
	dir := filepath.Join(root, "build/guest")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return Files{}, err
	}
	// Another run in this directory may be reading the files: they are replaced whole.
	init := filepath.Join(dir, fmt.Sprintf("init.new-%d", os.Getpid()))
	defer os.Remove(init)
	if err := compile(ctx, root, init); err != nil {
		return Files{}, err
	}
	archive, err := initramfs(init)
	if err != nil {
		return Files{}, err
	}
	f := Files{Kernel: kernel, Initramfs: filepath.Join(dir, InitramfsName)}
	tmp := fmt.Sprintf("%s.new-%d", f.Initramfs, os.Getpid())
	defer os.Remove(tmp) // after a failure
	if err := os.WriteFile(tmp, archive, 0o666); err != nil {
		return Files{}, err
	}
	return f, os.Rename(tmp, f.Initramfs)
}

func compile(ctx context.Context, root, out string) error {
	cmd := job.Command(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, "./qemu-tests/guest/init")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's init: %w\n%s", err, b)
	}
	return nil
}

// initramfs packs init and busybox. It is not compressed: emulated CPUs unpack slowly.
func initramfs(init string) ([]byte, error) {
	program, err := os.ReadFile(init)
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian package busybox-static)", err)
	}
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		w.Dir(d, 0o755)
	}
	w.CharDevice("dev/console", 0o600, 5, 1)
	w.CharDevice("dev/null", 0o666, 1, 3)
	w.File("init", 0o755, program)
	w.File("bin/busybox", 0o755, busybox)
	err = w.Close()
	return b.Bytes(), err
}
