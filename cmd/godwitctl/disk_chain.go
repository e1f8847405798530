package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"godwit/vdisk"
)

// progress shows how far long work is, on a terminal; finish takes that away again.
func (c *diskCommand) progress() (show func(done, total int64), finish func()) {
	if c.noMeter || !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil, func() {}
	}
	last := time.Now()
	return func(done, total int64) {
			if time.Since(last) > time.Second/4 {
				last = time.Now()
				fmt.Fprintf(os.Stderr, "\r%3d%% of %s ", 100*done/max(total, 1), human(total))
			}
		}, func() {
			fmt.Fprint(os.Stderr, "\r\x1b[K")
		}
}

// snapshot freezes an image that is not in use.
func (c *diskCommand) snapshot(_ context.Context, names []string) (int, error) {
	parent, child := names[0], names[1]
	err := vdisk.SnapshotPath(parent, child, vdisk.SnapshotOptions{BlockSize: int(c.block), LogSize: int64(c.log), Creator: "Godwit"})
	switch {
	case errors.Is(err, os.ErrExist):
		return 1, fmt.Errorf("%s exists already; remove it or choose another name", child)
	case err != nil:
		return 1, err
	}
	c.show(map[string]string{"frozen": parent, "child": child}, func() {
		fmt.Printf("%s: use it instead of %s from now on; %s must not be changed any more, or %s loses its parent\n", child, parent, parent, child)
	})
	return 0, nil
}

// commit merges a child into its parent.
func (c *diskCommand) commit(ctx context.Context, names []string) (int, error) {
	child := names[0]
	start := time.Now()
	show, finish := c.progress()
	done, err := vdisk.CommitPath(ctx, child, vdisk.CommitOptions{Progress: show})
	finish()
	if err != nil {
		return 1, err
	}
	if c.remove {
		if err := os.Remove(child); err != nil {
			return 1, fmt.Errorf("the commit is done, but: %w", err)
		}
	}
	c.show(struct {
		Child string `json:"child"`
		vdisk.Committed
		Removed bool    `json:"removed"`
		Seconds float64 `json:"seconds"`
	}{child, done, c.remove, time.Since(start).Seconds()}, func() {
		fmt.Printf("%s: its parent reads as it does now: %s of data and %s of zeroes went there, in %.1f s\n", child, human(done.Written), human(done.Zeroed), time.Since(start).Seconds())
		if !c.remove {
			fmt.Printf("%s: may be removed, if no other image has it as its parent\n", child)
		}
	})
	return 0, nil
}
