package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"godwit/vdisk"
)

// change opens an image, changes it, and closes it.
func change(name string, f func(im *vdisk.Image) error) error {
	im, err := vdisk.OpenPath(name, vdisk.Options{}, vdisk.FileOptions{})
	if err != nil {
		return err
	}
	if err := errors.Join(f(im), im.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// resize makes a disk larger or smaller.
func (c *diskCommand) resize(ctx context.Context, names []string) (int, error) {
	if c.size == 0 {
		return 2, errors.New("say how large the disk is to be: -size 200G")
	}
	var before int64
	err := change(names[0], func(im *vdisk.Image) error {
		before = im.Size()
		if c.discard {
			return im.ResizeAndDiscard(ctx, int64(c.size))
		}
		return im.Resize(ctx, int64(c.size))
	})
	switch {
	case errors.Is(err, vdisk.ErrHoldsData):
		return 1, fmt.Errorf("%w (-discard)", err)
	case errors.Is(err, context.Canceled):
		return 1, fmt.Errorf("interrupted: the disk has the size it had (%w)", err)
	case err != nil:
		return 1, err
	}
	c.show(struct {
		File   string `json:"file"`
		Before int64  `json:"before"`
		Size   int64  `json:"size"`
	}{names[0], before, int64(c.size)}, func() {
		fmt.Printf("%s: the disk had %s and has %s; now let the guest's partitions and file systems follow\n", names[0], human(before), human(int64(c.size)))
	})
	return 0, nil
}

// compact makes an image's file as short as it can be.
func (c *diskCommand) compact(ctx context.Context, names []string) (int, error) {
	start := time.Now()
	show, finish := c.progress()
	var done vdisk.Compaction
	err := change(names[0], func(im *vdisk.Image) (err error) {
		done, err = im.Compact(ctx, func(p vdisk.Compaction) {
			if show != nil {
				show(p.Scanned+p.Moved, p.Disk+p.ToMove)
			}
		})
		return err
	})
	finish()
	stopped := errors.Is(err, context.Canceled)
	if err != nil && !stopped {
		return 1, err
	}
	if st, err := os.Stat(names[0]); err == nil && st.Mode().IsRegular() {
		done.After = st.Size() // closing it cut its end off, if Compact did not come to that
	}
	c.show(struct {
		File string `json:"file"`
		vdisk.Compaction
		Interrupted bool    `json:"interrupted"`
		Seconds     float64 `json:"seconds"`
	}{names[0], done, stopped, time.Since(start).Seconds()}, func() {
		if stopped {
			fmt.Printf("%s: interrupted; the image is whole, call again to go on\n", names[0])
		}
		fmt.Printf("%s: the file had %s and has %s; %s of blocks without data freed, %s moved, in %.1f s\n",
			names[0], human(done.Before), human(done.After), human(done.Freed), human(done.Moved), time.Since(start).Seconds())
	})
	if stopped {
		return 1, nil
	}
	return 0, nil
}
