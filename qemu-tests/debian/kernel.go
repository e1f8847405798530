package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// KernelPackage depends on the newest kernel for virtual machines.
const KernelPackage = "linux-image-cloud-amd64"

// Kernel returns the path of Debian's unmodified cloud kernel under dir, downloading and unpacking its package when it
// is not there yet. Nothing is installed.
func Kernel(ctx context.Context, dir string, progress io.Writer) (string, error) {
	path := filepath.Join(dir, "vmlinuz")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	name, err := kernelDependency(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(progress, "downloading %s\n", name)
	tmp, err := os.MkdirTemp("", "godwit-kernel")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := download(ctx, tmp, name); err != nil {
		// What apt knows may be older than what the archive has.
		prefix, rootErr := rootPrefix(ctx)
		if rootErr != nil {
			return "", fmt.Errorf("%w\nif the archive has no such package any more, run: %s", err, asRoot("apt-get update"))
		}
		if updated := run(ctx, append(prefix, "apt-get", "update")...); updated != nil {
			return "", errors.Join(err, updated)
		}
		if name, err = kernelDependency(ctx); err != nil {
			return "", err
		}
		if err := download(ctx, tmp, name); err != nil {
			return "", err
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s left %q, want one package", name, debs)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	if err := unpackKernel(ctx, debs[0], path); err != nil {
		return "", fmt.Errorf("%s: %w", debs[0], err)
	}
	return path, os.WriteFile(path+".name", []byte(strings.TrimSuffix(filepath.Base(debs[0]), ".deb")+"\n"), 0o666)
}

// download gets a package's file into dir.
func download(ctx context.Context, dir, name string) error {
	cmd := exec.CommandContext(ctx, "apt-get", "download", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w\n%s", name, err, out)
	}
	return nil
}

// kernelDependency asks apt which package KernelPackage stands for, after an update if apt knows nothing yet.
func kernelDependency(ctx context.Context) (string, error) {
	ask := func() (string, error) {
		out, err := exec.CommandContext(ctx, "apt-cache", "depends", KernelPackage).Output()
		return dependsOnKernel(string(out)), err
	}
	name, err := ask()
	if name != "" {
		return name, nil
	}
	prefix, rootErr := rootPrefix(ctx)
	if rootErr != nil {
		return "", errors.Join(err, NeedsRoot{asRoot("apt-get update")})
	}
	if err := run(ctx, append(prefix, "apt-get", "update")...); err != nil {
		return "", err
	}
	if name, err = ask(); name == "" {
		return "", fmt.Errorf("apt-cache depends %s names no kernel: %w", KernelPackage, err)
	}
	return name, nil
}

// dependsOnKernel finds "  Depends: linux-image-..." in the output of apt-cache depends.
func dependsOnKernel(out string) string {
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name
		}
	}
	return ""
}

// unpackKernel takes boot/vmlinuz-* out of a package.
func unpackKernel(ctx context.Context, deb, path string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	found := writeKernel(tar.NewReader(pipe), path)
	io.Copy(io.Discard, pipe)
	return errors.Join(found, cmd.Wait())
}

func writeKernel(t *tar.Reader, path string) error {
	for {
		h, err := t.Next()
		if err == io.EOF {
			return errors.New("no boot/vmlinuz-* inside")
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !strings.HasPrefix(strings.TrimPrefix(h.Name, "./"), "boot/vmlinuz-") {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		tmp := fmt.Sprintf("%s.new-%d", path, os.Getpid())
		defer os.Remove(tmp) // after a failure
		if err := os.WriteFile(tmp, data, 0o666); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	}
}
