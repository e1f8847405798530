package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Disc describes a bootable ISO image: GRUB for BIOS machines and what it loads.
type Disc struct {
	Image       string // path of the flat image, or of a Linux kernel
	Linux       bool   // Image is a Linux kernel and Files holds its initramfs: to compare a guest with the bare machine
	CommandLine string // words; those with blanks in double quotes
	Files       []File // boot modules
}

// File is a file that is passed to the host under a name.
type File struct{ Path, Name string }

// imageName stands first in the Multiboot command line, as the loaders other than GRUB 2 put it.
const imageName = "godwit.img"

// grubModules is the part of GRUB that a disc needs.
const grubModules = "multiboot linux iso9660 biosdisk normal part_msdos minicmd"

// DiscTools is checked before a disc is written: the program and its Debian package.
var DiscTools = []struct{ Program, Package string }{
	{"grub-mkrescue", "grub-common"}, {"xorriso", "xorriso"}, {"mformat", "mtools"},
}

const grubDir = "/usr/lib/grub/i386-pc" // Debian package grub-pc-bin

// Write makes the ISO image at path.
func (d *Disc) Write(ctx context.Context, path string) error {
	for _, t := range DiscTools {
		if _, err := exec.LookPath(t.Program); err != nil {
			return fmt.Errorf("%s: %s is missing: install the Debian package %s", path, t.Program, t.Package)
		}
	}
	if _, err := os.Stat(grubDir); err != nil {
		return fmt.Errorf("%s: %w: install the Debian package grub-pc-bin", path, err)
	}
	cfg, err := d.grubConfig()
	if err != nil {
		return err
	}
	tree, err := os.MkdirTemp("", "godwit-disc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	for _, dir := range []string{"boot/grub", "boot/modules"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o777); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "boot/grub/grub.cfg"), cfg, 0o666); err != nil {
		return err
	}
	for _, f := range append([]File{{d.Image, "../image"}}, d.Files...) {
		if err := copyFile(filepath.Join(tree, "boot/modules", f.Name), f.Path); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "grub-mkrescue", "-d", grubDir, "-o", path, tree,
		"--install-modules="+grubModules, "--locales=", "--themes=", "--fonts=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: grub-mkrescue: %w\n%s", path, err, out)
	}
	return nil
}

// grubConfig boots at once, without a menu. GRUB 2 leaves a file's own name out of what it passes, so names are
// written twice.
func (d *Disc) grubConfig() ([]byte, error) {
	args, err := grubWords(d.CommandLine)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("set timeout=0\nterminal_output console\n")
	if d.Linux {
		fmt.Fprintf(&b, "linux /boot/image%s\n", args)
	} else {
		fmt.Fprintf(&b, "multiboot /boot/image %s%s\n", imageName, args)
	}
	for _, f := range d.Files {
		if !goodName(f.Name) {
			return nil, fmt.Errorf("%q is no name for a boot module: letters, digits, dots, dashes and underscores", f.Name)
		}
		if d.Linux {
			fmt.Fprintf(&b, "initrd /boot/modules/%s\n", f.Name)
		} else {
			fmt.Fprintf(&b, "module /boot/modules/%s %s\n", f.Name, f.Name)
		}
	}
	b.WriteString("boot\n")
	return b.Bytes(), nil
}

func goodName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return s != "" && s[0] != '.' && strings.Trim(s, letters) == ""
}

// grubWords quotes a command line for GRUB's shell (GRUB manual, "Quoting"), each word with a space before it.
func grubWords(line string) (string, error) {
	var b strings.Builder
	word, open, quoted := "", false, false
	for _, r := range line + " " {
		switch {
		case r == '\'' || r == '\n' || r == '\\':
			return "", fmt.Errorf("command line %q: %q cannot be passed through GRUB", line, r)
		case r == '"':
			quoted, open = !quoted, true
		case r == ' ' && !quoted:
			if open {
				b.WriteString(" '" + word + "'")
			}
			word, open = "", false
		default:
			word, open = word+string(r), true
		}
	}
	if quoted {
		return "", errors.New("command line: a quotation mark is not closed")
	}
	return b.String(), nil
}

// copyFile links from at to if it can, else copies it.
func copyFile(to, from string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
