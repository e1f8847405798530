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
		im.space.harden()
		im.space.settle(given)
		return nil
	}
	if err := im.newLog(); err != nil {
		return im.fail(err)
	}
	if err := im.commitPages(im.space.fileEnd()); err != nil {
		return im.fail(err)
	}
	im.space.harden()
	im.space.settle(given)
	return nil
}

// commitPages logs the changed pages, in as many entries as they take, and writes
// them in place. They are copied at one moment, and sector bitmaps go before the
// BAT: whatever entry a crash leaves as the last, no block is partially present
// by a bitmap that is not there yet.
func (im *Image) commitPages(end int64) error {
	pages, writes, bytes, barrier := im.meta.take(func(off int64) bool {
		return off < im.batOff || off >= im.batOff+8*int64(im.g.entries)
	})
	if barrier {
		if err := im.j.flush(end); err != nil {
			return err
		}
	}
	for rest := writes; len(rest) > 0; {
		w := rest[:min(len(rest), im.j.maxPages())]
		rest = rest[len(w):]
		if err := im.j.append(w, end); err != nil {
			return fmt.Errorf("vdisk: log: %w", err)
		}
		if err := im.nameLog(); err != nil {
			return err
		}
		for len(w) > 0 {
			n := 1 // pages that follow each other go in one write
			for n < len(w) && w[n].Offset == w[n-1].Offset+logSector {
				n++
			}
			if _, err := im.b.WriteAt(bytes[:n*logSector], w[0].Offset); err != nil {
				return fmt.Errorf("vdisk: metadata at %#x: %w", w[0].Offset, err)
			}
			for _, w := range w[:n] {
				im.mirrored(w)
			}
			w, bytes = w[n:], bytes[n*logSector:]
		}
	}
	im.meta.done(pages)
	return nil
}

// throttle bounds the changed pages that wait in memory. The caller holds no
// block's lock.
func (im *Image) throttle() error {
	if !im.meta.full() {
		return nil
	}
	return im.commit.do(im.flush)
}

// startLog makes the log usable for this session.
func (im *Image) startLog() error {
	if err := im.newLog(); err != nil || im.j.named {
		return err
	}
	if err := im.j.append(nil, im.space.fileEnd()); err != nil {
		return fmt.Errorf("vdisk: log: %w", err)
	}
	return im.nameLog()
}

// newLog begins this session's log, if there is none yet. Its first entry must be
// durable before nameLog, because a log in use without a valid entry is a corrupt
// file (2.3.3). Until then no reader looks at that entry, and nothing in it is in
// place.
func (im *Image) newLog() error {
	if !im.j.guid.IsZero() {
		return nil
	}
	if im.j.length == 0 {
		return ErrNoLog.at(headerOffset1, "the file has no log, so its metadata can not be changed safely; repair gives it one")
	}
	if err := im.begin(false); err != nil {
		return err
	}
	if grown, err := im.space.wholeMiB(); err != nil {
		return err
	} else if grown {
		if err := im.j.flush(im.space.fileEnd()); err != nil {
			return err
		}
	}
	im.j.guid, im.j.seq, im.j.head, im.j.live, im.j.applied = NewGUID(), 0, 0, nil, 0
	im.j.named, im.j.header = false, im.headerNow()
	return nil
}

// nameLog makes the headers name the log, whose first entry is durable.
func (im *Image) nameLog() error {
	if im.j.named {
		return nil
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	im.flushedSince(im.j.header)
	h := im.hdr
	h.LogGUID = im.j.guid
	im.j.named = true
	return im.writeHeaders(h, true)
}

// Close makes everything durable, retires the log and closes the backing. After an
// error the file is as a crash would have left it: the next opening repairs it.
func (im *Image) Close() error {
	if im.closed.Swap(true) {
		return ErrClosed
	}
	// Whoever came before is done when its block's lock is free; whoever comes
	// later sees closed.
	for i := range im.blocks {
		im.blocks[i].Lock()
		im.blocks[i].Unlock()
	}
	// A resize or compaction sees it too, at its next step.
	im.reshape.Lock()
	defer im.reshape.Unlock()
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
	end, header := im.space.fileEnd(), im.headerNow()
	if err := im.j.flush(end); err != nil { // in-place writes of the last entries
		return err
	}
	if !im.j.guid.IsZero() {
		im.hdrMu.Lock()
		im.flushedSince(header)
		h := im.hdr
		h.LogGUID = GUID{}
		err := im.writeHeaders(h, false)
		im.hdrMu.Unlock()
		if err != nil {
			return err
		}
	}
	return im.space.trimEnd()
}
