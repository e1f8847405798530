package vdisk

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// Moving what the file needs to be understood: the BAT, sector bitmaps, the metadata and
// the log itself. What lies
// in a page is in the log until the tail has passed it, and a replay writes it where
// it was; so an old place is free only when an entry behind the one that moved it is
// the oldest that a replay would read.

// exclusively runs f, which changes metadata, while no commit runs. After an error
// nobody knows what the file holds.
func (im *Image) exclusively(f func() error) error {
	return im.commit.alone(func() error {
		if e := im.failed.Load(); e != nil {
			return *e
		}
		return im.fail(f())
	})
}

// patches are changes of some bytes of metadata that metaCache does not hold,
// gathered to pages for one log entry.
type patches struct {
	r      io.ReaderAt
	writes []logWrite
}

func (ps *patches) put(data []byte, off int64) error {
	for len(data) > 0 {
		at := off &^ (logSector - 1)
		var page []byte
		for _, w := range ps.writes {
			if w.Offset == at {
				page = w.Data
			}
		}
		if page == nil {
			page = make([]byte, logSector)
			if _, err := ps.r.ReadAt(page, at); err != nil {
				return fmt.Errorf("vdisk: metadata at %#x: %w", at, err)
			}
			ps.writes = append(ps.writes, logWrite{Offset: at, Data: page})
		}
		n := copy(page[off-at:], data)
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// logged makes changes through one log entry, all or nothing. No commit runs, and
// all that the changes refer to is durable.
func (im *Image) logged(writes []logWrite) error {
	if err := im.startLog(); err != nil {
		return err
	}
	if err := im.j.append(writes, im.space.fileEnd()); err != nil {
		return fmt.Errorf("vdisk: log: %w", err)
	}
	for _, w := range writes {
		if _, err := im.b.WriteAt(w.Data, w.Offset); err != nil {
			return fmt.Errorf("vdisk: metadata at %#x: %w", w.Offset, err)
		}
	}
	return nil
}

// leaveBehind makes an empty entry the oldest that a replay reads. No commit runs.
func (im *Image) leaveBehind() error {
	end := im.space.fileEnd()
	if err := im.j.flush(end); err != nil {
		return err
	}
	return im.j.append(nil, end)
}

// A batMirror is the place that the BAT moves to. Until then commits write its pages
// there as well.
type batMirror struct {
	off, n int64
	err    error
}

func (im *Image) mirrored(w logWrite) {
	m := im.mirror
	if m == nil || w.Offset < im.batOff || w.Offset >= im.batOff+m.n {
		return
	}
	if _, err := im.b.WriteAt(w.Data, m.off+w.Offset-im.batOff); err != nil {
		m.err = err
	}
}

// moveBAT moves the BAT to a place of length bytes at off that was allocated for it
// and holds c. Requests and commits go on while it is copied. In an error it gives
// the place back. reshape is held.
func (im *Image) moveBAT(ctx context.Context, off, length int64, c content) (err error) {
	bat, _ := findRegion(im.regions, regionBAT)
	keep := min(int64(bat.Length), length)
	m := &batMirror{off: off, n: keep}
	// Nothing refers to the new place: until the switch an error spoils nothing.
	copied := func() error {
		if c == holdsOld {
			if err := im.zeroFile(off+keep, length-keep); err != nil {
				return err
			}
		}
		buf := make([]byte, mib)
		for at := int64(0); at < keep; at += mib {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := im.writable(); err != nil {
				return err
			}
			if err := im.commit.alone(func() error {
				im.mirror = m
				if n, err := im.b.ReadAt(buf, int64(bat.Offset)+at); err != nil && err != io.EOF {
					return fmt.Errorf("vdisk: block allocation table at %#x: %w", int64(bat.Offset)+at, err)
				} else {
					clear(buf[n:])
				}
				if _, err := im.b.WriteAt(buf, off+at); err != nil {
					return fmt.Errorf("vdisk: block allocation table at %#x: %w", off+at, err)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return im.commit.do(im.flush)
	}
	if err := copied(); err != nil {
		im.commit.alone(func() error { im.mirror = nil; return nil })
		im.space.giveBack(off, length)
		return err
	}
	im.lockBlocks()
	defer im.unlockBlocks()
	err = im.exclusively(func() error {
		defer func() { im.mirror = nil }()
		if err := im.flush(); err != nil { // the last changes, mirrored
			return err
		}
		if m.err != nil {
			return nil // the BAT stays where it is
		}
		if err := im.j.flush(im.space.fileEnd()); err != nil {
			return err
		}
		rs, writes, err := im.withRegion(regionBAT, off, length)
		if err != nil {
			return err
		}
		if err := im.logged(writes); err != nil {
			return err
		}
		if err := im.leaveBehind(); err != nil {
			return err
		}
		im.meta.forget(int64(bat.Offset), int64(bat.Length))
		im.meta.forget(off, length)
		im.regions, im.batOff = rs, off
		return nil
	})
	if m.err != nil {
		im.space.giveBack(off, length)
		return fmt.Errorf("vdisk: block allocation table at %#x: %w", off, m.err)
	}
	if err == nil {
		im.space.giveBack(int64(bat.Offset), int64(bat.Length))
	}
	return err
}

// withRegion is the list of regions with one of them elsewhere, and what must be logged
// for that: both copies of the region table change in one entry (2.2.3).
func (im *Image) withRegion(id GUID, off, length int64) (rs []region, writes []logWrite, err error) {
	rs = slices.Clone(im.regions)
	for i := range rs {
		if rs[i].ID == id {
			rs[i].Offset, rs[i].Length = uint64(off), uint32(length)
		}
	}
	table, was := encodeRegions(rs), make([]byte, regionTableSize)
	for _, at := range []int64{regionOffset1, regionOffset2} {
		if _, err := im.b.ReadAt(was, at); err != nil {
			return nil, nil, fmt.Errorf("vdisk: region table at %#x: %w", at, err)
		}
		writes = append(writes, changedPages(was, table, at)...)
	}
	return rs, writes, nil
}

// moveMetadata moves the metadata as it is to a place that was allocated for it. In an
// error nothing has moved. reshape is held, so nobody else changes it.
func (im *Image) moveMetadata(off int64) (err error) {
	md, _ := findRegion(im.regions, regionMetadata)
	from, length := int64(md.Offset), int64(md.Length)
	switched := false
	defer func() {
		if !switched {
			im.space.putBack(off, length)
		}
	}()
	buf := make([]byte, mib)
	for at := int64(0); at < length; at += mib {
		n, err := im.b.ReadAt(buf, from+at)
		if err != nil && err != io.EOF {
			return fmt.Errorf("vdisk: metadata at %#x: %w", from+at, err)
		}
		clear(buf[n:])
		if _, err := im.b.WriteAt(buf, off+at); err != nil {
			return fmt.Errorf("vdisk: metadata at %#x: %w", off+at, err)
		}
	}
	rs, writes, err := im.withRegion(regionMetadata, off, length)
	if err != nil {
		return err
	}
	switched = true // or nobody knows
	if err := im.logGroups(true, true, writes); err != nil {
		return err
	}
	im.regions = rs
	im.space.giveBack(from, length)
	return nil
}

// moveLog moves the log to a place that was allocated for it: it is retired, and the
// headers name its new place before a first entry is written there. reshape is held.
func (im *Image) moveLog(off int64) error {
	was := im.j.off
	err := im.exclusively(func() error {
		if err := im.flush(); err != nil {
			return err
		}
		// What the log holds is in place, and the file is as long as the headers
		// will say.
		header := im.headerNow()
		if err := im.j.flush(im.space.fileEnd()); err != nil {
			return err
		}
		im.hdrMu.Lock()
		defer im.hdrMu.Unlock()
		im.flushedSince(header)
		h := im.hdr
		h.LogGUID, h.LogOffset = GUID{}, uint64(off)
		if err := im.writeHeaders(h, false); err != nil {
			return err
		}
		im.j.off, im.j.guid, im.j.named = off, GUID{}, false
		im.j.live, im.j.applied = nil, 0
		return nil
	})
	if err == nil {
		im.space.giveBack(was, im.j.length)
	}
	return err
}

// dropEnd gives the free end of the file back. The log must not speak of a file that
// is longer than it is (FlushedFileOffset, 2.3.1.1), so an entry that says how long
// it becomes is durable first, and the only one that a replay reads.
func (im *Image) dropEnd() error {
	return im.exclusively(func() error {
		s := &im.space
		if err := im.flush(); err != nil {
			return err
		}
		if !s.mayDrop() {
			return nil
		}
		if err := im.startLog(); err != nil {
			return err
		}
		s.mu.Lock() // nothing is allocated there meanwhile
		defer s.mu.Unlock()
		s.fold()
		if err := im.j.flush(s.end); err != nil {
			return err
		}
		im.j.flushed = s.end
		if err := im.j.append(nil, s.end); err != nil {
			return err
		}
		if err := s.b.Truncate(s.end); err != nil {
			return err
		}
		s.size = s.end
		// What is allocated there later is taken to be zero, so that must last.
		return s.b.Flush()
	})
}
