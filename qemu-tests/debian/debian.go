// Package debian brings the rig's tools and its guest kernel onto a Debian machine.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Packages is everything the rig needs beside Go, make and git, with what for.
var Packages = []struct{ Name, For string }{
	{"qemu-system-x86", "emulated hosts with SVM"},
	{"ipxe-qemu", "network boot in both emulators"},
	{"bochs", "emulated hosts with VT-x"},
	{"bochs-term", "Bochs needs one display package; this is the smallest"},
	{"bochsbios", "Bochs's BIOS"},
	{"vgabios", "Bochs's VGA BIOS"},
	{"xorriso", "ISO images"},
	{"grub-common", "ISO images: grub-mkrescue"},
	{"grub-pc-bin", "ISO images: GRUB for BIOS machines"},
	{"mtools", "ISO images: called by grub-mkrescue"},
	{"busybox-static", "the guest's shell"},
}

// Missing returns the packages that are not installed.
func Missing(ctx context.Context) ([]string, error) {
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		return nil, errors.New("this is no Debian machine (no dpkg-query): the rig is set up for Debian 12")
	}
	var missing []string
	for _, p := range Packages {
		// Unknown names make dpkg-query fail; they print nothing, which is what counts.
		out, _ := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${db:Status-Status}", p.Name).Output()
		if string(out) != "installed" {
			missing = append(missing, p.Name)
		}
	}
	return missing, ctx.Err()
}

// NeedsRoot is the error of an installation that this user may not do; it names the command that would.
type NeedsRoot struct{ Command string }

func (e NeedsRoot) Error() string {
	return "some Debian packages are missing and this user may not install them; run:\n\n    " + e.Command + "\n"
}

// Install installs what is missing, as root or through sudo, and reports to progress.
func Install(ctx context.Context, progress io.Writer) error {
	missing, err := Missing(ctx)
	if err != nil || len(missing) == 0 {
		return err
	}
	args := append([]string{"apt-get", "install", "-y", "--no-install-recommends"}, missing...)
	prefix, err := rootPrefix(ctx)
	if err != nil {
		return NeedsRoot{"sudo apt-get update && sudo " + strings.Join(args, " ")}
	}
	fmt.Fprintf(progress, "installing %s\n", strings.Join(missing, " "))
	for _, a := range [][]string{{"apt-get", "update"}, args} {
		if err := run(ctx, append(prefix, a...)...); err != nil {
			return err
		}
	}
	return nil
}

// rootPrefix is what goes before a command to run it as root.
func rootPrefix(ctx context.Context) ([]string, error) {
	if os.Geteuid() == 0 {
		return []string{"env", "DEBIAN_FRONTEND=noninteractive"}, nil
	}
	if _, err := exec.LookPath("sudo"); err != nil {
		return nil, err
	}
	sudo := []string{"sudo"}
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		sudo = append(sudo, "-n") // nobody can type a password
	}
	if err := exec.CommandContext(ctx, sudo[0], append(sudo[1:], "true")...).Run(); err != nil {
		return nil, err
	}
	return append(sudo, "env", "DEBIAN_FRONTEND=noninteractive"), nil
}

// run shows a command's output only if it fails.
func run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, &out)
	}
	return nil
}
