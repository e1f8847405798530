package vdisk

// A vectored backing takes many buffers in one call, for one range. Which of them
// arrived after an error is not known.
type vectored interface {
	readv(bufs [][]byte, off int64) error
	writev(bufs [][]byte, off int64) error
}

// maxVectors is how many buffers go in one call; a guest's request seldom has more.
const maxVectors = 64

// transfer reads into, or writes from, bufs one after the other. What lies in one
// block that has a place of its own goes to the backing in one call. (Blocks are
// 1 MiB or more, so there is little to gain from joining them, and much to lose from
// holding several blocks' locks.)
func (im *Image) transfer(bufs [][]byte, off int64, write bool) error {
	v, ok := im.b.(vectored)
	if ok && len(bufs) > 1 && write {
		var n int64
		for _, b := range bufs {
			n += int64(len(b))
		}
		if err := im.startWrite(off, n); err != nil {
			return err
		}
	}
	for len(bufs) > 0 {
		k, n := 1, int64(len(bufs[0]))
		if ok && len(bufs) > 1 {
			block, in, m := im.span(off, 1<<62)
			for k < min(len(bufs), maxVectors) && n+int64(len(bufs[k])) <= m {
				n += int64(len(bufs[k]))
				k++
			}
			if k > 1 {
				done, err := im.transferBlock(v, block, in, bufs[:k], n, write)
				if err != nil {
					return err
				}
				if done {
					off, bufs = off+n, bufs[k:]
					continue
				}
			}
		}
		// After a write the block may have its place.
		var err error
		if write {
			_, err = im.WriteAt(bufs[0], off)
		} else {
			_, err = im.ReadAt(bufs[0], off)
		}
		if err != nil {
			return err
		}
		off, bufs = off+int64(len(bufs[0])), bufs[1:]
	}
	return nil
}

// whole tells how long buffers are, and refuses one that is not whole sectors.
func (im *Image) whole(bufs [][]byte) (n int64, err error) {
	for _, b := range bufs {
		if uint32(len(b))%im.p.LogicalSector != 0 {
			return 0, im.check(0, int64(len(b)))
		}
		n += int64(len(b))
	}
	return n, nil
}

// transferBlock does it if the block is all here; done says whether.
func (im *Image) transferBlock(v vectored, block uint64, in int64, bufs [][]byte, n int64, write bool) (done bool, err error) {
	if _, err := im.whole(bufs); err != nil {
		return false, err
	}
	if err := im.check(int64(block)*int64(im.p.BlockSize)+in, n); err != nil {
		return false, err
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
	if write {
		err = v.writev(bufs, e.offset()+in)
		if m := im.moving.Load(); m != nil && err == nil {
			for _, b := range bufs {
				m.wrote(im, b, e.offset()+in)
				in += int64(len(b))
			}
		}
	} else {
		err = v.readv(bufs, e.offset()+in)
	}
	return true, payloadError(e.offset()+in, err)
}
