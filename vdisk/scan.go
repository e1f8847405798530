package vdisk

import "fmt"

// maxInUse is how far into a file anything may lie: four times the largest disk. What
// is known of a file's space grows with that.
const maxInUse = 4 * maxDisk

// A usage is one bit for each MiB of the file: taken or free. The format allocates
// in whole MiB, so this is all that is known of the space of a file, 8 MiB of it
// for 64 TiB.
type usage struct {
	bits []uint64
	end  int64 // behind the last MiB taken
}

// take marks a range; at is the first place in it that was taken already.
func (u *usage) take(off, n int64) (at int64, ok bool) {
	ok = true
	for m := off / mib; m < (off+n+mib-1)/mib; m++ {
		for int64(len(u.bits)) <= m/64 {
			u.bits = append(u.bits, make([]uint64, len(u.bits)+1)...)
		}
		if w := &u.bits[m/64]; *w>>(m%64)&1 == 0 {
			*w |= 1 << (m % 64)
		} else if ok {
			at, ok = m*mib, false
		}
	}
	u.end = max(u.end, off+n)
	return at, ok
}

func (u *usage) taken(m int64) bool {
	return m/64 < int64(len(u.bits)) && u.bits[m/64]>>(m%64)&1 != 0
}

// free calls f for each gap below end.
func (u *usage) free(end int64, f func(off, n int64)) {
	for m := int64(0); m < end/mib; m++ {
		if u.taken(m) {
			continue
		}
		from := m
		for m < end/mib && !u.taken(m) {
			m++
		}
		f(from*mib, (m-from)*mib)
	}
}

// scan reads the whole BAT and says what is taken. Each fault goes to report, which
// stops the scan by returning an error.
func (im *Image) scan(size int64, report func(error) error) (*usage, error) {
	u := &usage{}
	if size > maxInUse {
		return nil, ErrAbsurdSize.at(0, "the file is %d bytes long, farther than any image reaches", size)
	}
	u.take(0, headerSectionSize)
	if im.hdr.logWithin(size) {
		u.take(int64(im.hdr.LogOffset), int64(im.hdr.LogLength))
	} else if im.hdr.LogLength != 0 {
		if err := report(ErrLogPlace.at(im.headerAt()+72, "the log (%#x+%#x) lies beyond the file's end %#x", im.hdr.LogOffset, im.hdr.LogLength, size)); err != nil {
			return nil, err
		}
	}
	for _, r := range im.regions {
		if int64(r.Offset)+int64(r.Length) > roundUp(size, mib) {
			continue // an optional region that is not there
		}
		u.take(int64(r.Offset), int64(r.Length))
	}
	total := 8 * int64(im.g.entries)
	there, err := im.eachPiece(total, func(at int64, b []byte) error {
		for i := 0; i+8 <= len(b); i += 8 {
			e := batEntry(le.Uint64(b[i:]))
			if e == 0 {
				continue
			}
			index := uint64(at+int64(i)) / 8
			if err := im.scanEntry(u, index, e, size); err != nil {
				if err = report(err); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && there < total {
		err = ErrTruncated.at(im.batOff+there, "the file ends within the block allocation table")
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (im *Image) scanEntry(u *usage, index uint64, e batEntry, size int64) error {
	off := im.batOff + 8*int64(index)
	bitmap := (index+1)%(im.g.chunkRatio+1) == 0
	what := fmt.Sprintf("block %d", index-index/(im.g.chunkRatio+1))
	n := int64(im.p.BlockSize)
	if bitmap {
		what = fmt.Sprintf("the sector bitmap of chunk %d", index/(im.g.chunkRatio+1))
		n = bitmapSize
	}
	s := e.state()
	switch {
	case bitmap && s == notPresent, !bitmap && s <= unmapped:
		return nil
	case bitmap && s != present:
		return ErrBitmapState.at(off, "%s is in state %v", what, s)
	case s != present && s != partial:
		return ErrBlockState.at(off, "%s is in state %v", what, s)
	case bitmap && !im.p.HasParent:
		return ErrBitmapState.at(off, "%s is allocated in an image without a parent", what)
	case s == partial && !im.p.HasParent:
		return ErrBlockState.at(off, "%s is partially present in an image without a parent", what)
	case bitmap && e.offset() >= 0 && e.offset() < headerSectionSize:
		return ErrBitmapPlace.at(off, "%s lies at %#x, among the headers", what, e.offset())
	case e.offset() < headerSectionSize:
		return ErrBlockPlace.at(off, "%s lies at %#x, among the headers", what, e.offset())
	case bitmap && e.offset() > size-n:
		return ErrBitmapPlace.at(off, "%s (%#x+%#x) reaches beyond the file's end %#x", what, e.offset(), n, size)
	case e.offset() >= maxInUse:
		return ErrAbsurdSize.at(off, "%s lies at %#x, farther than any image reaches", what, e.offset())
	case e.offset() >= size || e.offset() < 0:
		return ErrBlockBeyondEnd.at(off, "%s lies at %#x, beyond the file's end %#x: the file was truncated, or the entry is damaged", what, e.offset(), size)
	}
	// Some tools end fixed images in the midst of the last block: what the disk
	// needs must be there, not the whole block.
	if block := index - index/(im.g.chunkRatio+1); !bitmap {
		if need := min(n, int64(im.p.DiskSize)-int64(block)*n); need > 0 && e.offset()+need > size {
			return ErrBlockCut.at(off, "%s (%#x+%#x) reaches beyond the file's end %#x: the file was truncated", what, e.offset(), need, size)
		}
	}
	if at, ok := u.take(e.offset(), n); !ok {
		return ErrOverlap.at(off, "%s (%#x+%#x) overlaps something else at %#x", what, e.offset(), n, at)
	}
	return nil
}

// findSpace makes a file that is opened for writing known to the allocator. A file
// whose blocks overlap is refused: writing to one would change the other.
func (im *Image) findSpace(size int64) error {
	u, err := im.scan(size, func(err error) error {
		return fmt.Errorf("%w; it can be opened read-only", err)
	})
	if err != nil {
		return err
	}
	s := &im.space
	s.end = u.end
	u.free(u.end, func(off, n int64) { s.insert(freeRegion{off, n, holdsOld}) })
	if s.limit == 0 {
		// What lies behind the last block, left by a crash or another tool, may
		// hold anything; only what the file grows by is sure to be zero.
		if s.end = max(u.end, roundUp(size, mib)); s.end > u.end {
			s.insert(freeRegion{u.end, s.end - u.end, holdsOld})
		}
	}
	return nil
}
