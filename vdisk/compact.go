package vdisk

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// A Compaction is what Compact has done so far.
type Compaction struct {
	Scanned int64 `json:"scanned"` // bytes of the disk that were looked through for blocks without data
	Disk    int64 `json:"disk"`    // of so many
	Moved   int64 `json:"moved"`   // bytes moved towards the file's start
	ToMove  int64 `json:"to_move"` // bytes that lie where the file could end, or behind, when last counted
	Freed   int64 `json:"freed"`   // bytes of blocks that held nothing and lost their place
	Before  int64 `json:"before"`  // length of the file; of a partition, what is in use of it
	After   int64 `json:"after"`
}

// Compact makes the file as short as it can, while requests go on: blocks that hold
// only zeroes lose their place, what lies at the file's end moves into free space before
// it, the end is cut off, and what is free in between is trimmed. Progress, if it
// is not nil, is called now and then, by this goroutine. When ctx ends, Compact ends
// between two moves: the image is whole, and what was gained stays.
func (im *Image) Compact(ctx context.Context, progress func(Compaction)) (c Compaction, err error) {
	if progress == nil {
		progress = func(Compaction) {}
	}
	c.Before, c.Disk = im.space.inUse(), im.Size()
	defer func() { c.After = im.space.inUse() }()
	if err := im.step(func() error { return im.begin(false) }); err != nil {
		return c, err
	}
	buf := make([]byte, mib)
	for n := uint64(0); ; n++ {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		freed, there, err := im.dropEmpty(n, buf)
		if err != nil {
			return c, err
		}
		if !there {
			break
		}
		if freed {
			c.Freed += int64(im.p.BlockSize)
		}
		c.Disk = im.Size()
		c.Scanned = min(c.Disk, c.Scanned+int64(im.p.BlockSize))
		progress(c)
	}
	for {
		// The table in the file is what is scanned, and what was freed is to be
		// free.
		if err := im.step(im.commitAll); err != nil {
			return c, err
		}
		todo, bytes, err := im.highest()
		if err != nil {
			return c, err
		}
		c.ToMove = c.Moved + bytes
		moved, err := im.moveDown(ctx, todo, buf, &c, progress)
		if err != nil {
			return c, err
		}
		if !moved {
			break
		}
	}
	if err := im.trimFree(); err != nil {
		return c, err
	}
	c.After = im.space.inUse()
	progress(c)
	return c, nil
}

// step does a part of the work that must not meet a resize, or Close.
func (im *Image) step(f func() error) error {
	im.reshape.Lock()
	defer im.reshape.Unlock()
	if err := im.writable(); err != nil {
		return err
	}
	return f()
}

func (im *Image) commitAll() error { return im.commit.do(im.flush) }

// dropEmpty takes block n's place away if it holds nothing.
func (im *Image) dropEmpty(n uint64, buf []byte) (freed, there bool, err error) {
	e, there, err := im.lookup(n)
	if err != nil || !there || im.p.LeaveAllocated || e.state() != present && e.state() != partial {
		return false, there, err
	}
	if e.state() == present {
		// Most blocks show data at their beginning.
		if m, err := im.peek(n, 0, buf[:64*kib]); err != nil || !allZero(buf[:m]) {
			return false, true, err
		}
	}
	err = im.step(func() error {
		if n >= im.g.blocks {
			return nil
		}
		if e.state() == partial {
			freed, err = im.dropPartial(n)
		} else {
			freed, err = im.dropZeroes(n, buf)
		}
		if err != nil {
			return err
		}
		return im.throttle()
	})
	return freed, true, err
}

// dropPartial does so with a block that has no sector of its own.
func (im *Image) dropPartial(n uint64) (freed bool, err error) {
	bs := int64(im.p.BlockSize)
	l := &im.blocks[n%uint64(len(im.blocks))]
	l.Lock()
	defer l.Unlock()
	e, err := im.entry(n)
	if err != nil || e.state() != partial {
		return false, err
	}
	any := false
	if err := im.runs(n, 0, bs, func(_, _ int64, here bool) error {
		any = any || here
		return nil
	}); err != nil || any {
		return false, err
	}
	if err := im.fail(im.meta.setWord(im.batOff+8*int64(im.g.batIndex(n)), 0, false)); err != nil {
		return false, err
	}
	im.space.giveBack(e.offset(), bs)
	return true, nil
}

// dropZeroes does so with a fully present block that is all zeroes. It is read while
// requests go on, and kept if one of them writes to it.
func (im *Image) dropZeroes(n uint64, buf []byte) (freed bool, err error) {
	bs := int64(im.p.BlockSize)
	l := &im.blocks[n%uint64(len(im.blocks))]
	l.Lock()
	e, err := im.entry(n)
	if err != nil || e.state() != present {
		l.Unlock()
		return false, err
	}
	watch := &blockMove{from: e.offset(), n: bs}
	im.moving.Store(watch)
	l.Unlock()
	at, err := im.dataIn(n, 0, min(bs, int64(im.p.DiskSize)-int64(n)*bs), buf)
	l.Lock()
	defer l.Unlock()
	im.moving.Store(nil)
	if err != nil || at >= 0 || watch.touched.Load() {
		return false, err
	}
	if now, err := im.entry(n); err != nil || now != e {
		return false, err
	}
	if err := im.fail(im.meta.setWord(im.batOff+8*int64(im.g.batIndex(n)), uint64(entry(zeroed, 0)), false)); err != nil {
		return false, err
	}
	c := holdsZeroes
	if int64(n+1)*bs > int64(im.p.DiskSize) {
		c = holdsOld // nobody looked behind the disk's end
	}
	im.space.giveBackAs(e.offset(), bs, c)
	return true, nil
}

// A tenant is something that has a place in the file and can have another.
type tenant struct {
	off, n int64
	index  uint64 // of its BAT entry, or one of these
}

const (
	tenantBAT = ^uint64(0) - iota
	tenantMetadata
	tenantLog
)

// maxTenants bounds what one pass of a compaction holds in memory: a megabyte or two.
const maxTenants = 32768

// highest finds what lies nearest to the file's end, so much of it as one pass
// moves, from the end downwards; bytes is how much lies behind where the file could
// end.
func (im *Image) highest() (ts []tenant, bytes int64, err error) {
	err = im.step(func() error {
		floor := im.space.packed()
		fixed := []tenant{{im.j.off, im.j.length, tenantLog}}
		for _, r := range im.regions {
			t := tenant{int64(r.Offset), int64(r.Length), tenantBAT}
			switch r.ID {
			case regionMetadata:
				t.index = tenantMetadata
			case regionBAT:
			default: // somebody else's: it stays where it is
				floor = max(floor, t.off+t.n)
				continue
			}
			fixed = append(fixed, t)
		}
		for _, t := range fixed {
			if t.off+t.n > floor {
				ts = append(ts, t)
				bytes += t.n
			}
		}
		down := func(a, b tenant) int {
			if a.off > b.off {
				return -1
			}
			return 1
		}
		least := floor
		total := 8 * int64(im.g.entries)
		buf := make([]byte, min(mib, total))
		for at := int64(0); at < total; at += mib {
			b := buf[:min(mib, total-at)]
			if n, err := im.b.ReadAt(b, im.batOff+at); n < len(b) {
				return fmt.Errorf("vdisk: block allocation table at %#x: %w", im.batOff+at, err)
			}
			for i := 0; i < len(b); i += 8 {
				e := batEntry(le.Uint64(b[i:]))
				if e.state() != present && e.state() != partial {
					continue
				}
				t := tenant{e.offset(), int64(im.p.BlockSize), uint64(at+int64(i)) / 8}
				if im.isBitmap(t.index) {
					t.n = bitmapSize
				}
				if t.off+t.n <= floor {
					continue
				}
				bytes += t.n
				if t.off+t.n <= least {
					continue
				}
				if ts = append(ts, t); len(ts) == 2*maxTenants {
					slices.SortFunc(ts, down)
					ts = ts[:maxTenants]
					least = ts[maxTenants-1].off
				}
			}
		}
		slices.SortFunc(ts, down)
		ts = ts[:min(len(ts), maxTenants)]
		return nil
	})
	return ts, bytes, err
}

func (im *Image) isBitmap(index uint64) bool { return (index+1)%(im.g.chunkRatio+1) == 0 }

// moveBatch is how much is moved before a commit makes the old places free.
const moveBatch = 64 * mib

// moveDown moves what it can, from the file's end downwards.
func (im *Image) moveDown(ctx context.Context, ts []tenant, buf []byte, c *Compaction, progress func(Compaction)) (moved bool, err error) {
	batch, stuck := int64(0), int64(maxFileEnd)
	for _, t := range ts {
		if t.n >= stuck {
			continue // there is even less before it
		}
		if err := ctx.Err(); err != nil {
			return moved, err
		}
		var done int64
		room := true
		err := im.step(func() (err error) {
			switch {
			case t.index == tenantBAT:
				done, room, err = im.lowerBAT(ctx, t)
			case t.index == tenantMetadata:
				done, room, err = im.lower(t, im.moveMetadata)
			case t.index == tenantLog:
				done, room, err = im.lower(t, im.moveLog)
			case t.index >= im.g.entries: // the disk is smaller now
			case im.isBitmap(t.index):
				done, room, err = im.lowerBitmap(t)
			default:
				done, room, err = im.lowerBlock(t, buf)
			}
			if err != nil {
				return err
			}
			if batch += done; batch < moveBatch {
				return im.throttle()
			}
			batch = 0
			return im.commitAll()
		})
		if err != nil {
			return moved, err
		}
		if !room {
			stuck = t.n
			continue
		}
		if done > 0 {
			moved = true
			c.Moved += done
			progress(*c)
		}
	}
	return moved, nil
}

// lowerBlock copies a payload block piece by piece, each with the block's lock held,
// and relinks it with the last. The old place holds what a crash finds until the
// entry that says otherwise is durable, and the copy is flushed before that entry.
func (im *Image) lowerBlock(t tenant, buf []byte) (done int64, room bool, err error) {
	n, bs := t.index-t.index/(im.g.chunkRatio+1), t.n
	l := &im.blocks[n%uint64(len(im.blocks))]
	l.Lock()
	defer l.Unlock()
	e, err := im.entry(n)
	if err != nil || e.state() != present && e.state() != partial || e.offset() != t.off {
		return 0, true, err // it has moved, or is gone
	}
	to, c, ok, err := im.space.allocBelow(bs, t.off)
	if err != nil || !ok {
		return 0, ok, err
	}
	m := &blockMove{from: t.off, to: to, n: bs}
	im.moving.Store(m)
	defer im.moving.Store(nil)
	for {
		if err := im.copyPiece(m, c, buf); err != nil {
			im.space.putBack(to, bs)
			return 0, true, err
		}
		if m.copied == bs {
			break
		}
		l.Unlock() // requests for it have their turn
		l.Lock()
		now, err := im.entry(n)
		if err != nil || now != e || m.broken.Load() || im.closed.Load() {
			im.space.putBack(to, bs)
			return 0, true, err
		}
	}
	if err := im.fail(im.meta.setWord(im.batOff+8*int64(t.index), uint64(entry(e.state(), to)), true)); err != nil {
		return 0, true, err
	}
	im.space.giveBack(t.off, bs)
	return bs, true, nil
}

// copyPiece copies the next piece of a block to its new place, which holds c.
func (im *Image) copyPiece(m *blockMove, c content, buf []byte) error {
	p := buf[:min(int64(len(buf)), m.n-m.copied)]
	from, to := m.from+m.copied, m.to+m.copied
	k, err := im.b.ReadAt(p, from)
	if err != nil && err != io.EOF {
		return fmt.Errorf("vdisk: payload at %#x: %w", from, err)
	}
	clear(p[k:])
	if !allZero(p) {
		_, err = im.b.WriteAt(p, to)
	} else if c == holdsOld {
		err = im.zeroFile(to, int64(len(p)))
	} else {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("vdisk: payload at %#x: %w", to, err)
	}
	m.copied += int64(len(p))
	return nil
}

// lowerBitmap moves a sector bitmap block: no request runs meanwhile, but it is one
// MiB for every 4 GiB of disk or more.
func (im *Image) lowerBitmap(t tenant) (done int64, room bool, err error) {
	to, _, room, err := im.space.allocBelow(t.n, t.off)
	if err != nil || !room {
		return 0, room, err
	}
	if err := im.commit.do(im.flush); err != nil {
		im.space.putBack(to, t.n)
		return 0, true, err
	}
	im.lockBlocks()
	defer im.unlockBlocks()
	at := im.batOff + 8*int64(t.index)
	w, err := im.meta.word(at)
	if e := batEntry(w); err != nil || e.state() != present || e.offset() != t.off {
		im.space.putBack(to, t.n)
		return 0, true, err
	}
	var copied error
	err = im.exclusively(func() error {
		if err := im.flush(); err != nil { // its pages are in place then
			return err
		}
		buf := make([]byte, t.n)
		if _, copied = im.b.ReadAt(buf, t.off); copied == nil {
			_, copied = im.b.WriteAt(buf, to)
		}
		if copied != nil {
			return nil // and nothing has happened
		}
		im.meta.forget(to, t.n)
		if err := im.meta.setWord(at, uint64(entry(present, to)), true); err != nil {
			return err
		}
		if err := im.flush(); err != nil {
			return err
		}
		if err := im.leaveBehind(); err != nil {
			return err
		}
		im.meta.forget(t.off, t.n)
		return nil
	})
	if copied != nil {
		im.space.putBack(to, t.n)
		err = fmt.Errorf("vdisk: sector bitmap from %#x to %#x: %w", t.off, to, copied)
	}
	if err != nil {
		return 0, true, err
	}
	im.space.giveBack(t.off, t.n)
	return t.n, true, nil
}

func (im *Image) lowerBAT(ctx context.Context, t tenant) (done int64, room bool, err error) {
	if im.batOff != t.off {
		return 0, true, nil
	}
	off, c, room, err := im.space.allocBelow(t.n, t.off)
	if err != nil || !room {
		return 0, room, err
	}
	if err := im.moveBAT(ctx, off, t.n, c); err != nil {
		return 0, true, err
	}
	return t.n, true, nil
}

// lower gives t a place before it, which move takes.
func (im *Image) lower(t tenant, move func(off int64) error) (done int64, room bool, err error) {
	off, _, room, err := im.space.allocBelow(t.n, t.off)
	if err != nil || !room {
		return 0, room, err
	}
	if err := move(off); err != nil {
		return 0, true, err
	}
	return t.n, true, nil
}

// trimFree cuts the file's end off and trims what is free and was not trimmed yet.
func (im *Image) trimFree() error {
	if err := im.step(im.dropEnd); err != nil {
		return err
	}
	return im.step(func() error {
		return im.exclusively(func() error {
			if err := im.flush(); err != nil {
				return err
			}
			for from := int64(0); ; {
				old, next, ok := im.space.takeOld(from)
				if !ok {
					return im.space.trimBehind()
				}
				im.space.settle(old)
				from = next
			}
		})
	})
}
