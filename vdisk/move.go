package vdisk

import "sync/atomic"

// A blockMove is a block on its way from one place in the file to another, or, with
// to zero, one that is only watched. The fields that say where are constant; copied
// changes only with the block's lock held exclusively, so that whoever writes to
// the block, with its lock held at all, knows which side of it is current.
type blockMove struct {
	from, to int64
	n        int64
	copied   int64       // so much of it is at the new place too
	touched  atomic.Bool // it was written to
	broken   atomic.Bool // the copy could not be kept up
}

// wrote is told of payload that was written at off in the file: what was copied
// already is written to the new place as well. If that fails the move does, not the
// write: the block is still where it was.
func (m *blockMove) wrote(im *Image, p []byte, off int64) {
	if off < m.from || off >= m.from+m.n {
		return
	}
	m.touched.Store(true)
	at := off - m.from
	if at >= m.copied {
		return
	}
	if _, err := im.b.WriteAt(p[:min(int64(len(p)), m.copied-at)], m.to+at); err != nil {
		m.broken.Store(true)
	}
}

// again calls f for the part of [off, off+n) that has a copy, with where that is.
func (im *Image) again(off, n int64, f func(off, n int64) error) {
	m := im.moving.Load()
	if m == nil || off < m.from || off >= m.from+m.n {
		return
	}
	m.touched.Store(true)
	at := off - m.from
	if at >= m.copied {
		return
	}
	if err := f(m.to+at, min(n, m.copied-at)); err != nil {
		m.broken.Store(true)
	}
}

// zeroPayload makes a part of a block's place zero.
func (im *Image) zeroPayload(off, n int64) error {
	if err := im.zeroFile(off, n); err != nil {
		return err
	}
	im.again(off, n, im.zeroFile)
	return nil
}

// trimPayload tells the backing that a part of a block does not matter any more.
func (im *Image) trimPayload(off, n int64) error {
	trim := func(off, n int64) error {
		_, err := im.b.Trim(off, n)
		return err
	}
	if err := trim(off, n); err != nil {
		return err
	}
	im.again(off, n, trim)
	return nil
}
