package vdisk

import (
	"errors"
	"fmt"
)

// A Finding is one thing that Check says about an image.
type Finding struct {
	Name     Flaw     `json:"name"`
	Severity Severity `json:"severity"`
	Damage   bool     `json:"damage"` // Severity is Damaged
	Offset   int64    `json:"offset"` // in the file: where it is written, or lies
	Text     string   `json:"text"`
	Do       string   `json:"do"` // what to do about it
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s at %#x: %s; %s", f.Severity, f.Name, f.Offset, f.Text, f.Do)
}

// maxFindings bounds what Check reports one by one.
const maxFindings = 1000

// findings gathers what a check finds.
type findings []Finding

func (fs *findings) add(f Flaw, off int64, format string, args ...any) {
	if len(*fs) < maxFindings {
		k := flaws[f]
		*fs = append(*fs, Finding{f, k.severity, k.severity == Damaged, off, fmt.Sprintf(format, args...), k.do})
	}
}

// judge makes findings of errors about damage, and passes others on.
func (fs *findings) judge(err error) error {
	var e *flawError
	if errors.As(err, &e) {
		text := e.text
		if whole := err.Error(); whole != e.Error() { // a parent's: say so
			text = whole
		}
		fs.add(e.flaw, e.off, "%s", text)
		return nil
	}
	if f, off, ok := flawOf(err); ok {
		fs.add(f, off, "%v", err)
		return nil
	}
	return err
}

// Check looks at everything in an image without changing it. The error is about not
// being able to look; what is wrong with the image is in the findings. A log in use
// is replayed in memory first, as an opening would.
func Check(b Backing, o Options) (list []Finding, err error) {
	defer b.Close()
	var fs findings
	size, err := b.Size()
	if err != nil {
		return nil, err
	}
	o.ReadOnly = true
	if c, ok := b.(interface{ Capacity() int64 }); ok && o.Capacity == 0 {
		o.Capacity = c.Capacity()
	}
	keep := &unclosed{b}
	im, err := Open(keep, o)
	if err != nil {
		if err := fs.judge(err); err != nil {
			return fs, err
		}
		// If it is only the parent, the rest can be looked at all the same.
		o.orphan = true
		if im, err = Open(keep, o); err != nil {
			if size >= headerSectionSize && fs[0].Name != ErrNotVHDX {
				checkHeaders(b, &fs)
			}
			return fs, nil
		}
	}
	defer im.Close()
	checkHeaders(im.b, &fs) // the region table's copies are in the log, too
	if !im.hdr.LogGUID.IsZero() {
		checkLog(b, &im.hdr, &fs)
	}
	if p := im.parent; p != nil && p.Size() < im.Size() {
		fs.add(flawParentSmaller, 0, "the disk has %d bytes, its parent's only %d", im.Size(), p.Size())
	}
	if im.hdr.LogLength == 0 {
		fs.add(ErrNoLog, im.headerAt()+68, "the file has no log, so its metadata can not be changed safely")
	}
	im.checkItems(&fs)
	seen, _ := im.b.Size() // with what a replay adds
	size = max(size, seen)
	u, err := im.scan(size, fs.judge)
	if err != nil {
		return fs, fs.judge(err)
	}
	end := size
	if o.Capacity != 0 {
		end = min(size, u.end) // of a partition, the rest is not wasted
	}
	u.free(end&^(mib-1), func(off, n int64) {
		fs.add(flawLeak, off, "%d MiB of the file belong to nothing", n/mib)
	})
	if err := im.checkEntries(size, &fs); err != nil {
		return fs, err
	}
	if im.p.HasParent {
		for c := range im.g.chunks {
			if err := im.checkBitmap(c, size, &fs); err != nil {
				return fs, err
			}
		}
	}
	return fs, nil
}

// unclosed outlives the image that is opened on it.
type unclosed struct{ Backing }

func (unclosed) Close() error { return nil }

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
	im.hdrMu.Lock()
	i := Info{
		Size: im.Size(), Kind: "dynamic", BlockSize: im.BlockSize(), LogicalSector: im.SectorSize(),
		PhysicalSector: int(im.p.PhysicalSector), LogSize: int64(im.hdr.LogLength), LogInUse: !im.hdr.LogGUID.IsZero(),
		Creator: im.creator, FileWriteGUID: im.hdr.FileWriteGUID.String(), DataWriteGUID: im.hdr.DataWriteGUID.String(), DiskID: im.p.Page83.String(),
	}
	im.hdrMu.Unlock()
	switch {
	case im.p.HasParent:
		i.Kind = "differencing"
	case im.p.LeaveAllocated:
		i.Kind = "fixed"
	}
	im.itemsMu.Lock()
	items := im.items
	im.itemsMu.Unlock()
	for _, it := range items {
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
	for n := uint64(0); ; n++ {
		e, there, err := im.lookup(n)
		if err != nil {
			return i, err
		}
		if !there {
			i.Blocks = n
			break
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
	for n := uint64(off / bs); ; n++ {
		e, there, err := im.lookup(n)
		if err != nil {
			return err
		}
		if !there || int64(n)*bs >= im.Size() {
			break
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
