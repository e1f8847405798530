package vdisk

import (
	"errors"
	"fmt"
	"slices"
)

// logGroups hardens changes of 4 KiB pages that are in no cache: each group in one
// entry of the log, in order, and then in place. first says that what they refer to
// must be durable before; last, that no replay may write to what they leave.
func (im *Image) logGroups(first, last bool, groups ...[]logWrite) error {
	return im.exclusively(func() error {
		if err := im.flush(); err != nil {
			return err
		}
		if first {
			if err := im.j.flush(im.space.fileEnd()); err != nil {
				return err
			}
		}
		for _, g := range groups {
			if err := im.logged(g); err != nil {
				return err
			}
		}
		if last {
			return im.leaveBehind()
		}
		return nil
	})
}

// storeItems makes next the image's metadata items, all at once for whoever opens it
// after a crash. Items whose Data is the slice they came with keep their place. It
// is durable when it returns. reshape is held.
func (im *Image) storeItems(next []item) error {
	if err := im.writable(); err != nil {
		return err
	}
	total := 0
	for _, it := range next {
		total += len(it.Data)
	}
	if total > 64*mib {
		return fmt.Errorf("vdisk: metadata items of %d bytes; 64 MiB is the most", total)
	}
	md, ok := findRegion(im.regions, regionMetadata)
	if !ok {
		return ErrRegions.at(regionOffset1, "the file has no metadata region")
	}
	table, data, fits := placeItems(next, im.items, int64(md.Length))
	if !fits {
		return im.moveItems(next, md)
	}
	var groups [][]logWrite
	for len(data) > 0 {
		var w []logWrite
		for at := range data {
			p := make([]byte, logSector)
			if _, err := im.b.ReadAt(p, int64(md.Offset)+at); err != nil {
				return fmt.Errorf("vdisk: metadata at %#x: %w", int64(md.Offset)+at, err)
			}
			for _, q := range data[at] {
				copy(p[q.in:], q.data)
			}
			w = append(w, logWrite{Offset: int64(md.Offset) + at, Data: p})
			delete(data, at)
			if len(w) == im.j.maxPages() {
				break
			}
		}
		groups = append(groups, w)
	}
	old := make([]byte, metadataTableSize)
	if _, err := im.b.ReadAt(old, int64(md.Offset)); err != nil {
		return fmt.Errorf("vdisk: metadata at %#x: %w", md.Offset, err)
	}
	if w := changedPages(old, table, int64(md.Offset)); len(w) > 0 {
		groups = append(groups, w) // 16 at most: one entry holds them
	}
	if err := im.logGroups(false, false, groups...); err != nil {
		return err
	}
	im.setItems(next)
	return nil
}

func (im *Image) setItems(next []item) {
	im.itemsMu.Lock()
	im.items = next
	im.itemsMu.Unlock()
}

// changedPages are the pages of new that differ from old, which lies at off.
func changedPages(old, new []byte, off int64) (w []logWrite) {
	for at := 0; at < len(new); at += logSector {
		if p := new[at:][:logSector]; string(p) != string(old[at:][:logSector]) {
			w = append(w, logWrite{Offset: off + int64(at), Data: p})
		}
	}
	return w
}

// A patch is a piece of one page.
type patch struct {
	in   int
	data []byte
}

// placeItems finds room in a region for those items of next that are not in old as
// they are, without touching what old has. It answers the new table, and pieces to
// write by the page they lie in.
func placeItems(next, old []item, length int64) (table []byte, data map[int64][]patch, fits bool) {
	type span struct{ from, to uint32 }
	taken := []span{{0, metadataTableSize}}
	for _, it := range old {
		if it.Length > 0 {
			taken = append(taken, span{it.Offset, it.Offset + it.Length})
		}
	}
	data = map[int64][]patch{}
	for i := range next {
		it := &next[i]
		if slices.ContainsFunc(old, func(o item) bool {
			return o.ID == it.ID && o.User == it.User && o.Length > 0 && len(it.Data) == len(o.Data) && &it.Data[0] == &o.Data[0]
		}) {
			continue
		}
		it.Offset, it.Length = 0, uint32(len(it.Data))
		if it.Length == 0 {
			continue
		}
		slices.SortFunc(taken, func(a, b span) int { return int(int64(a.from) - int64(b.from)) })
		for k, s := range taken {
			from := (s.to + 7) &^ 7
			limit := uint32(length)
			if k+1 < len(taken) {
				limit = taken[k+1].from
			}
			if from <= limit && limit-from >= it.Length {
				it.Offset = from
				break
			}
		}
		if it.Offset == 0 {
			return nil, nil, false
		}
		taken = append(taken, span{it.Offset, it.Offset + it.Length})
		at, rest := int64(it.Offset), it.Data
		for len(rest) > 0 {
			in := int(at % logSector)
			n := min(len(rest), logSector-in)
			data[at-int64(in)] = append(data[at-int64(in)], patch{in, rest[:n]})
			at, rest = at+int64(n), rest[n:]
		}
	}
	return encodeMetadataTable(next), data, true
}

// moveItems gives the metadata a new, larger region.
func (im *Image) moveItems(next []item, md region) error {
	b := encodeMetadata(next)
	if int64(len(b)) > maxLog { // the region's length has 32 bits
		return errors.New("vdisk: more metadata than a region holds")
	}
	if err := im.begin(false); err != nil {
		return err
	}
	off, _, err := im.space.alloc(int64(len(b)))
	if err != nil {
		return err
	}
	undo := func(err error) error { im.space.putBack(off, int64(len(b))); return err }
	if _, err := im.b.WriteAt(b, off); err != nil {
		return undo(fmt.Errorf("vdisk: metadata at %#x: %w", off, err))
	}
	regions, w, err := im.withRegion(regionMetadata, off, int64(len(b)))
	if err != nil {
		return undo(err)
	}
	if err := im.logGroups(true, true, w); err != nil {
		return err
	}
	im.regions = regions
	im.setItems(next)
	im.space.giveBack(int64(md.Offset), int64(md.Length))
	return nil
}
