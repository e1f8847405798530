package vdisk

import (
	"errors"
	"fmt"
)

// Flush makes every write that has returned durable. Concurrent calls share one
// run.
func (im *Image) Flush() error {
	if im.closed.Load() {
		return ErrClosed
	}
	if im.ro {
		return nil
	}
	if f := im.failed.Load(); f != nil {
		return *f
	}
	return im.commit.do(im.flush)
}

// flush is run by one goroutine at a time.
func (im *Image) flush() error {
	given := im.space.takeGiven()
	if !im.meta.pending() {
		// The changes that gave these regions back came before them, so they
		// are in the log already.
		if err := im.j.flush(im.space.fileEnd()); err != nil {
			return im.fail(err)
		}
		im.space.settle(given)
		return nil
	}
	if err := im.startLog(); err != nil {
		return im.fail(err)
	}
	for more := true; more; {
		end := im.space.fileEnd()
		var err error
		if more, err = im.commitPages(end); err != nil {
			return im.fail(err)
		}
	}
	im.space.settle(given)
	return nil
}

// commitPages logs as many changed pages as one entry takes and writes them in
// place.
func (im *Image) commitPages(end int64) (more bool, err error) {
	pages, writes, barrier, more := im.meta.take(im.j.maxPages())
	if len(pages) == 0 {
		return false, nil
	}
	if barrier {
		if err := im.j.flush(end); err != nil {
			return false, err
		}
	}
	if err := im.j.append(writes, end); err != nil {
		return false, fmt.Errorf("vdisk: log: %w", err)
	}
	for _, w := range writes {
		if _, err := im.b.WriteAt(w.Data, w.Offset); err != nil {
			return false, fmt.Errorf("vdisk: metadata at %#x: %w", w.Offset, err)
		}
	}
	im.meta.done(pages)
	return more, nil
}

// startLog makes the log usable for this session: an entry that bears its GUID is
// durable before a header names it, because a log in use without a valid entry is
// a corrupt file (2.3.3).
func (im *Image) startLog() error {
	if !im.j.guid.IsZero() {
		return nil
	}
	if im.j.length == 0 {
		return corrupt(headerOffset1, "the file has no log, so its metadata can not be changed safely")
	}
	if err := im.begin(false); err != nil {
		return err
	}
	im.j.guid, im.j.seq, im.j.head, im.j.live = NewGUID(), 0, 0, nil
	if err := im.j.append(nil, im.space.fileEnd()); err != nil {
		return fmt.Errorf("vdisk: log: %w", err)
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	h := im.hdr
	h.LogGUID = im.j.guid
	return im.writeHeaders(h)
}

// Close makes everything durable, retires the log and closes the backing. After an
// error the file is as a crash would have left it: the next opening repairs it.
func (im *Image) Close() error {
	if im.closed.Swap(true) {
		return ErrClosed
	}
	var err error
	if !im.ro && im.failed.Load() == nil {
		err = im.retire()
	}
	if im.parent != nil {
		err = errors.Join(err, im.parent.Close())
	}
	return errors.Join(err, im.b.Close())
}

func (im *Image) retire() error {
	if im.session.Load() == sessionNone {
		return nil
	}
	if err := im.commit.do(im.flush); err != nil {
		return err
	}
	end := im.space.fileEnd()
	if err := im.j.flush(end); err != nil { // in-place writes of the last entries
		return err
	}
	if !im.j.guid.IsZero() {
		im.hdrMu.Lock()
		h := im.hdr
		h.LogGUID = GUID{}
		err := im.writeHeaders(h)
		im.hdrMu.Unlock()
		if err != nil {
			return err
		}
	}
	return im.space.trimEnd()
}
