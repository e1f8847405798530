package vdisk

// Trim says that a range's contents do not matter any more. Whole blocks lose their
// place in the file; what is smaller is passed to the backing where that is sure to
// read as zero afterwards, and else left as it is.
func (im *Image) Trim(off, n int64) error { return im.discard(off, n, unmapped) }

// WriteZeroes makes a range read as zero, without storing zeroes where it can.
func (im *Image) WriteZeroes(off, n int64) error { return im.discard(off, n, zeroed) }

func (im *Image) discard(off, n int64, to blockState) error {
	if err := im.startWrite(off, n); err != nil {
		return err
	}
	for n > 0 {
		block, in, m := im.span(off, n)
		if err := im.discardBlock(block, in, m, to); err != nil {
			return err
		}
		if err := im.throttle(); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

func (im *Image) discardBlock(block uint64, in, n int64, to blockState) error {
	l := &im.blocks[block%uint64(len(im.blocks))]
	l.Lock()
	defer l.Unlock()
	if err := im.live(block, in, n); err != nil {
		return err
	}
	e, err := im.entry(block)
	if err != nil {
		return err
	}
	bs := int64(im.p.BlockSize)
	// The disk's last block may be cut short by its end.
	whole := in == 0 && (n == bs || int64(block)*bs+n == int64(im.p.DiskSize))
	held := e.state() == present || e.state() == partial
	switch {
	case !held && e.state() == to, !held && to == zeroed && im.readsZero(e):
		return nil
	case whole && !(im.p.LeaveAllocated && held):
		at := im.batOff + 8*int64(im.g.batIndex(block))
		if err := im.meta.setWord(at, uint64(entry(to, 0)), false); err != nil {
			return im.fail(err)
		}
		if held {
			im.space.giveBack(e.offset(), bs)
		}
		return nil
	case e.state() == present && to == unmapped:
		return im.trimPayload(e.offset()+in, n)
	case to == unmapped:
		return nil // of what has no place of its own there is nothing to give back
	case e.state() == present:
		return im.zeroPayload(e.offset()+in, n)
	}
	return im.zeroSectors(block, e, in, n)
}

// zeroSectors writes zeroes in the midst of a block that is the parent's, wholly or
// in part.
func (im *Image) zeroSectors(block uint64, e batEntry, in, n int64) (err error) {
	for n > 0 {
		m := min(n, int64(len(zeroes)))
		switch e.state() {
		case partial:
			err = im.writePartial(block, e, in, zeroes[:m])
		case present:
			err = im.writePayload(zeroes[:m], e.offset()+in)
		default:
			err = im.allocate(block, e, in, zeroes[:m])
		}
		if err != nil {
			return err
		}
		if e, err = im.entry(block); err != nil {
			return err
		}
		in, n = in+m, n-m
	}
	return nil
}

// readsZero tells whether a block without a place reads as zero here.
func (im *Image) readsZero(e batEntry) bool {
	return e.state() == zeroed || e.state() == unmapped || e.state() == notPresent && im.parent == nil
}
