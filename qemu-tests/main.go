// Command qemu-tests is the rig: it boots Godwit on emulated machines, drives it through its serial console and judges
// what it does.
//
//	go run ./qemu-tests files   make the guest's kernel and initramfs: .cache/guest/vmlinuz, build/guest/initramfs
//
// Run it in the repository's root. See docs/rig.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"godwit/qemu-tests/debian"
	"godwit/qemu-tests/guest"
)

// commands maps each word to what it does.
var commands = map[string]func(ctx context.Context, args []string) error{
	"files": files,
}

func main() {
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: go run ./qemu-tests files") }
	flag.Parse()
	run, ok := commands[flag.Arg(0)]
	if !ok {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	if err := run(ctx, flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "qemu-tests:", err)
		os.Exit(1)
	}
}

func files(ctx context.Context, _ []string) error {
	if err := debian.Install(ctx, debian.Image, os.Stderr); err != nil {
		return err
	}
	f, err := guest.Build(ctx, ".", os.Stderr)
	if err == nil {
		fmt.Println(f.Kernel, f.Initramfs)
	}
	return err
}
