package vdisk

// item is one entry of the metadata table with its value (2.6.1.2).
type item struct {
	ID       GUID
	Offset   uint32 // from the start of the metadata region
	Length   uint32
	User     bool
	Disk     bool // it describes the virtual disk, not the file
	Required bool
	Data     []byte
}

// params is what the known metadata items say (2.6.2).
type params struct {
	BlockSize      uint32
	LeaveAllocated bool // fixed: blocks are never given back
	HasParent      bool
	DiskSize       uint64
	Page83         GUID
	LogicalSector  uint32
	PhysicalSector uint32
}

const (
	flagUser     = 1
	flagDisk     = 2
	flagRequired = 4
)

// decodeMetadataTable reads the table; items come without their Data. length is
// the region's, off where the table lies in the file.
func decodeMetadataTable(b []byte, length uint32, off int64) ([]item, error) {
	if len(b) < metadataTableSize || string(b[:8]) != "metadata" {
		return nil, ErrMetadata.at(off, "no metadata table")
	}
	n := int(le.Uint16(b[10:]))
	if n > maxMetadata {
		return nil, ErrAbsurdSize.at(off+10, "the metadata table claims %d entries, more than %d", n, maxMetadata)
	}
	type key struct {
		id   GUID
		user bool
	}
	seen := make(map[key]bool, min(n, 16))
	items := make([]item, 0, min(n, 16))
	users := 0
	for i := range n {
		e := b[32+32*i:]
		at := off + 32 + 32*int64(i)
		var it item
		copy(it.ID[:], e)
		it.Offset = le.Uint32(e[16:])
		size := le.Uint32(e[20:])
		flags := le.Uint32(e[24:])
		it.User, it.Disk, it.Required = flags&flagUser != 0, flags&flagDisk != 0, flags&flagRequired != 0
		switch {
		case it.ID.IsZero():
			return nil, ErrMetadata.at(at, "metadata item %d has no identity", i)
		case seen[key{it.ID, it.User}]:
			return nil, ErrMetadata.at(at, "metadata item %v is listed twice", it.ID)
		case size > maxMetadataItem:
			return nil, ErrAbsurdSize.at(at+20, "metadata item %v claims %d bytes, more than 1 MiB", it.ID, size)
		case size == 0 && it.Offset != 0:
			return nil, ErrMetadata.at(at+16, "empty metadata item %v has offset %#x", it.ID, it.Offset)
		case size != 0 && (it.Offset < metadataTableSize || it.Offset > length || size > length-it.Offset):
			return nil, ErrMetadata.at(at+16, "metadata item %v (%#x+%#x) lies outside the metadata region", it.ID, it.Offset, size)
		case it.User && it.Required:
			return nil, ErrUnknownRequired.unsupported(at, "the file requires an unknown user metadata item %v", it.ID)
		}
		if it.User {
			if users++; users > 1024 {
				return nil, ErrAbsurdSize.at(at, "more than 1024 user metadata items")
			}
		}
		seen[key{it.ID, it.User}] = true
		it.Length = size
		items = append(items, it)
	}
	for i, a := range items {
		for _, b := range items[:i] {
			if a.Length > 0 && b.Length > 0 && a.Offset < b.Offset+b.Length && b.Offset < a.Offset+a.Length {
				return nil, ErrOverlap.at(off, "metadata items %v and %v overlap", b.ID, a.ID)
			}
		}
	}
	return items, nil
}

// encodeMetadata lays the table and the items out; it sets each item's Offset. The
// result is as long as it need be, in whole MiB.
func encodeMetadata(items []item) []byte {
	b := make([]byte, metadataTableSize)
	for i := range items {
		it := &items[i]
		it.Offset, it.Length = 0, uint32(len(it.Data))
		if it.Length > 0 {
			it.Offset = uint32(len(b))
			b = append(b, it.Data...)
			b = append(b, make([]byte, -len(b)&7)...)
		}
	}
	copy(b, encodeMetadataTable(items))
	return append(b, make([]byte, int(roundUp(int64(len(b)), mib))-len(b))...)
}

// encodeMetadataTable makes the table of items that have their place.
func encodeMetadataTable(items []item) []byte {
	b := make([]byte, metadataTableSize)
	copy(b, "metadata")
	le.PutUint16(b[10:], uint16(len(items)))
	for i := range items {
		it := &items[i]
		e := b[32+32*i:]
		copy(e, it.ID[:])
		le.PutUint32(e[16:], it.Offset)
		le.PutUint32(e[20:], it.Length)
		var f uint32
		if it.User {
			f |= flagUser
		}
		if it.Disk {
			f |= flagDisk
		}
		if it.Required {
			f |= flagRequired
		}
		le.PutUint32(e[24:], f)
	}
	return b
}

// items are the required metadata of a new file (2.6.2).
func (p *params) items() []item {
	fp := make([]byte, 8)
	le.PutUint32(fp, p.BlockSize)
	if p.LeaveAllocated {
		fp[4] |= 1
	}
	if p.HasParent {
		fp[4] |= 2
	}
	size := le.AppendUint64(nil, p.DiskSize)
	return []item{
		{ID: itemFileParameters, Required: true, Data: fp},
		{ID: itemDiskSize, Disk: true, Required: true, Data: size},
		{ID: itemPage83, Disk: true, Required: true, Data: append([]byte(nil), p.Page83[:]...)},
		{ID: itemLogicalSector, Disk: true, Required: true, Data: le.AppendUint32(nil, p.LogicalSector)},
		{ID: itemPhysicalSector, Disk: true, Required: true, Data: le.AppendUint32(nil, p.PhysicalSector)},
	}
}

// parseParams takes the known items apart and refuses unknown required ones. base
// is where the metadata region lies in the file, for errors.
func parseParams(items []item, base int64) (p params, locator []byte, err error) {
	known := map[GUID]int{itemFileParameters: 8, itemDiskSize: 8, itemPage83: 16, itemLogicalSector: 4, itemPhysicalSector: 4, itemParentLocator: -1}
	at := map[GUID]int64{}
	for _, it := range items {
		size, ok := known[it.ID]
		off := base + int64(it.Offset)
		if it.User {
			continue
		}
		if !ok {
			if it.Required {
				return p, nil, ErrUnknownRequired.unsupported(off, "the file requires an unknown metadata item %v", it.ID)
			}
			continue
		}
		if size >= 0 && len(it.Data) != size {
			return p, nil, ErrMetadata.at(off, "metadata item %v has %d bytes, not %d", it.ID, len(it.Data), size)
		}
		at[it.ID] = off
		switch it.ID {
		case itemFileParameters:
			p.BlockSize = le.Uint32(it.Data)
			p.LeaveAllocated, p.HasParent = it.Data[4]&1 != 0, it.Data[4]&2 != 0
		case itemDiskSize:
			p.DiskSize = le.Uint64(it.Data)
		case itemPage83:
			copy(p.Page83[:], it.Data)
		case itemLogicalSector:
			p.LogicalSector = le.Uint32(it.Data)
		case itemPhysicalSector:
			p.PhysicalSector = le.Uint32(it.Data)
		case itemParentLocator:
			locator = it.Data
		}
	}
	for _, id := range []GUID{itemFileParameters, itemDiskSize, itemPage83, itemLogicalSector, itemPhysicalSector} {
		if _, ok := at[id]; !ok {
			return p, nil, ErrMetadata.at(base, "required metadata item %v is missing", id)
		}
	}
	if err := p.check(); err != nil {
		return p, nil, ErrAbsurdSize.at(base, "%v", err)
	}
	if _, ok := at[itemParentLocator]; ok != p.HasParent {
		if p.HasParent {
			return p, nil, ErrLocator.at(base, "the file has a parent but no parent locator")
		}
		return p, nil, ErrLocator.at(at[itemParentLocator], "a parent locator in a file without a parent")
	}
	return p, locator, nil
}
