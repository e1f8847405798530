package vdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrHoldsData is in the error of a Resize that would cut data off.
var ErrHoldsData = errors.New("the disk holds data behind the new end")

// Resize makes the virtual disk this many bytes long, whole logical sectors, while
// requests go on. What is gained reads as zero. A disk is made smaller only if all
// that lies behind the new end reads as zero (ErrHoldsData otherwise); requests that
// reach there get ErrBeyondEnd. Of a differencing image what the parent holds there
// counts too, and does not come back when the image grows again. After a crash the disk
// has the old size or the new one; after an error, or when ctx has ended, the old one,
// but for errors of giving space back, which come last.
//
// The disk's contents change as far as others can tell: children of this image do not
// open any more.
func (im *Image) Resize(ctx context.Context, size int64) error {
	return im.resize(ctx, size, false)
}

// ResizeAndDiscard is Resize, but drops what lies behind the new end, data or not.
func (im *Image) ResizeAndDiscard(ctx context.Context, size int64) error {
	return im.resize(ctx, size, true)
}

func (im *Image) resize(ctx context.Context, size int64, discard bool) error {
	im.reshape.Lock()
	defer im.reshape.Unlock()
	if err := im.writable(); err != nil {
		return err
	}
	p := im.p
	p.DiskSize = uint64(max(size, 0))
	if err := p.check(); err != nil {
		return fmt.Errorf("vdisk: resize: %w", err)
	}
	switch {
	case p.DiskSize > im.p.DiskSize:
		return im.grow(ctx, &p)
	case p.DiskSize < im.p.DiskSize:
		return im.shrink(ctx, &p, discard)
	}
	return nil
}

// batRoom is how long the BAT's region of an image is made: there is room for a
// disk of twice the size, so that growing seldom moves it. A fixed image gets what
// it needs: whoever lets it grow moves far more than its BAT.
func batRoom(p *params) int64 {
	q := *p
	if !q.LeaveAllocated {
		q.DiskSize = min(2*q.DiskSize, maxDisk)
	}
	return roundUp(8*int64(q.geometry().entries), mib)
}

func (im *Image) lockBlocks() {
	for i := range im.blocks {
		im.blocks[i].Lock()
	}
}

func (im *Image) unlockBlocks() {
	for i := range im.blocks {
		im.blocks[i].Unlock()
	}
}

// A region of the BAT that is long enough comes first, then the entries, which
// nobody looks at yet, then, in a log entry of its own, the size.
func (im *Image) grow(ctx context.Context, p *params) error {
	if err := im.begin(true); err != nil {
		return err
	}
	g := p.geometry()
	if bat, _ := findRegion(im.regions, regionBAT); 8*g.entries > uint64(bat.Length) {
		length := batRoom(p)
		off, c, err := im.space.alloc(length)
		if errors.Is(err, ErrNoSpace) {
			length = roundUp(8*int64(g.entries), mib)
			off, c, err = im.space.alloc(length)
		}
		if err != nil {
			return err
		}
		if err := im.moveBAT(ctx, off, length, c); err != nil {
			return err
		}
	}
	if err := im.zeroTail(); err != nil {
		return err
	}
	taken, err := im.newEntries(ctx, p, &g)
	if err == nil {
		err = im.Flush() // most of the work, while requests go on
	}
	if err != nil {
		if im.failed.Load() == nil {
			err = errors.Join(err, im.clearEntries(im.g.batIndex(im.g.blocks-1)+1, g.entries, nil))
		}
		for _, r := range taken {
			im.space.giveBack(r.off, r.n)
		}
		if im.failed.Load() == nil {
			err = errors.Join(err, im.commit.do(im.flush))
		}
		return err
	}
	return im.switchSize(p, &g)
}

// zeroTail makes what lies behind the disk's end in its last block zero, or the
// parent's bytes there unseen: other tools, and a disk that was larger once, may
// have left anything.
func (im *Image) zeroTail() error {
	bs, size := int64(im.p.BlockSize), int64(im.p.DiskSize)
	block, in := uint64(size/bs), size%bs
	if in == 0 {
		return nil
	}
	l := &im.blocks[block%uint64(len(im.blocks))]
	l.Lock()
	defer l.Unlock()
	e, err := im.entry(block)
	switch {
	case err != nil:
		return err
	case e.state() == present:
		// Some tools end the file where the disk ends.
		if err := im.space.reach(e.offset() + bs); err != nil {
			return err
		}
		return im.zeroPayload(e.offset()+in, bs-in)
	case e.state() == partial, e.state() == notPresent && im.parent != nil && im.parent.Size() > size:
		return im.zeroSectors(block, e, in, bs-in)
	}
	return nil
}

// newEntries writes the BAT's entries behind the disk's last block, through the log
// and before the disk reaches there: zero, but for what a parent holds there, which
// is not to be seen, and for the blocks of a fixed image, which get their places,
// all zeroes. Taken are these places.
func (im *Image) newEntries(ctx context.Context, p *params, g *geometry) (taken []freeRegion, err error) {
	bs := int64(p.BlockSize)
	for i := im.g.batIndex(im.g.blocks-1) + 1; i < g.entries; i++ {
		n := i - i/(g.chunkRatio+1)
		want, barrier := uint64(0), false
		switch bitmap := (i+1)%(g.chunkRatio+1) == 0; {
		case bitmap && i < im.g.entries:
			continue // of the last chunk that there is
		case bitmap, n >= g.blocks:
		case p.LeaveAllocated && !p.HasParent:
			off, c, err := im.space.alloc(bs)
			if err != nil {
				return taken, err
			}
			if k := len(taken); k > 0 && taken[k-1].off+taken[k-1].n == off {
				taken[k-1].n += bs
			} else {
				taken = append(taken, freeRegion{off: off, n: bs})
			}
			if c == holdsOld {
				if err := im.zeroFile(off, bs); err != nil {
					return taken, err
				}
			}
			want, barrier = uint64(entry(present, off)), c != holdsZeroes
		case im.parent != nil && int64(n)*bs < im.parent.Size():
			want = uint64(entry(zeroed, 0))
		}
		if err := im.setEntry(i, want, barrier); err != nil {
			return taken, err
		}
		if i%(logSector/8) == 0 {
			if err := errors.Join(ctx.Err(), im.throttle()); err != nil {
				return taken, err
			}
		}
	}
	return taken, nil
}

// setEntry changes a BAT entry that may be as wanted already.
func (im *Image) setEntry(i, want uint64, barrier bool) error {
	at := im.batOff + 8*int64(i)
	w, err := im.meta.word(at)
	if err != nil || w == want {
		return err
	}
	return im.fail(im.meta.setWord(at, want, barrier))
}

// clearEntries makes BAT entries that no block of the disk has zero. held, if it is
// not nil, gets the places that they speak of.
func (im *Image) clearEntries(from, to uint64, held func(off int64, bitmap bool)) error {
	for i := from; i < to; i++ {
		bitmap := im.isBitmap(i)
		if bitmap && i < im.g.entries {
			continue
		}
		at := im.batOff + 8*int64(i)
		w, err := im.meta.word(at)
		if err != nil {
			return err
		}
		if w == 0 {
			continue
		}
		if err := im.fail(im.meta.setWord(at, 0, false)); err != nil {
			return err
		}
		if e := batEntry(w); held != nil && (e.state() == present || e.state() == partial) {
			held(e.offset(), bitmap)
		}
		if err := im.throttle(); err != nil {
			return err
		}
	}
	return nil
}

// The size comes first, then what it makes unreachable is given back.
func (im *Image) shrink(ctx context.Context, p *params, discard bool) error {
	size := int64(p.DiskSize)
	if !discard {
		if err := im.dataBehind(ctx, size); err != nil {
			return err
		}
	}
	if err := im.begin(true); err != nil {
		return err
	}
	// From here on requests that reach beyond the new end are refused, and those
	// that were on their way have ended. So nothing can be written there after
	// it was looked at.
	im.lockBlocks()
	im.diskSz.Store(uint64(size))
	im.unlockBlocks()
	var err error
	if !discard {
		err = im.dataBehind(ctx, size)
	}
	if err == nil {
		err = im.commit.do(im.flush)
	}
	g, old := p.geometry(), im.g.entries
	if err == nil {
		err = im.switchSize(p, &g)
	}
	if err != nil {
		im.diskSz.Store(im.p.DiskSize)
		return err
	}
	var bitmaps []int64
	err = im.clearEntries(g.entries, old, func(off int64, bitmap bool) {
		if bitmap {
			bitmaps = append(bitmaps, off)
		} else {
			im.space.giveBack(off, int64(p.BlockSize))
		}
	})
	if err == nil {
		err = im.clearBitsBehind(size)
	}
	if err == nil {
		err = im.commit.do(im.flush)
	}
	if err == nil && len(bitmaps) > 0 {
		err = im.exclusively(func() error {
			if err := im.flush(); err != nil {
				return err
			}
			return im.leaveBehind() // no replay may write there
		})
		for _, off := range bitmaps {
			if err == nil {
				im.meta.forget(off, bitmapSize)
				im.space.giveBack(off, bitmapSize)
			}
		}
	}
	if err == nil {
		err = im.dropEnd()
	}
	if err != nil {
		return fmt.Errorf("vdisk: the disk has its new size, but what it gave up was not all given back: %w", err)
	}
	return nil
}

// clearBitsBehind clears the bits that the last chunk's sector bitmap, if there is one,
// has for what lies behind the disk's end.
func (im *Image) clearBitsBehind(size int64) error {
	if !im.p.HasParent {
		return nil
	}
	bs, last := int64(im.p.BlockSize), im.g.blocks-1
	w, err := im.meta.word(im.batOff + 8*int64(im.g.bitmapIndex(last/im.g.chunkRatio)))
	if err != nil || batEntry(w).state() != present {
		return err
	}
	for n := last; n < (last/im.g.chunkRatio+1)*im.g.chunkRatio; n++ {
		from := max(0, size-int64(n)*bs)
		if from == bs {
			continue
		}
		if err := im.fail(im.fillBitmap(n, from, bs-from, false)); err != nil {
			return err
		}
		if err := im.throttle(); err != nil {
			return err
		}
	}
	return nil
}

// dataBehind looks for anything but zeroes at and behind off.
func (im *Image) dataBehind(ctx context.Context, off int64) error {
	bs := int64(im.p.BlockSize)
	buf := make([]byte, mib)
	for off < int64(im.p.DiskSize) {
		if err := ctx.Err(); err != nil {
			return err
		}
		block, in := uint64(off/bs), off%bs
		end := min(bs, int64(im.p.DiskSize)-int64(block)*bs)
		at, err := im.dataIn(block, in, end, buf)
		if err != nil {
			return err
		}
		if at >= 0 {
			return fmt.Errorf("%w: at %d of %d bytes; free it in the guest and trim it, or say that it may be lost", ErrHoldsData, int64(block)*bs+at, im.p.DiskSize)
		}
		off = int64(block)*bs + bs
	}
	return nil
}

// dataIn looks for anything but zeroes in [in, end) of a block, or of what the parent
// shows there; at is -1 if there is nothing.
func (im *Image) dataIn(block uint64, in, end int64, buf []byte) (at int64, err error) {
	for in < end {
		n, err := im.peek(block, in, buf[:min(int64(len(buf)), end-in)])
		if err != nil {
			return 0, err
		}
		for i := range n {
			if buf[i] != 0 {
				return in + int64(i), nil
			}
		}
		if n == 0 {
			break
		}
		in += int64(n)
	}
	return -1, nil
}

// peek reads a part of a block, wherever the disk ends; n is zero if nothing is stored
// for it and what follows in the block, here or below.
func (im *Image) peek(block uint64, in int64, p []byte) (n int, err error) {
	l := &im.blocks[block%uint64(len(im.blocks))]
	l.RLock()
	defer l.RUnlock()
	e, err := im.entry(block)
	if err != nil {
		return 0, err
	}
	if im.closed.Load() {
		return 0, ErrClosed
	}
	switch {
	case e.state() == partial:
		return len(p), im.readPartial(block, e, in, p)
	case e.state() == notPresent && im.parent != nil:
		bs := int64(im.p.BlockSize)
		off, end := int64(block)*bs+in, min(int64(block+1)*bs, im.parent.Size())
		if off >= end {
			return 0, nil
		}
		if at, err := im.parent.dataBefore(off, end); err != nil || at == end {
			return 0, err
		}
		return len(p), im.parent.readThrough(p, off)
	case e.state() != present:
		return 0, nil
	}
	if n, err = im.b.ReadAt(p, e.offset()+in); err == io.EOF {
		clear(p[n:]) // the file ends where the disk does
		err = nil
	}
	return len(p), err
}

// switchSize changes the disk's size, at one instant for the file and for requests.
func (im *Image) switchSize(p *params, g *geometry) error {
	im.lockBlocks()
	defer im.unlockBlocks()
	return im.exclusively(func() error {
		if err := im.flush(); err != nil {
			return err
		}
		md, _ := findRegion(im.regions, regionMetadata)
		ps := patches{r: im.b}
		items := slices.Clone(im.items)
		for i := range items {
			if it := &items[i]; it.ID == itemDiskSize && !it.User {
				it.Data = le.AppendUint64(nil, p.DiskSize)
				if err := ps.put(it.Data, int64(md.Offset)+int64(it.Offset)); err != nil {
					return err
				}
			}
		}
		if err := im.logged(ps.writes); err != nil {
			return err
		}
		im.setItems(items)
		im.p.DiskSize, im.g = p.DiskSize, *g
		im.diskSz.Store(p.DiskSize)
		return nil
	})
}
