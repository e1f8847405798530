// Command mkimage builds the host image: the Go program cmd/godwit, linked for bare metal and wrapped by package boot.
//
//	go run ./boot/mkimage -o build
//
// leaves in build/:
//
//	godwit.img  flat Multiboot image: QEMU -kernel, GRUB multiboot, iPXE kernel or boot file
//	godwit.elf  the same with a PVH entry: QEMU -kernel and other hypervisors
//	godwit.sym  the linked program with symbols, for gdb and go tool addr2line
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"godwit/boot"
)

func main() {
	out := flag.String("o", "build", "`directory` for the results")
	pkg := flag.String("pkg", "./cmd/godwit", "the program's `package`")
	entry := flag.String("entry", boot.EntrySymbol, "the program's first `function`")
	flag.Parse()
	if err := run(*out, *pkg, *entry); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(out, pkg, entry string) error {
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	sym := filepath.Join(out, "godwit.sym")
	if err := compile(sym, pkg, entry); err != nil {
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

// compile links pkg for the addresses the boot head leaves free. -trimpath and no VCS stamp make equal sources give
// equal images, wherever they were built.
func compile(out, pkg, entry string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", boot.LinkerFlags(entry), "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w", pkg, err)
	}
	return nil
}

// writeFile replaces a file whole, so that an emulator started meanwhile reads the old or the new one.
func writeFile(name string, data []byte) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, data, 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
