// Command godwitctl runs a Godwit host's commands from Linux (main.go), and works on
// disk images there (disk.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"godwit/cmd/internal/control"
	"godwit/cmd/internal/shell"
)

const usage = `godwitctl runs a Godwit host's commands.

usage: godwitctl -host ADDR[:PORT] [-json] COMMAND [ARGUMENT ...]
       godwitctl disk COMMAND ...    works on disk images, on this machine

    godwitctl -host 192.0.2.10 help
    godwitctl -host 192.0.2.10 vm list -json
    godwitctl -host 192.0.2.10 vm create web kernel=http://192.0.2.1/vmlinuz initrd=http://192.0.2.1/initrd mem=512M cpus=2 cmdline="console=ttyS0"
    godwitctl -host 192.0.2.10 vm console web

The host must have been booted with control=insecure-tcp (see docs/console.md).
$GODWIT_HOST stands in for -host. ^C cancels the running command; a second one
leaves without waiting for the host's answer.

`

func main() {
	os.Exit(run())
}

func run() int {
	if len(os.Args) > 1 && os.Args[1] == "disk" {
		return disk(os.Args[2:])
	}
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flag.PrintDefaults()
	}
	host := flag.String("host", os.Getenv("GODWIT_HOST"), "address of the host, with `ADDR[:PORT]`")
	asJSON := flag.Bool("json", false, "show results as JSON")
	timeout := flag.Duration("timeout", 10*time.Second, "how long to try to connect")
	flag.Parse()
	if *host == "" || flag.NArg() == 0 {
		flag.Usage()
		if *host == "" {
			fmt.Fprintln(os.Stderr, "\ngodwitctl: which host? -host or $GODWIT_HOST tells")
		}
		return 2
	}
	addr, err := address(*host)
	if err != nil {
		fmt.Fprintln(os.Stderr, "godwitctl:", err)
		return 2
	}
	ctx, leave, stop := signals()
	defer stop()
	d := net.Dialer{Timeout: *timeout}
	c, err := d.DialContext(ctx, "tcp", addr)
	if ctx.Err() != nil {
		fmt.Fprintf(os.Stderr, "godwitctl: %s: interrupted while connecting\n", addr)
		return 1
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "godwitctl:", err)
		if !errors.As(err, new(*net.DNSError)) {
			fmt.Fprintln(os.Stderr, "  is the host up, and was it booted with control=insecure-tcp?")
		}
		return 1
	}
	cmd := control.Command{Args: flag.Args(), JSON: *asJSON, Out: os.Stdout, Leave: leave}
	fd := int(os.Stdin.Fd())
	if term.IsTerminal(fd) {
		cmd.Input = os.Stdin
		var saved *term.State
		cmd.Raw = func(on bool) {
			if on && saved == nil {
				saved, _ = term.MakeRaw(fd)
			} else if !on && saved != nil {
				term.Restore(fd, saved)
				saved = nil
			}
		}
		defer cmd.Raw(false)
	} else if flag.NArg() >= 2 && flag.Arg(0) == "vm" && flag.Arg(1) == "console" {
		cmd.Input = os.Stdin
	}
	if err := control.Run(ctx, c, cmd); err != nil {
		if cmd.Raw != nil {
			cmd.Raw(false)
		}
		if errors.Is(err, context.Canceled) {
			err = errors.New("interrupted before the host answered")
		}
		var h control.HostError
		if errors.As(err, &h) {
			fmt.Fprintln(os.Stderr, "error:", shell.Printable(err.Error()))
			if h.Usage {
				return 2
			}
		} else if !errors.Is(err, syscall.EPIPE) { // who closed our output knows
			fmt.Fprintf(os.Stderr, "godwitctl: %s: %v\n", addr, err)
		}
		return 1
	}
	return 0
}

// address adds the port that a host listens on unless told otherwise.
func address(host string) (string, error) {
	h, port, err := net.SplitHostPort(host)
	if err != nil || port == "" {
		h, port = strings.Trim(strings.TrimSuffix(host, ":"), "[]"), strconv.Itoa(control.DefaultPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if _, notIP := netip.ParseAddr(h); err != nil || n == 0 || h == "" || notIP != nil && strings.ContainsAny(h, ":/[] ") {
		return "", fmt.Errorf("-host %q is no address: write ADDR or ADDR:PORT, as in -host 192.0.2.10:%d", host, control.DefaultPort)
	}
	return net.JoinHostPort(h, port), nil
}
