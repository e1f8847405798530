package vdisk

// region is one entry of the region table (2.2.3.2).
type region struct {
	ID       GUID
	Offset   uint64
	Length   uint32
	Required bool
}

func encodeRegions(rs []region) []byte {
	b := make([]byte, regionTableSize)
	copy(b, "regi")
	le.PutUint32(b[8:], uint32(len(rs)))
	for i, r := range rs {
		e := b[16+32*i:]
		copy(e, r.ID[:])
		le.PutUint64(e[16:], r.Offset)
		le.PutUint32(e[24:], r.Length)
		if r.Required {
			le.PutUint32(e[28:], 1)
		}
	}
	le.PutUint32(b[4:], checksum(b, 4))
	return b
}

// decodeRegions reads one copy of the region table; off is where it lies.
func decodeRegions(b []byte, off int64) ([]region, error) {
	if len(b) < regionTableSize || string(b[:4]) != "regi" {
		return nil, ErrRegionTable.at(off, "no region table")
	}
	if le.Uint32(b[4:]) != checksum(b[:regionTableSize], 4) {
		return nil, ErrRegionTable.at(off+4, "the region table's checksum is wrong")
	}
	n := le.Uint32(b[8:])
	if n > maxRegions {
		return nil, ErrAbsurdSize.at(off+8, "the region table claims %d entries, more than %d", n, maxRegions)
	}
	rs := make([]region, 0, min(n, 16))
	for i := range int(n) {
		e := b[16+32*i:]
		var r region
		copy(r.ID[:], e)
		r.Offset, r.Length, r.Required = le.Uint64(e[16:]), le.Uint32(e[24:]), le.Uint32(e[28:])&1 != 0
		at := off + 16 + 32*int64(i)
		switch {
		case r.Offset%mib != 0 || r.Length%mib != 0 || r.Length == 0:
			return nil, ErrRegions.at(at+16, "region %v (%#x+%#x) is not made of whole MiB", r.ID, r.Offset, r.Length)
		case r.Offset < headerSectionSize || r.Offset > maxFileEnd-uint64(r.Length):
			return nil, ErrRegions.at(at+16, "region %v (%#x+%#x) lies outside the file's data", r.ID, r.Offset, r.Length)
		}
		for _, o := range rs {
			if o.ID == r.ID {
				return nil, ErrRegions.at(at, "region %v is listed twice", r.ID)
			}
			if r.Offset < o.Offset+uint64(o.Length) && o.Offset < r.Offset+uint64(r.Length) {
				return nil, ErrOverlap.at(at+16, "region %v (%#x+%#x) overlaps region %v (%#x+%#x)", r.ID, r.Offset, r.Length, o.ID, o.Offset, o.Length)
			}
		}
		if r.Required && r.ID != regionBAT && r.ID != regionMetadata {
			return nil, ErrUnknownRequired.unsupported(at, "the file requires an unknown region %v", r.ID)
		}
		rs = append(rs, r)
	}
	return rs, nil
}

func findRegion(rs []region, id GUID) (region, bool) {
	for _, r := range rs {
		if r.ID == id {
			return r, true
		}
	}
	return region{}, false
}
