package vdisk

import (
	"fmt"
	"slices"
)

// checkHeaders looks at the copies that an opening does not need, and at what it
// passes over.
func checkHeaders(b Backing, fs *findings) {
	p := make([]byte, regionTableSize)
	var hs [2]header
	var valid [2]bool
	for i, off := range []int64{headerOffset1, headerOffset2} {
		if _, err := b.ReadAt(p[:headerSize], off); err != nil {
			fs.add(flawHeaderCopy, off, "header %d: %v", i+1, err)
		} else if hs[i], _, _, valid[i] = decodeHeader(p[:headerSize]); !valid[i] {
			fs.add(flawHeaderCopy, off, "header %d is not valid: its signature or checksum is wrong", i+1)
		} else if !allZero(p[80:headerSize]) {
			fs.add(flawReserved, off+80, "reserved bytes of header %d are not zero", i+1)
		}
	}
	if valid[0] && valid[1] && (hs[0].LogOffset != hs[1].LogOffset || hs[0].LogLength != hs[1].LogLength) {
		off, old := int64(headerOffset1), 0
		if hs[1].Sequence < hs[0].Sequence {
			off, old = headerOffset2, 1
		}
		fs.add(flawHeaderCopy, off, "the older header has the log at %#x+%#x, where the newer does not: losing the newer would lose the log",
			hs[old].LogOffset, hs[old].LogLength)
	}
	var tables [2][]region
	var errs [2]error
	for i, off := range []int64{regionOffset1, regionOffset2} {
		if _, errs[i] = b.ReadAt(p, off); errs[i] == nil {
			tables[i], errs[i] = decodeRegions(p, off)
		}
		if errs[i] != nil {
			fs.add(flawRegionCopy, off, "region table %d is not valid: %v", i+1, errs[i])
			continue
		}
		if le.Uint32(p[12:]) != 0 {
			fs.add(flawReserved, off+12, "reserved bytes of region table %d are not zero", i+1)
		}
		for k := range tables[i] {
			if at := 16 + 32*k + 28; le.Uint32(p[at:])&^1 != 0 {
				fs.add(flawReserved, off+int64(at), "reserved bits of region %v are set in region table %d", tables[i][k].ID, i+1)
			}
		}
	}
	if errs[0] == nil && errs[1] == nil && !slices.Equal(tables[0], tables[1]) {
		fs.add(flawRegionsDiffer, regionOffset2, "the region tables at %#x and %#x are both valid, and differ; the first is used", regionOffset1, regionOffset2)
	}
}

// checkItems looks at the metadata table's reserved fields and unknown items.
func (im *Image) checkItems(fs *findings) {
	md, _ := findRegion(im.regions, regionMetadata)
	b := make([]byte, metadataTableSize)
	if _, err := im.b.ReadAt(b, int64(md.Offset)); err != nil {
		return // Open has read it
	}
	at := int64(md.Offset)
	if le.Uint16(b[8:]) != 0 || !allZero(b[12:32]) {
		fs.add(flawReserved, at+8, "reserved bytes of the metadata table are not zero")
	}
	for i, it := range im.items {
		e := b[32+32*i:]
		off := at + 32 + 32*int64(i)
		if le.Uint32(e[24:])&^(flagUser|flagDisk|flagRequired) != 0 || le.Uint32(e[28:]) != 0 {
			fs.add(flawReserved, off+24, "reserved bits of metadata item %v are set", it.ID)
		}
		if !it.User && !knownItem(it.ID) {
			fs.add(flawUnknownItem, off, "metadata item %v of %d bytes is unknown, and not required", it.ID, it.Length)
		}
		if it.ID == itemFileParameters && !it.User && len(it.Data) == 8 && le.Uint32(it.Data[4:])&^3 != 0 {
			fs.add(flawReserved, at+int64(it.Offset)+4, "reserved bits of the file parameters are set")
		}
	}
	for _, r := range im.regions {
		if r.ID != regionBAT && r.ID != regionMetadata {
			fs.add(flawUnknownItem, int64(r.Offset), "region %v of %d bytes is unknown, and not required", r.ID, r.Length)
		}
	}
}

func knownItem(id GUID) bool {
	return slices.Contains([]GUID{itemFileParameters, itemDiskSize, itemPage83, itemLogicalSector, itemPhysicalSector, itemParentLocator}, id)
}

// checkLog says what a log in use holds.
func checkLog(b Backing, h *header, fs *findings) {
	l := logReader{b, int64(h.LogOffset), int64(h.LogLength)}
	s, err := l.findSequence(h.LogGUID)
	if err != nil {
		return // Open has said so
	}
	newest := s.entries[len(s.entries)-1]
	fs.add(flawLogInUse, l.off+s.entries[0].at, "the file was not closed: its log holds %d entries, up to number %d, which were replayed in memory for this check", len(s.entries), newest.seq)
	for _, e := range s.entries {
		entry, _, ok, err := l.entry(e.at, h.LogGUID, false)
		if err != nil || !ok {
			continue
		}
		for _, w := range entry.Writes {
			n := max(w.Zeroes, logSector)
			if w.Data != nil {
				n = logSector
			}
			switch {
			case w.Offset < regionOffset1:
				fs.add(ErrLogTarget, l.off+e.at, "log entry %d writes to %#x, among the headers", e.seq, w.Offset)
			case w.Offset < l.off+l.length && w.Offset+n > l.off:
				fs.add(ErrLogTarget, l.off+e.at, "log entry %d writes to %#x, in the log itself", e.seq, w.Offset)
			}
		}
	}
	// What else bears this log's identity: an entry cut short by the end of
	// power, or whole entries behind one that is lost.
	var p [logHeaderSize]byte
	for o := int64(0); o < l.length; o += logSector {
		if l.read(p[:], o) != nil || string(p[:4]) != "loge" || GUID(p[32:48]) != h.LogGUID {
			continue
		}
		seq := le.Uint64(p[16:])
		if seq <= newest.seq {
			continue
		}
		if _, _, ok, err := l.entry(o, h.LogGUID, false); err == nil && ok {
			fs.add(flawLogGap, l.off+o, "log entry %d is whole, but those between %d and it are not", seq, newest.seq)
		} else if o == s.head {
			fs.add(flawLogTorn, l.off+o, "log entry %d is torn", seq)
		} else {
			fs.add(flawLogTorn, l.off+o, "log entry %d is not whole, and not behind the newest", seq)
		}
	}
}

// what names the BAT entry at index.
func (im *Image) what(index uint64) string {
	if chunk := index / (im.g.chunkRatio + 1); (index+1)%(im.g.chunkRatio+1) == 0 {
		return fmt.Sprintf("the sector bitmap of chunk %d", chunk)
	} else {
		return fmt.Sprintf("block %d", index-chunk)
	}
}
