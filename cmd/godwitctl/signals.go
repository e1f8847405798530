package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// A host that was asked to cancel a command and goes on is left: after hint the operator learns how, and whoever ended
// us without a keyboard waits no longer than grace.
const (
	hint  = 2 * time.Second
	grace = 2 * time.Second
)

// signals turns ^C into the end of ctx and a second one into leave, which is closed then. That our output was closed is
// an error of writing, so that the terminal is always put right before the end.
func signals() (ctx context.Context, leave chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	leave = make(chan struct{})
	in := make(chan os.Signal, 2)
	signal.Notify(in, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	ended := make(chan struct{})
	go func() {
		var after <-chan time.Time
		for {
			select {
			case s := <-in:
				if ctx.Err() != nil {
					close(leave)
					signal.Reset(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP) // the next ends us whatever we wait for
					return
				}
				cancel()
				if after = time.After(hint); s != os.Interrupt {
					time.AfterFunc(grace, func() { in <- s })
				}
			case <-after:
				fmt.Fprintln(os.Stderr, "godwitctl: asked the host to cancel; ^C again leaves without its answer")
			case <-ended:
				return
			}
		}
	}()
	return ctx, leave, func() { signal.Stop(in); close(ended); cancel() }
}
