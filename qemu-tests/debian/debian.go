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
	"syscall"
	"time"
)

// Package is a Debian package, with what it is for.
type Package struct{ Name, For string }

// Everything the repository needs beside Go, make and git: Image to build the images and the guest's files, Rig to run
// them as well.
var (
	Image = []Package{
		{"xorriso", "ISO images"},
		{"grub-common", "ISO images: grub-mkrescue"},
		{"grub-pc-bin", "ISO images: GRUB for BIOS machines"},
		{"mtools", "ISO images: called by grub-mkrescue"},
		{"busybox-static", "the guest's shell"},
	}
	Rig = append([]Package{
		{"qemu-system-x86", "emulated hosts with SVM"},
		{"ipxe-qemu", "network boot in both emulators"},
		{"bochs", "emulated hosts with VT-x"},
		{"bochs-term", "Bochs needs one display package; this is the smallest"},
		{"bochsbios", "Bochs's BIOS"},
		{"vgabios", "Bochs's VGA BIOS"},
		{"acpica-tools", "ACPICA's compiler, which checks the guests' ACPI tables"},
		{"qemu-utils", "other readers and writers of VHDX, for vdisk's tests"},
		{"libvhdi-utils", "likewise"},
		{"7zip", "likewise"},
	}, Image...)
)

// missing returns the names of the packages that are not installed.
func missing(ctx context.Context, want []Package) (names []string, err error) {
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		return nil, errors.New("this is no Debian machine (no dpkg-query): the rig is set up for Debian 12")
	}
	for _, p := range want {
		// Unknown names make dpkg-query fail; they print nothing, which is what counts.
		out, _ := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${db:Status-Status}", p.Name).Output()
		if string(out) != "installed" {
			names = append(names, p.Name)
		}
	}
	return names, ctx.Err()
}

// NeedsRoot is the error of an installation that this user may not do; it names the command that would.
type NeedsRoot struct{ Command string }

func (e NeedsRoot) Error() string {
	return "Debian packages are missing, and this user may not install them; run: " + e.Command
}

// Install installs what is missing of want, as root or through sudo, and reports to progress.
func Install(ctx context.Context, want []Package, progress io.Writer) error {
	names, err := missing(ctx, want)
	if err != nil || len(names) == 0 {
		return err
	}
	args := append([]string{"apt-get", "install", "-y", "--no-install-recommends"}, names...)
	prefix, err := rootPrefix(ctx)
	if err != nil {
		return NeedsRoot{asRoot("apt-get update && " + strings.Join(args, " "))}
	}
	fmt.Fprintf(progress, "installing %s\n", strings.Join(names, " "))
	// One archive of many that does not answer makes an update fail; what is wanted may be in another.
	updated := run(ctx, append(prefix, "apt-get", "update")...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := run(ctx, append(prefix, args...)...); err != nil {
		return errors.Join(err, updated)
	}
	return nil
}

// asRoot is the command line that runs a command as root here.
func asRoot(command string) string {
	if _, err := exec.LookPath("sudo"); err != nil {
		return "su -c '" + command + "'"
	}
	return "sudo sh -c '" + command + "'"
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

// aptPatience is how long apt may take to end in good order when it is interrupted.
const aptPatience = 30 * time.Second

// run shows a command's output only if it fails.
func run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// Killed, dpkg would leave packages half installed, and sudo leave it running.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = aptPatience
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, &out)
	}
	return nil
}
