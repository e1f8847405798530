package vdisk

import (
	"math/bits"
)

// eachEntry calls f for each entry of the BAT's region that is not zero, those
// behind the disk's last included. The bytes are the file's, not the cache's.
func (im *Image) eachEntry(f func(index uint64, e batEntry) error) error {
	bat, _ := findRegion(im.regions, regionBAT)
	_, err := im.eachPiece(int64(bat.Length), func(at int64, b []byte) error {
		for i := 0; i+8 <= len(b); i += 8 {
			if e := batEntry(le.Uint64(b[i:])); e != 0 {
				if err := f(uint64(at+int64(i))/8, e); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return err
}

// checkEntries looks for what scan lets pass: reserved bits, entries behind the
// disk's end, blocks without a place in a fixed image.
func (im *Image) checkEntries(size int64, fs *findings) error {
	held := uint64(0)
	err := im.eachEntry(func(index uint64, e batEntry) error {
		off := im.batOff + 8*int64(index)
		chunk := index / (im.g.chunkRatio + 1)
		bitmap := (index+1)%(im.g.chunkRatio+1) == 0
		switch {
		case index >= im.g.entries:
			fs.add(flawEntryBeyond, off, "entry %d of the block allocation table is %#x, behind the table's last", index, uint64(e))
		case !bitmap && index-chunk >= im.g.blocks:
			fs.add(flawEntryBeyond, off, "block %d is %v, behind the disk's last", index-chunk, e.state())
		case e.reserved() != 0:
			fs.add(flawReserved, off, "reserved bits of %s's entry are set: %#x", im.what(index), uint64(e))
		case !bitmap && (e.state() == present || e.state() == partial):
			held++
		}
		return nil
	})
	if err == nil && im.p.LeaveAllocated && held < im.g.blocks {
		fs.add(flawFixedHole, im.batOff, "the image is fixed, but %d of its %d blocks have no place", im.g.blocks-held, im.g.blocks)
	}
	return err
}

// countBits counts the bits that are set in [from, to) of a sector bitmap block.
func (im *Image) countBits(bitmap int64, from, to uint64) (n uint64, err error) {
	for s := from; s < to; {
		w, err := im.meta.word(bitmap + int64(s/64*8))
		if err != nil {
			return 0, err
		}
		end := min(to, (s/64+1)*64)
		w = w >> (s % 64) << (64 - (end - s))
		n += uint64(bits.OnesCount64(w))
		s = end
	}
	return n, nil
}

// A bitmapView is one chunk's sector bitmap, if it can be read.
type bitmapView struct {
	at    int64 // of the BAT entry
	off   int64 // of the bitmap
	state blockState
	ok    bool // it is there, inside the file
}

func (im *Image) bitmapView(c uint64, size int64) (v bitmapView, err error) {
	v.at = im.batOff + 8*int64(im.g.bitmapIndex(c))
	w, err := im.meta.word(v.at)
	if err != nil {
		return v, err
	}
	v.off, v.state = batEntry(w).offset(), batEntry(w).state()
	v.ok = v.state == present && v.off >= headerSectionSize && v.off <= size-bitmapSize
	return v, nil
}

// sectorsOf are the bits of block n in its chunk's bitmap: all of them, and those
// before the disk's end.
func (im *Image) sectorsOf(n uint64) (from, end, to uint64) {
	per := uint64(im.p.BlockSize / im.p.LogicalSector)
	from = n % im.g.chunkRatio * per
	to, end = from+per, from
	if sectors := im.p.DiskSize / uint64(im.p.LogicalSector); n*per < sectors {
		end = from + min(per, sectors-n*per)
	}
	return from, end, to
}

// checkBitmap looks at what the sector bitmap of one chunk says.
func (im *Image) checkBitmap(c uint64, size int64, fs *findings) error {
	v, err := im.bitmapView(c, size)
	if err != nil {
		return err
	}
	used := false
	for n := c * im.g.chunkRatio; n < min((c+1)*im.g.chunkRatio, im.g.blocks); n++ {
		at := im.batOff + 8*int64(im.g.batIndex(n))
		w, err := im.meta.word(at)
		if err != nil {
			return err
		}
		if batEntry(w).state() != partial {
			continue
		}
		used = true
		if v.state == notPresent {
			fs.add(ErrBitmapMissing, at, "block %d is partially present, but chunk %d has no sector bitmap", n, c)
		}
		if !v.ok {
			continue // scan has said why
		}
		from, end, to := im.sectorsOf(n)
		here, err := im.countBits(v.off, from, end)
		if err != nil {
			return err
		}
		beyond, err := im.countBits(v.off, end, to)
		if err != nil {
			return err
		}
		bits := v.off + int64(from/8)
		if here == 0 {
			fs.add(flawBitmapEmpty, bits, "block %d is partially present with no sector of its own: its %d MiB are wasted", n, im.p.BlockSize/mib)
		} else if here == end-from {
			fs.add(flawBitmapFull, bits, "block %d is partially present with all its sectors", n)
		}
		if beyond != 0 {
			fs.add(flawBitsBeyond, bits, "the sector bitmap of block %d has %d bits behind the disk's end", n, beyond)
		}
	}
	if !v.ok {
		return nil
	}
	if !used {
		fs.add(flawBitmapUnused, v.at, "chunk %d has a sector bitmap that no block uses", c)
		return nil
	}
	// Bits of blocks that the disk does not have.
	if last := im.g.blocks - 1; c == last/im.g.chunkRatio {
		_, _, to := im.sectorsOf(last)
		beyond, err := im.countBits(v.off, to, chunkBits)
		if err != nil {
			return err
		}
		if beyond != 0 {
			fs.add(flawBitsBeyond, v.off+int64(to/8), "the sector bitmap of chunk %d has %d bits behind the disk's last block", c, beyond)
		}
	}
	return nil
}
