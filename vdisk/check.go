package vdisk

import (
	"errors"
	"fmt"
)

// A Finding is one thing that Check says about an image.
type Finding struct {
	// Damage is what makes data wrong or unreachable; the rest is waste, or
	// what the next opening for writing repairs by itself.
	Damage bool   `json:"damage"`
	Text   string `json:"text"`
}

// maxFindings bounds what Check reports one by one.
const maxFindings = 1000

// Check looks at everything in an image without changing it. The error is about not
// being able to look; what is wrong with the image is in the findings. A log in use
// is replayed in memory first, as an opening would.
func Check(b Backing, o Options) (fs []Finding, err error) {
	defer b.Close()
	add := func(damage bool, format string, args ...any) {
		if len(fs) < maxFindings {
			fs = append(fs, Finding{damage, fmt.Sprintf(format, args...)})
		}
	}
	judged := func(err error) error {
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported) {
			add(true, "%v", err)
			return nil
		}
		return err
	}
	size, err := b.Size()
	if err != nil {
		return nil, err
	}
	o.ReadOnly = true
	keep := &unclosed{b}
	im, err := Open(keep, o)
	if err != nil {
		if err := judged(err); err != nil {
			return fs, err
		}
		// If it is only the parent, the rest can be looked at all the same.
		o.orphan = true
		if im, err = Open(keep, o); err != nil {
			return fs, nil
		}
	}
	defer im.Close()
	checkHeaders(b, add)
	if !im.hdr.LogGUID.IsZero() {
		checkLog(b, &im.hdr, add)
	}
	if im.Size() < 0 {
		return fs, nil
	}
	seen, _ := im.b.Size() // with what a replay adds
	size = max(size, seen)
	u, err := im.scan(size, judged)
	if err != nil {
		return fs, judged(err)
	}
	leaked := int64(0)
	u.free(min(size, max(u.end, size))&^(mib-1), func(_, n int64) { leaked += n })
	if leaked > 0 {
		add(false, "%d MiB of the file belong to nothing; the next opening for writing uses them again", leaked/mib)
	}
	if im.p.HasParent {
		for c := range im.g.chunks {
			if err := judged(im.checkBitmap(c, add)); err != nil {
				return fs, err
			}
		}
	}
	return fs, nil
}

// unclosed outlives the image that is opened on it.
type unclosed struct{ Backing }

func (unclosed) Close() error { return nil }

// checkHeaders looks at the copies that an opening does not need.
func checkHeaders(b Backing, add func(bool, string, ...any)) {
	p := make([]byte, regionTableSize)
	var tables [2][]region
	var errs [2]error
	for i, off := range []int64{headerOffset1, headerOffset2} {
		if _, err := b.ReadAt(p[:headerSize], off); err != nil {
			add(true, "header %d at %#x: %v", i+1, off, err)
		} else if _, _, _, ok := decodeHeader(p[:headerSize]); !ok {
			add(false, "header %d at %#x is not valid, the other one is used; the next opening for writing renews it", i+1, off)
		}
	}
	for i, off := range []int64{regionOffset1, regionOffset2} {
		if _, errs[i] = b.ReadAt(p, off); errs[i] == nil {
			tables[i], errs[i] = decodeRegions(p, off)
		}
		if errs[i] != nil {
			add(true, "region table %d at %#x: %v; the other one is used", i+1, off, errs[i])
		}
	}
	if errs[0] == nil && errs[1] == nil {
		same := len(tables[0]) == len(tables[1])
		for i := 0; same && i < len(tables[0]); i++ {
			same = tables[0][i] == tables[1][i]
		}
		if !same {
			add(true, "the region tables at %#x and %#x differ; the first is used", regionOffset1, regionOffset2)
		}
	}
}

// checkLog says what a log in use holds.
func checkLog(b Backing, h *header, add func(bool, string, ...any)) {
	l := logReader{b, int64(h.LogOffset), int64(h.LogLength)}
	s, err := l.findSequence(h.LogGUID)
	if err != nil {
		return // Open has said so
	}
	add(false, "the file was not closed: its log holds %d entries, which were replayed in memory for this check; opening it for writing replays them for good", len(s.entries))
	var p [logHeaderSize]byte
	if l.read(p[:], s.head) == nil && string(p[:4]) == "loge" && GUID(p[32:48]) == h.LogGUID {
		if seq := le.Uint64(p[16:]); seq > s.entries[len(s.entries)-1].seq {
			add(false, "log entry %d at %#x is torn: it was being written when the machine stopped, and is rightly ignored", seq, l.off+s.head)
		}
	}
}

// checkBitmap looks at what the sector bitmap of one chunk says.
func (im *Image) checkBitmap(c uint64, add func(bool, string, ...any)) error {
	at := im.batOff + 8*int64(im.g.bitmapIndex(c))
	w, err := im.meta.word(at)
	if err != nil {
		return err
	}
	has := batEntry(w).state() == present
	for n := c * im.g.chunkRatio; n < min((c+1)*im.g.chunkRatio, im.g.blocks); n++ {
		e, err := im.entry(n)
		if err != nil || e.state() != partial {
			continue // scan has said so
		}
		if !has {
			add(true, "offset %#x: block %d is partially present, but chunk %d has no sector bitmap", at, n, c)
			continue
		}
		here, all := int64(0), int64(0)
		if err := im.runs(n, 0, int64(im.p.BlockSize), func(_, n int64, h bool) error {
			all += n
			if h {
				here += n
			}
			return nil
		}); err != nil {
			return err
		}
		switch bs := int64(im.p.BlockSize); {
		case here == 0:
			add(false, "block %d is partially present with no sector of its own: its %d MiB are wasted", n, bs/mib)
		case all != bs:
			add(true, "block %d: its sector bitmap describes %d bytes, not %d", n, all, bs)
		}
	}
	return nil
}

// Info is what there is to say about an image.
type Info struct {
	Size           int64    `json:"size"`
	FileSize       int64    `json:"file_size"`
	Kind           string   `json:"kind"` // fixed, dynamic or differencing
	BlockSize      int      `json:"block_size"`
	LogicalSector  int      `json:"logical_sector"`
	PhysicalSector int      `json:"physical_sector"`
	Blocks         uint64   `json:"blocks"`
	Allocated      uint64   `json:"allocated_blocks"`
	LogSize        int64    `json:"log_size"`
	LogInUse       bool     `json:"log_in_use"`
	Creator        string   `json:"creator"`
	FileWriteGUID  string   `json:"file_write_guid"`
	DataWriteGUID  string   `json:"data_write_guid"`
	DiskID         string   `json:"disk_id"`
	Parents        []string `json:"parent_paths,omitempty"`
}

// Info reads the whole BAT.
func (im *Image) Info() (Info, error) {
	i := Info{
		Size: im.Size(), Kind: "dynamic", BlockSize: im.BlockSize(), LogicalSector: im.SectorSize(),
		PhysicalSector: int(im.p.PhysicalSector), Blocks: im.g.blocks, LogSize: int64(im.hdr.LogLength), LogInUse: !im.hdr.LogGUID.IsZero(),
		Creator: im.creator, FileWriteGUID: im.hdr.FileWriteGUID.String(), DataWriteGUID: im.hdr.DataWriteGUID.String(), DiskID: im.p.Page83.String(),
	}
	switch {
	case im.p.HasParent:
		i.Kind = "differencing"
	case im.p.LeaveAllocated:
		i.Kind = "fixed"
	}
	for _, it := range im.items {
		if it.ID == itemParentLocator && !it.User {
			if l, err := decodeLocator(it.Data, 0); err == nil {
				for _, k := range []string{keyRelative, keyVolume, keyAbsolute} {
					if l[k] != "" {
						i.Parents = append(i.Parents, k+": "+l[k])
					}
				}
			}
		}
	}
	var err error
	if i.FileSize, err = im.b.Size(); err != nil {
		return i, err
	}
	for n := range im.g.blocks {
		e, err := im.entry(n)
		if err != nil {
			return i, err
		}
		if e.state() == present || e.state() == partial {
			i.Allocated++
		}
	}
	return i, nil
}

// An Extent is a part of the disk that is alike.
type Extent struct {
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	State  string `json:"state"`
	File   int64  `json:"file_offset,omitempty"` // of blocks that have a place
	// Zero says that it reads as zero without looking.
	Zero bool `json:"zero"`
}

// Extents calls f for each extent from off on, in order. Blocks that follow each
// other on the disk and in the file are one.
func (im *Image) Extents(off int64, f func(Extent) error) error {
	bs := int64(im.p.BlockSize)
	var cur Extent
	for n := uint64(off / bs); n < im.g.blocks; n++ {
		e, err := im.entry(n)
		if err != nil {
			return err
		}
		x := Extent{Offset: int64(n) * bs, Length: min(bs, im.Size()-int64(n)*bs), State: e.state().String()}
		if e.state() == present || e.state() == partial {
			x.File = e.offset()
		} else {
			x.Zero = e.state() != notPresent || im.parent == nil
		}
		if cur.Length > 0 && cur.State == x.State && (x.File == 0 || x.File == cur.File+cur.Length) {
			cur.Length += x.Length
			continue
		}
		if cur.Length > 0 {
			if err := f(cur); err != nil {
				return err
			}
		}
		cur = x
	}
	if cur.Length > 0 {
		return f(cur)
	}
	return nil
}
