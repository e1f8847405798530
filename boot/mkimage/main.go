// Command mkimage builds the host image: the Go program cmd/godwit, linked for bare metal and wrapped by package boot.
//
//	go run ./boot/mkimage -o build -module vmlinuz -module initramfs
//
// leaves in build/:
//
//	godwit.img   flat Multiboot image: QEMU -kernel, GRUB multiboot, iPXE kernel or boot file
//	godwit.elf   the same with a PVH entry: QEMU -kernel and other hypervisors
//	godwit.sym   the linked program with symbols, for gdb and go tool addr2line
//	godwit.iso   the image with a config and the modules, for a CD drive or a USB stick of a BIOS machine (-iso=false: not)
//	tftp/        the same for a network boot server: DHCP names tftp/boot.ipxe
//	godwit.conf  the config module of both; an existing one is kept
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"godwit/boot"
)

func main() {
	out := flag.String("o", "build", "`directory` for the results")
	pkg := flag.String("pkg", "./cmd/godwit", "the program's `package`")
	entry := flag.String("entry", boot.EntrySymbol, "the program's first `function`")
	disc := flag.Bool("iso", true, "make the ISO image too; needs grub-mkrescue")
	cmdline := flag.String("append", "", "the host's `options` on the ISO's and the iPXE script's command line")
	var modules []boot.File
	flag.Func("module", "a `file` passed to the host as a boot module; may be given several times", func(path string) error {
		modules = append(modules, boot.File{Path: path, Name: filepath.Base(path)})
		return nil
	})
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	err := run(*out, *pkg, *entry)
	if err == nil {
		err = wrap(ctx, *out, *cmdline, modules, *disc)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(out, pkg, entry string) error {
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	sym := filepath.Join(out, "godwit.sym")
	tmp := fmt.Sprintf("%s.new-%d", sym, os.Getpid())
	defer os.Remove(tmp) // after a failure
	if err := compile(tmp, pkg, entry); err != nil {
		return err
	}
	if err := os.Rename(tmp, sym); err != nil {
		return err
	}
	f, err := os.Open(sym)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := boot.Link(f)
	if err != nil {
		return fmt.Errorf("%s: %w", sym, err)
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{"godwit.img", img.Flat}, {"godwit.elf", img.ELF}} {
		if err := writeFile(filepath.Join(out, file.name), file.data); err != nil {
			return err
		}
	}
	fmt.Printf("%s: %d bytes, in memory %#x to %#x\n", filepath.Join(out, "godwit.img"), len(img.Flat), boot.Base, img.BSSEnd)
	return nil
}

// config is the module in which an operator writes a host's options.
const config = `# Options of this host, one a line, as on the command line, which wins. The command "options" lists them.
# name=host1
# control=insecure-tcp
# migrate=insecure-tcp
`

// wrap makes what boots the image from a disc and from the network.
func wrap(ctx context.Context, out, cmdline string, modules []boot.File, disc bool) error {
	conf := filepath.Join(out, "godwit.conf")
	if _, err := os.Stat(conf); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(conf, []byte(config), 0o666); err != nil {
			return err
		}
	}
	image := filepath.Join(out, "godwit.img")
	files := append([]boot.File{{Path: conf, Name: "godwit.conf"}}, modules...)
	folder := boot.NetworkFolder{Image: image, CommandLine: cmdline, Files: files}
	if err := folder.Write(filepath.Join(out, "tftp")); err != nil {
		return err
	}
	if !disc {
		return nil
	}
	d := boot.Disc{Image: image, CommandLine: cmdline, Files: files}
	return d.Write(ctx, filepath.Join(out, "godwit.iso"))
}

// cold are packages in which speed does not matter. Without inlining they are smaller, by some 150 KiB in all.
var cold = []string{
	"encoding/json", "fmt", "log", "math/big", "net", "net/url", "os", "reflect", "regexp/...", "time",
	"golang.org/x/arch/...", "golang.org/x/term", "github.com/insomniacslk/...",
	"godwit/cmd/...", "godwit/kernel/selftest", "godwit/vnet/fetch", "godwit/vmm/acpi", "godwit/vmm/bench", "godwit/vmm/conformance", "godwit/vmm/loader",
}

// compile links pkg for the addresses the boot head leaves free. -trimpath and no VCS stamp make equal sources give
// equal images, wherever they were built.
func compile(out, pkg, entry string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", boot.LinkerFlags(entry)}
	lean, err := leanModules(pkg)
	if err != nil {
		return err
	}
	if lean != "" {
		args = append(args, "-modfile="+lean)
	}
	for _, p := range cold {
		args = append(args, "-gcflags="+p+"=-l")
	}
	cmd := exec.Command("go", append(args, "-o", out, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w", pkg, err)
	}
	return nil
}

// writeFile replaces a file whole, so that an emulator started meanwhile reads the old or the new one.
func writeFile(name string, data []byte) error {
	tmp := fmt.Sprintf("%s.new-%d", name, os.Getpid())
	defer os.Remove(tmp) // after a failure
	if err := os.WriteFile(tmp, data, 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
