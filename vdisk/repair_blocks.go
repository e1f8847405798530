package vdisk

import (
	"context"
	"fmt"
	"io"
)

// claim makes a map of the file with what lies there beside blocks, and finds out
// where there is room for copies.
func (r *repairer) claim() error {
	im := r.im
	all := &usage{}
	regions := func(u *usage) {
		u.take(0, headerSectionSize)
		for _, g := range im.regions {
			if int64(g.Offset)+int64(g.Length) <= roundUp(r.size, mib) {
				u.take(int64(g.Offset), int64(g.Length))
			}
		}
	}
	regions(all)
	bat, _ := findRegion(im.regions, regionBAT)
	if r.size > maxInUse {
		return ErrAbsurdSize.at(0, "the file is %d bytes long, more than any image needs", r.size)
	}
	log, logLen, inLog, inBAT := int64(im.hdr.LogOffset), int64(im.hdr.LogLength), int64(0), int64(0)
	lost := !im.hdr.logWithin(r.size)
	inRegion := int64(0) // where the region table says so
	err := im.eachEntry(func(index uint64, e batEntry) error {
		off := e.offset()
		if e.state() <= unmapped || off < headerSectionSize || off >= r.size {
			return nil
		}
		n := int64(im.p.BlockSize)
		if im.isBitmap(index) {
			n = bitmapSize
		}
		if index < im.g.entries && off < log+logLen && log < off+n {
			inLog = im.batOff + 8*int64(index)
		}
		if index < im.g.entries && off < int64(bat.Offset)+int64(bat.Length) && int64(bat.Offset) < off+n {
			inBAT = im.batOff + 8*int64(index)
		}
		all.take(off, n)
		return nil
	})
	if !lost {
		for i, g := range im.regions {
			if int64(g.Offset) < log+logLen && log < int64(g.Offset)+int64(g.Length) {
				inRegion = regionOffset1 + 16 + 32*int64(i) + 16
			}
		}
		all.take(log, logLen)
	}
	s := &im.space
	s.end = roundUp(r.size, mib)
	if s.limit != 0 { // it can not grow: what nothing names is free
		s.end = min(roundUp(all.end, mib), s.limit&^(mib-1))
		all.free(s.end, func(off, n int64) { s.insert(freeRegion{off, n, holdsOld}) })
	}
	switch {
	case err != nil:
	case logLen == 0:
		err = r.moveLog(ErrNoLog, im.headerAt()+68, mib, "the file had no log")
	case lost:
		err = r.moveLog(ErrLogPlace, im.headerAt()+72, mib, "the log lay beyond the file's end")
	case inRegion != 0:
		err = r.moveLog(ErrOverlap, inRegion, logLen, "a region lay in the log")
	case inLog != 0:
		err = r.moveLog(ErrOverlap, inLog, logLen, "a block lay in the log")
	}
	if err == nil && inBAT != 0 {
		err = r.moveBAT(inBAT)
	}
	r.used = &usage{}
	regions(r.used)
	r.used.take(int64(im.hdr.LogOffset), int64(im.hdr.LogLength))
	return err
}

// moveBAT leaves the BAT's place to the block that lies in it: with the first page of
// entries that is written there the block would change, and a power cut before the
// entry that leads to its copy leave it changed.
func (r *repairer) moveBAT(at int64) error {
	im := r.im
	bat, _ := findRegion(im.regions, regionBAT)
	to, c, err := im.space.alloc(int64(bat.Length))
	if err != nil {
		return err
	}
	r.did(ErrOverlap, at, false, "a block lay in the block allocation table (%#x+%#x); the table was moved to %#x", bat.Offset, bat.Length, to)
	if err := im.begin(false); err != nil {
		return err
	}
	if err := im.moveBAT(context.Background(), to, int64(bat.Length), c); err != nil {
		return err
	}
	im.space.takeGiven() // the old place is the block's
	return nil
}

// moveLog gives the image another log, of n bytes. What lies in the old one's place
// would change with the first entry that a log there takes. Nothing in the old one is
// needed: it was replayed, or dropped.
func (r *repairer) moveLog(f Flaw, at, n int64, why string) error {
	im := r.im
	if err := im.begin(false); err != nil {
		return err
	}
	h := im.hdr
	to, _, err := im.space.alloc(n)
	if err != nil {
		return err
	}
	r.did(f, at, false, "%s (%#x+%#x); it is at %#x+%#x now", why, h.LogOffset, h.LogLength, to, n)
	if err := r.b.Flush(); err != nil { // the file is as long as the header will say
		return err
	}
	h.LogOffset, h.LogLength = uint64(to), uint32(n)
	im.j.off, im.j.length = to, n
	return im.writeHeaders(h, false)
}

// set changes an entry in memory; all entries go to the log together, behind the
// copies they refer to.
func (r *repairer) set(index uint64, e batEntry) error {
	return r.im.meta.setWord(r.im.batOff+8*int64(index), uint64(e), true)
}

// entries settles the BAT. First come, first served: who finds a place taken gets a
// copy of what is there.
func (r *repairer) entries() error {
	return r.im.eachEntry(func(index uint64, e batEntry) error {
		im := r.im
		at := im.batOff + 8*int64(index)
		chunk := index / (im.g.chunkRatio + 1)
		bitmap := (index+1)%(im.g.chunkRatio+1) == 0
		if index >= im.g.entries || !bitmap && index-chunk >= im.g.blocks {
			r.did(flawEntryBeyond, at, false, "entry %d was %#x, behind the disk's last block; it was cleared", index, uint64(e))
			return r.set(index, 0)
		}
		what := im.what(index)
		if e.reserved() != 0 {
			r.did(flawReserved, at, false, "reserved bits of %s's entry were set (%#x); they were cleared", what, uint64(e))
			e &^= 0x1ffff << 3
			if err := r.set(index, e); err != nil {
				return err
			}
		}
		if bitmap {
			return r.bitmapEntry(index, chunk, e)
		}
		return r.blockEntry(index, index-chunk, e)
	})
}

// inside tells whether a place lies in the file; cut, that only its start does.
func (r *repairer) inside(off, need int64) (ok, cut bool) {
	ok = off >= headerSectionSize && off < r.size
	return ok, ok && off+need > r.size
}

func (r *repairer) bitmapEntry(index, chunk uint64, e batEntry) error {
	at := r.im.batOff + 8*int64(index)
	ok, cut := r.inside(e.offset(), bitmapSize)
	switch {
	case !r.im.p.HasParent:
		if e == 0 {
			return nil
		}
		r.did(ErrBitmapState, at, false, "chunk %d had a sector bitmap in an image without a parent; its entry was cleared", chunk)
		return r.set(index, 0)
	case e.state() == notPresent:
		return nil
	case !ok || cut:
		r.lost[chunk] = at
		r.did(ErrBitmapPlace, at, true, "the sector bitmap of chunk %d was said to lie at %#x, where none can be", chunk, e.offset())
		return r.set(index, 0)
	case e.state() != present:
		r.did(ErrBitmapState, at, false, "the sector bitmap of chunk %d was in state %v; it is there, and was made to count", chunk, e.state())
		e = entry(present, e.offset())
		if err := r.set(index, e); err != nil {
			return err
		}
	}
	if _, ok := r.used.take(e.offset(), bitmapSize); ok {
		return nil
	}
	return r.move(index, e, bitmapSize)
}

func (r *repairer) blockEntry(index, block uint64, e batEntry) error {
	im := r.im
	at := im.batOff + 8*int64(index)
	bs := int64(im.p.BlockSize)
	s := e.state()
	if s <= unmapped {
		return nil
	}
	need := min(bs, int64(im.p.DiskSize)-int64(block)*bs)
	ok, cut := r.inside(e.offset(), need)
	if !ok && s != present && s != partial {
		r.did(ErrBlockState, at, true, "block %d was in state %v, which means nothing; it reads as never written now", block, s)
		return r.set(index, entry(notPresent, 0))
	}
	if !ok {
		flaw := ErrBlockBeyondEnd
		if e.offset() >= 0 && e.offset() < headerSectionSize {
			flaw = ErrBlockPlace
		}
		r.did(flaw, at, true, "block %d was said to lie at %#x, where no block can be; it reads as never written now", block, e.offset())
		return r.set(index, entry(notPresent, 0))
	}
	clash, free := r.used.take(e.offset(), bs)
	if s != present && (s != partial || !im.p.HasParent) {
		// The bytes may still be this block's, if they are nobody else's.
		if !free || im.p.HasParent {
			r.did(ErrBlockState, at, true, "block %d was in state %v, which means nothing here; it reads as never written now", block, s)
			return r.set(index, entry(notPresent, 0))
		}
		r.did(ErrBlockState, at, true, "block %d was in state %v, which means nothing here; what lies in its place was taken for its data", block, s)
		e = entry(present, e.offset())
		if err := r.set(index, e); err != nil {
			return err
		}
	}
	if !free {
		r.did(ErrOverlap, at, false, "block %d (%#x+%#x) shared %#x with something else; it got a copy of its own", block, e.offset(), bs, clash)
		return r.move(index, e, bs)
	}
	if !cut {
		return nil
	}
	end := roundUp(e.offset()+need, mib)
	r.did(ErrBlockCut, at, true, "the file ended within block %d; what was missing of it (%d bytes) reads as zero now", block, e.offset()+need-r.size)
	if im.space.limit != 0 {
		return r.move(index, e, bs)
	}
	im.space.mu.Lock()
	defer im.space.mu.Unlock()
	im.space.end = max(im.space.end, e.offset()+bs)
	if end <= im.space.size {
		return nil
	}
	im.space.size = end
	if err := im.begin(false); err != nil {
		return err
	}
	return r.b.Truncate(end)
}

// move gives an entry its own copy of n bytes. A rehearsal copies only bitmaps, which
// it will look into.
func (r *repairer) move(index uint64, e batEntry, n int64) error {
	im := r.im
	if err := im.begin(false); err != nil {
		return err
	}
	to, _, err := im.space.alloc(n)
	if err != nil {
		return err
	}
	if n == bitmapSize || !r.dry {
		if err := r.copy(to, e.offset(), n); err != nil {
			return err
		}
	}
	r.used.take(to, n)
	if (index+1)%(im.g.chunkRatio+1) == 0 {
		r.did(ErrOverlap, im.batOff+8*int64(index), false, "%s (%#x) shared its place; it got a copy of its own", im.what(index), e.offset())
		im.meta.forget(to, n)
	}
	return r.set(index, entry(e.state(), to))
}

func (r *repairer) copy(to, from, n int64) error {
	buf := make([]byte, mib)
	for done := int64(0); done < n; done += mib {
		b := buf[:min(mib, n-done)]
		// Bytes that the repair itself has put behind the file's end are no data.
		m, err := r.b.ReadAt(b[:max(0, min(int64(len(b)), r.size-from-done))], from+done)
		if err != nil && err != io.EOF {
			return fmt.Errorf("vdisk: payload at %#x: %w", from+done, err)
		}
		clear(b[m:])
		if _, err := r.b.WriteAt(b, to+done); err != nil {
			return fmt.Errorf("vdisk: payload at %#x: %w", to+done, err)
		}
	}
	return nil
}
