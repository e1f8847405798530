package vdisk

import "fmt"

// A durably is a backing that can make one write durable without all others.
type durably interface {
	// writeDurably writes bufs one after the other. When it returns they are
	// durable, and so is what leads to them below the backing; ok is false
	// if it can not do that, and has done nothing. Which of them arrived after
	// an error is not known, nor whether the error is about them.
	writeDurably(bufs [][]byte, off int64) (ok bool, err error)
}

// writeFUA writes to a block in place, and makes that durable alone. That is enough
// where what says that the block is there is durable already: its BAT entry is in a
// page that no commit has to write, and stays so as long as the block is locked.
// done is false if it can not be had so; then nothing was written.
func (im *Image) writeFUA(bufs [][]byte, off int64) (done bool, err error) {
	d, ok := im.b.(durably)
	if !ok || len(bufs) == 0 {
		return false, nil
	}
	n, err := im.whole(bufs)
	if err != nil {
		return false, err
	}
	if err := im.startWrite(off, n); err != nil {
		return false, err
	}
	block, in, m := im.span(off, n)
	if m < n {
		return false, nil
	}
	l := &im.blocks[block%uint64(len(im.blocks))]
	l.RLock()
	defer l.RUnlock()
	if err := im.live(block, in, n); err != nil {
		return false, err
	}
	e, err := im.entry(block)
	if err != nil || e.state() != present {
		return false, err
	}
	if im.moving.Load() != nil || !im.meta.durable(im.batOff+8*int64(im.g.batIndex(block))) {
		return false, nil
	}
	ok, err = d.writeDurably(bufs, e.offset()+in)
	if err != nil {
		// The backing tells of a lost write once: it may have been another's.
		return true, im.fail(fmt.Errorf("vdisk: payload at %#x: %w", e.offset()+in, err))
	}
	return ok, nil
}

func (r *Raw) writeFUA(bufs [][]byte, off int64) (done bool, err error) {
	d, ok := r.b.(durably)
	if !ok {
		return false, nil
	}
	at := off
	for _, b := range bufs {
		if err := r.check(at, int64(len(b))); err != nil {
			return false, err
		}
		at += int64(len(b))
	}
	ok, err = d.writeDurably(bufs, off)
	return ok || err != nil, err
}

func (s *Section) writeDurably(bufs [][]byte, off int64) (bool, error) {
	d, ok := s.b.(durably)
	if !ok {
		return false, nil
	}
	var n int64
	for _, b := range bufs {
		n += int64(len(b))
	}
	if err := s.inside(off, n); err != nil {
		return false, err
	}
	return d.writeDurably(bufs, s.off+off)
}
