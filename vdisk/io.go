package vdisk

import (
	"fmt"
	"io"
	"math/bits"
)

// check refuses transfers that are not whole sectors inside the disk.
func (im *Image) check(off, n int64) error {
	s := int64(im.p.LogicalSector)
	if im.closed.Load() {
		return ErrClosed
	}
	if off < 0 || n < 0 || (off|n)&(s-1) != 0 {
		return fmt.Errorf("vdisk: %d bytes at %d are not whole sectors of %d bytes", n, off, s)
	}
	if size := im.Size(); n > size || off > size-n {
		return fmt.Errorf("%w: %d bytes at %d of a disk of %d", ErrBeyondEnd, n, off, size)
	}
	return nil
}

// live is asked with the block's lock held: since check the image may have been
// closed, and the disk may have become smaller.
func (im *Image) live(block uint64, in, n int64) error {
	if im.closed.Load() {
		return ErrClosed
	}
	if off := int64(block)*int64(im.p.BlockSize) + in; off+n > im.Size() {
		return im.check(off, n)
	}
	return nil
}

// span cuts the part of n bytes at off that lies in one block.
func (im *Image) span(off, n int64) (block uint64, in, m int64) {
	bs := im.p.BlockSize // a power of two
	in = off & int64(bs-1)
	return uint64(off) >> (bits.TrailingZeros32(bs) & 63), in, min(n, int64(bs)-in)
}

// ReadAt reads whole sectors.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if err := im.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		block, in, m := im.span(off+int64(done), int64(len(p)-done))
		if err := im.readBlock(block, in, p[done:][:m]); err != nil {
			return done, err
		}
		done += int(m)
	}
	return done, nil
}

func (im *Image) readBlock(block uint64, in int64, p []byte) error {
	l := &im.blocks[block%uint64(len(im.blocks))]
	l.RLock()
	defer l.RUnlock()
	if err := im.live(block, in, int64(len(p))); err != nil {
		return err
	}
	e, err := im.entry(block)
	if err != nil {
		return err
	}
	switch e.state() {
	case present:
		return im.readPayload(p, e.offset()+in)
	case partial:
		return im.readPartial(block, e, in, p)
	case notPresent:
		if im.parent != nil {
			return im.parent.readThrough(p, int64(block)*int64(im.p.BlockSize)+in)
		}
	}
	clear(p)
	return nil
}

func (im *Image) readPayload(p []byte, off int64) error {
	n, err := im.b.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return payloadError(off+int64(n), err)
}

func payloadError(at int64, err error) error {
	switch err {
	case nil:
		return nil
	case io.EOF:
		return ErrTruncated.at(at, "a block's data lies beyond the file's end: the file was truncated, restore it from a copy")
	default:
		return fmt.Errorf("vdisk: payload at %#x: %w", at, err)
	}
}

// readThrough serves a child: what lies beyond this disk's end reads as zero.
func (im *Image) readThrough(p []byte, off int64) error {
	if n := im.Size() - off; n < int64(len(p)) {
		n = max(n, 0)
		clear(p[n:])
		if p = p[:n]; n == 0 {
			return nil
		}
	}
	_, err := im.ReadAt(p, off)
	return err
}

func (im *Image) readPartial(block uint64, e batEntry, in int64, p []byte) error {
	base := int64(block) * int64(im.p.BlockSize)
	return im.runs(block, in, int64(len(p)), func(at, n int64, here bool) error {
		q := p[at-in:][:n]
		if here {
			return im.readPayload(q, e.offset()+at)
		}
		return im.parent.readThrough(q, base+at)
	})
}

// bitmapOf is where the sector bitmap of block begins, in the file.
func (im *Image) bitmapOf(block uint64) (int64, error) {
	c := block / im.g.chunkRatio
	at := im.batOff + 8*int64(im.g.bitmapIndex(c))
	w, err := im.meta.word(at)
	if err != nil {
		return 0, err
	}
	e := batEntry(w)
	if e.state() != present {
		return 0, ErrBitmapMissing.at(at, "chunk %d has a partially present block but no sector bitmap", c)
	}
	if e.offset() < headerSectionSize {
		return 0, ErrBitmapPlace.at(at, "the sector bitmap of chunk %d lies at %#x, among the headers", c, e.offset())
	}
	return e.offset() + int64(block%im.g.chunkRatio)*int64(bitmapSize/im.g.chunkRatio), nil
}

// runs calls f for each stretch of [in, in+n) of a partially present block whose
// sectors are all in this file, or all in the parent.
func (im *Image) runs(block uint64, in, n int64, f func(at, n int64, here bool) error) error {
	bm, err := im.bitmapOf(block)
	if err != nil {
		return err
	}
	ss := int64(im.p.LogicalSector)
	s, end := in/ss, (in+n)/ss
	for s < end {
		w, err := im.meta.word(bm + s/64*8)
		if err != nil {
			return err
		}
		here := w>>(s%64)&1 != 0
		if here {
			w = ^w
		}
		start := s
		// the rest of this word that is alike, and then whole words
		for {
			r := int64(bits.TrailingZeros64(w >> (s % 64)))
			s = min(s+r, (s/64+1)*64)
			if s >= end || s%64 != 0 {
				break
			}
			if w, err = im.meta.word(bm + s/64*8); err != nil {
				return err
			}
			if here {
				w = ^w
			}
			if w&1 != 0 {
				break
			}
		}
		s = min(s, end)
		if err := f(start*ss, (s-start)*ss, here); err != nil {
			return err
		}
	}
	return nil
}

// WriteAt writes whole sectors. They are durable after a Flush that begins after
// WriteAt has returned.
func (im *Image) WriteAt(p []byte, off int64) (int, error) {
	if err := im.startWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		block, in, m := im.span(off+int64(done), int64(len(p)-done))
		if err := im.writeBlock(block, in, p[done:][:m]); err != nil {
			return done, err
		}
		if err := im.throttle(); err != nil {
			return done, err
		}
		done += int(m)
	}
	return done, nil
}

func (im *Image) startWrite(off, n int64) error {
	if err := im.check(off, n); err != nil {
		return err
	}
	if err := im.writable(); err != nil {
		return err
	}
	return im.begin(true)
}

func (im *Image) writeBlock(block uint64, in int64, p []byte) error {
	l := &im.blocks[block%uint64(len(im.blocks))]
	l.RLock()
	var e batEntry
	err := im.live(block, in, int64(len(p)))
	if err == nil {
		e, err = im.entry(block)
	}
	if err == nil && e.state() == present {
		err = im.writePayload(p, e.offset()+in)
		l.RUnlock()
		return err
	}
	l.RUnlock()
	if err != nil {
		return err
	}
	l.Lock()
	defer l.Unlock()
	if err := im.live(block, in, int64(len(p))); err != nil {
		return err
	}
	if e, err = im.entry(block); err != nil {
		return err
	}
	switch e.state() {
	case present: // another writer was faster
		return im.writePayload(p, e.offset()+in)
	case partial:
		return im.writePartial(block, e, in, p)
	}
	return im.allocate(block, e, in, p)
}

func (im *Image) writePayload(p []byte, off int64) error {
	if _, err := im.b.WriteAt(p, off); err != nil {
		return fmt.Errorf("vdisk: payload at %#x: %w", off, err)
	}
	if m := im.moving.Load(); m != nil {
		m.wrote(im, p, off)
	}
	return nil
}

// allocate gives a block a place and writes the first bytes to it.
func (im *Image) allocate(block uint64, e batEntry, in int64, p []byte) error {
	bs := int64(im.p.BlockSize)
	whole := in == 0 && int64(len(p)) == bs
	fromParent := im.parent != nil && e.state() == notPresent
	if fromParent && !whole {
		// The rest stays the parent's: the block becomes partially present.
		if err := im.needBitmap(block); err != nil {
			return err
		}
	}
	off, c, err := im.space.alloc(bs)
	if err != nil {
		return err
	}
	undo := func(err error) error { im.space.putBack(off, bs); return err }
	if c == holdsOld && !(fromParent && !whole) {
		if err := im.zeroFile(off, in); err != nil {
			return undo(err)
		}
		if err := im.zeroFile(off+in+int64(len(p)), bs-in-int64(len(p))); err != nil {
			return undo(err)
		}
	}
	if err := im.writePayload(p, off+in); err != nil {
		return undo(err)
	}
	at := im.batOff + 8*int64(im.g.batIndex(block))
	if fromParent && !whole {
		// A bitmap left from an earlier life of this block says nothing now.
		if err := im.fillBitmap(block, 0, bs, false); err != nil {
			return im.fail(err)
		}
		if err := im.fillBitmap(block, in, int64(len(p)), true); err != nil {
			return im.fail(err)
		}
		return im.fail(im.meta.setWord(at, uint64(entry(partial, off)), true))
	}
	// Until the entry is durable the block reads as before, which is zero unless
	// it comes from a parent. A place that holds zeroes may therefore lose the
	// payload in a crash and keep the entry; any other must not.
	barrier := c != holdsZeroes || fromParent || e.state() == undefined
	return im.fail(im.meta.setWord(at, uint64(entry(present, off)), barrier))
}

// writePartial writes to a partially present block. Payload goes first, then the
// bits that say that it is here.
func (im *Image) writePartial(block uint64, e batEntry, in int64, p []byte) error {
	if err := im.writePayload(p, e.offset()+in); err != nil {
		return err
	}
	all := true
	if err := im.runs(block, in, int64(len(p)), func(_, _ int64, here bool) error {
		all = all && here
		return nil
	}); err != nil || all {
		return err
	}
	return im.fail(im.fillBitmap(block, in, int64(len(p)), true))
}

// fillBitmap sets or clears the bits of [in, in+n) of a block.
func (im *Image) fillBitmap(block uint64, in, n int64, on bool) error {
	bm, err := im.bitmapOf(block)
	if err != nil {
		return err
	}
	ss := int64(im.p.LogicalSector)
	for s, end := in/ss, (in+n)/ss; s < end; {
		at := bm + s/64*8
		pageAt := at &^ (logSector - 1)
		if err := im.meta.change(at, on, func(p *page) {
			for ; s < end; s = min(end, (s/64+1)*64) {
				at := bm + s/64*8
				if at&^(logSector-1) != pageAt {
					return
				}
				m := min(end-s, 64-s%64)
				mask := ^uint64(0) >> (64 - m) << (s % 64)
				w := &p.words[at%logSector/8]
				if on {
					w.Store(w.Load() | mask)
				} else {
					w.Store(w.Load() &^ mask)
				}
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// needBitmap makes sure that the chunk of a block has a sector bitmap.
func (im *Image) needBitmap(block uint64) error {
	c := block / im.g.chunkRatio
	at := im.batOff + 8*int64(im.g.bitmapIndex(c))
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	w, err := im.meta.word(at)
	if err != nil {
		return err
	}
	switch batEntry(w).state() {
	case present:
		return nil
	case notPresent:
	default:
		return ErrBitmapState.at(at, "the sector bitmap of chunk %d is in state %v", c, batEntry(w).state())
	}
	off, kind, err := im.space.alloc(bitmapSize)
	if err != nil {
		return err
	}
	if kind == holdsOld {
		if err := im.zeroFile(off, bitmapSize); err != nil {
			im.space.putBack(off, bitmapSize)
			return err
		}
	}
	im.meta.forget(off, bitmapSize)
	return im.fail(im.meta.setWord(at, uint64(entry(present, off)), kind != holdsZeroes))
}

var zeroes [256 * kib]byte

// zeroFile makes a range of the file zero, by a hole where the backing has them.
func (im *Image) zeroFile(off, n int64) error {
	return zeroIn(im.b, off, n, !im.p.LeaveAllocated)
}

func zeroIn(b Backing, off, n int64, holes bool) error {
	if lo, hi := roundUp(off, 64*kib), (off+n)&^(64*kib-1); hi > lo && n > int64(len(zeroes)) && holes {
		if zero, err := b.Trim(lo, hi-lo); err == nil && zero {
			if err := zeroIn(b, off, lo-off, false); err != nil {
				return err
			}
			off, n = hi, off+n-hi
		}
	}
	for n > 0 {
		m := min(n, int64(len(zeroes)))
		if _, err := b.WriteAt(zeroes[:m], off); err != nil {
			return fmt.Errorf("vdisk: zeroing %#x: %w", off, err)
		}
		off, n = off+m, n-m
	}
	return nil
}
