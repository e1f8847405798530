package vdisk

import "io"

// bitmapsOfAll settles the sector bitmaps, when every block has its place.
func (r *repairer) bitmapsOfAll() error {
	now, err := r.b.Size()
	if err != nil {
		return err
	}
	for c := range r.im.g.chunks {
		if err := r.bitmap(c, now); err != nil {
			return err
		}
	}
	return nil
}

func (r *repairer) bitmap(c uint64, size int64) error {
	im := r.im
	v, err := im.bitmapView(c, size)
	if err != nil {
		return err
	}
	var blocks []uint64
	for n := c * im.g.chunkRatio; n < min((c+1)*im.g.chunkRatio, im.g.blocks); n++ {
		w, err := im.meta.word(im.batOff + 8*int64(im.g.batIndex(n)))
		if err != nil {
			return err
		}
		if batEntry(w).state() == partial {
			blocks = append(blocks, n)
		}
	}
	if !v.ok {
		if len(blocks) == 0 {
			return nil
		}
		return r.guess(c, blocks)
	}
	kept := 0
	for _, n := range blocks {
		index := im.g.batIndex(n)
		w, err := im.meta.word(im.batOff + 8*int64(index))
		if err != nil {
			return err
		}
		from, end, to := im.sectorsOf(n)
		here, err := im.countBits(v.off, from, end)
		if err != nil {
			return err
		}
		bits := v.off + int64(from/8)
		switch here {
		case 0:
			r.did(flawBitmapEmpty, bits, false, "block %d was partially present with no sector of its own; it is the parent's now, and its place was given back", n)
			err = r.set(index, entry(notPresent, 0))
		case end - from:
			r.did(flawBitmapFull, bits, false, "block %d was partially present with all its sectors; it is fully present now", n)
			err = r.set(index, entry(present, batEntry(w).offset()))
		default:
			kept++
			err = r.clearBits(v.off, end, to, "block %d", n)
		}
		if err != nil {
			return err
		}
	}
	if kept == 0 {
		r.did(flawBitmapUnused, v.at, false, "no block of chunk %d used its sector bitmap; its place was given back", c)
		return r.set(im.g.bitmapIndex(c), 0)
	}
	if last := im.g.blocks - 1; c == last/im.g.chunkRatio {
		_, _, to := im.sectorsOf(last)
		return r.clearBits(v.off, to, chunkBits, "chunk %d", c)
	}
	return nil
}

// clearBits clears [from, to) of a sector bitmap block where it is not clear.
func (r *repairer) clearBits(bitmap int64, from, to uint64, what string, n uint64) error {
	set, err := r.im.countBits(bitmap, from, to)
	if err != nil || set == 0 {
		return err
	}
	r.did(flawBitsBeyond, bitmap+int64(from/8), false, "the sector bitmap of "+what+" had %d bits behind the disk's end; they were cleared", n, set)
	for s := from; s < to; {
		end := min(to, (s/64+1)*64)
		mask := ^uint64(0) >> (64 - (end - s)) << (s % 64)
		at := bitmap + int64(s/64*8)
		w, err := r.im.meta.word(at)
		if err == nil && w&mask != 0 {
			err = r.im.meta.setWord(at, w&^mask, true)
		}
		if err != nil {
			return err
		}
		s = end
	}
	return nil
}

// guess makes a new sector bitmap for partially present blocks that have none:
// nothing could be read of them. A sector that is not zero was written here; one
// that is may have been the parent's, and is taken for that.
func (r *repairer) guess(c uint64, blocks []uint64) error {
	im := r.im
	b := make([]byte, bitmapSize)
	ss := int(im.p.LogicalSector)
	buf := make([]byte, mib)
	kept := 0
	for _, n := range blocks {
		w, err := im.meta.word(im.batOff + 8*int64(im.g.batIndex(n)))
		if err != nil {
			return err
		}
		from, end, _ := im.sectorsOf(n)
		bytes := int64(end-from) * int64(ss)
		set := 0
		for done := int64(0); done < bytes; done += mib {
			p := buf[:min(mib, bytes-done)]
			m, err := r.b.ReadAt(p, batEntry(w).offset()+done)
			if err != nil && err != io.EOF {
				return err
			}
			clear(p[m:])
			for i := 0; i < len(p); i += ss {
				if !allZero(p[i : i+ss]) {
					s := from + uint64((done+int64(i))/int64(ss))
					b[s/8] |= 1 << (s % 8)
					set++
				}
			}
		}
		r.did(ErrBitmapMissing, im.batOff+8*int64(im.g.batIndex(n)), true,
			"block %d had lost its sector bitmap; the %d of its %d sectors that are not zero count as its own, the rest as the parent's", n, set, end-from)
		switch set {
		case 0:
			err = r.set(im.g.batIndex(n), entry(notPresent, 0))
		case int(end - from):
			err = r.set(im.g.batIndex(n), entry(present, batEntry(w).offset()))
		default:
			kept++
		}
		if err != nil {
			return err
		}
	}
	if kept == 0 {
		return nil
	}
	if err := im.begin(false); err != nil {
		return err
	}
	to, _, err := im.space.alloc(bitmapSize)
	if err != nil {
		return err
	}
	if _, err := r.b.WriteAt(b, to); err != nil {
		return err
	}
	im.meta.forget(to, bitmapSize)
	return r.set(im.g.bitmapIndex(c), entry(present, to))
}
