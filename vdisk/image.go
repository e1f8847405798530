package vdisk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Options of Open.
type Options struct {
	ReadOnly bool
	// Parent opens the file that a differencing image names, trying the
	// locator's paths in the order of section 2.6.2.6; nil refuses such images.
	Parent func(paths []ParentPath) (Backing, error)
	// MetaPages bounds the metadata held in memory, in pages of 4 KiB; zero
	// means 4096.
	MetaPages int
	// Capacity of a backing that can not grow, such as a partition; zero if it
	// can. A backing with a method Capacity() int64 says it itself.
	Capacity int64
	depth    int
	salvage  bool   // open what findSpace would refuse: only Repair does
	over     *Image // the parent, open already: only a snapshot has it
	orphan   bool   // go without the parent: only Check and Repair do, which read none of its data
}

// A ParentPath is one of a locator's entries.
type ParentPath struct {
	Kind string // relative_path, volume_path or absolute_win32_path
	Path string
}

const maxChain = 256

// An Image is an open VHDX.
type Image struct {
	b  Backing // as seen through a replayed log where that lives in memory
	ro bool
	// zeroMost is maxZeroes, but for tests.
	zeroMost int
	// salvage: a repair takes what an opening would refuse.
	salvage bool

	p       params
	g       geometry
	regions []region
	items   []item
	batOff  int64
	parent  *Image
	creator string

	itemsMu sync.Mutex // over the variable items; who changes it holds reshape as well

	hdrMu sync.Mutex
	hdr   header
	which int // the copy in force, 0 or 1
	// loose: the copy in force may not be durable yet, so the other one, which
	// is, must stay.
	loose bool
	// nextData is what the data's identity becomes when it changes; a new one
	// if zero.
	nextData GUID

	meta   metaCache
	j      journal
	space  space
	commit committer

	// blocks serializes changes of a block's state (Lock) with transfers to and
	// from its payload (RLock), by block number modulo their count.
	blocks  [64]sync.RWMutex
	bitmaps sync.Mutex // allocation of sector bitmaps
	reshape sync.Mutex // one change of the image's layout at a time: resize, compaction; before blocks
	moving  atomic.Pointer[blockMove]
	mirror  *batMirror // where the BAT is being copied to; for whoever runs a commit

	session atomic.Uint32 // sessionNone, sessionFile or sessionData
	failed  atomic.Pointer[error]
	closed  atomic.Bool
	diskSz  atomic.Uint64 // p.DiskSize, which a resize changes
}

// What a session has changed so far (2.2.2: FileWriteGuid, DataWriteGuid).
const (
	sessionNone uint32 = iota
	sessionFile        // the file, but nothing a guest could see
	sessionData
)

// Open opens the image in b, which it owns from then on, also if it fails.
func Open(b Backing, o Options) (im *Image, err error) {
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if o.depth > maxChain {
		return nil, ErrCircularParents.unsupported(0, "a chain of more than %d parents: most likely it leads back to itself", maxChain)
	}
	im = &Image{b: b, ro: o.ReadOnly, salvage: o.salvage}
	size, err := b.Size()
	if err != nil {
		return nil, err
	}
	if size < headerSectionSize {
		return nil, ErrTruncated.at(size, "the file ends within its headers")
	}
	head := make([]byte, 3*headerSize) // the identifier and both headers
	for i, off := range []int64{fileIDOffset, headerOffset1, headerOffset2} {
		if _, err := b.ReadAt(head[i*headerSize:][:headerSize], off); err != nil {
			return nil, fmt.Errorf("vdisk: headers: %w", err)
		}
	}
	if string(head[:8]) != "vhdxfile" {
		return nil, ErrNotVHDX.at(0, "the file does not begin with \"vhdxfile\"")
	}
	im.creator = creator(head)
	if im.hdr, im.which, err = currentHeader(head[headerSize:][:headerSize], head[2*headerSize:]); err != nil {
		return nil, err
	}
	if !im.hdr.LogGUID.IsZero() {
		if err := im.replay(size); err != nil {
			return nil, err
		}
		if size, err = im.b.Size(); err != nil {
			return nil, err
		}
	}
	if err := im.readRegions(size); err != nil {
		return nil, err
	}
	im.diskSz.Store(im.p.DiskSize)
	im.meta.limit = o.MetaPages
	if im.meta.limit == 0 {
		im.meta.limit = defaultMetaPages
	}
	im.meta.read = func(p []byte, off int64) error { _, err := im.b.ReadAt(p, off); return err }
	if c, ok := b.(interface{ Capacity() int64 }); ok && o.Capacity == 0 {
		o.Capacity = c.Capacity()
	}
	if o.Capacity != 0 {
		size = o.Capacity
	}
	im.space = space{b: b, limit: o.Capacity, size: size}
	if !im.ro && !o.salvage {
		if err := im.findSpace(size); err != nil {
			return nil, err
		}
	}
	if o.Capacity != 0 {
		// Nothing is allocated within a last part of a MiB, and the log can not
		// name a size there.
		size -= size % mib
		im.space.limit, im.space.size = size, size
	}
	im.j = journal{b: b, off: int64(im.hdr.LogOffset), length: int64(im.hdr.LogLength), flushed: size}
	if o.over != nil {
		im.parent = o.over
	} else if im.p.HasParent && !o.orphan {
		if err := im.openParent(o); err != nil {
			return nil, err
		}
	}
	return im, nil
}

// readRegions reads the region table, the metadata and where the BAT is.
func (im *Image) readRegions(size int64) error {
	b := make([]byte, regionTableSize)
	var errs [2]error
	var rs []region
	for i, off := range []int64{regionOffset1, regionOffset2} {
		if _, err := im.b.ReadAt(b, off); err != nil {
			return fmt.Errorf("vdisk: region table: %w", err)
		}
		if rs, errs[i] = decodeRegions(b, off); errs[i] == nil {
			break
		}
	}
	if errs[0] != nil && errs[1] != nil {
		return errors.Join(errs[0], errs[1])
	}
	im.regions = rs
	if im.hdr.LogLength != 0 && !im.salvage {
		for _, r := range rs {
			if r.Offset < im.hdr.LogOffset+uint64(im.hdr.LogLength) && im.hdr.LogOffset < r.Offset+uint64(r.Length) {
				return ErrOverlap.at(int64(r.Offset), "region %v overlaps the log (%#x+%#x)", r.ID, im.hdr.LogOffset, im.hdr.LogLength)
			}
		}
	}
	md, ok := findRegion(rs, regionMetadata)
	if !ok {
		return ErrRegions.at(regionOffset1, "the file has no metadata region")
	}
	bat, ok := findRegion(rs, regionBAT)
	if !ok {
		return ErrRegions.at(regionOffset1, "the file has no block allocation table")
	}
	for _, r := range rs {
		if r.Required && int64(r.Offset)+int64(r.Length) > roundUp(size, mib) {
			return ErrTruncated.at(int64(r.Offset), "region %v (%#x+%#x) lies beyond the file's end %#x: the file was truncated", r.ID, r.Offset, r.Length, size)
		}
	}
	if _, err := im.b.ReadAt(b, int64(md.Offset)); err != nil {
		return fmt.Errorf("vdisk: metadata table: %w", err)
	}
	items, err := decodeMetadataTable(b, md.Length, int64(md.Offset))
	if err != nil {
		return err
	}
	total := 0
	for i := range items {
		it := &items[i]
		if total += int(it.Length); total > 64*mib {
			return ErrAbsurdSize.at(int64(md.Offset), "more than 64 MiB of metadata")
		}
		it.Data = make([]byte, it.Length)
		if it.Length == 0 {
			continue
		}
		if _, err := im.b.ReadAt(it.Data, int64(md.Offset)+int64(it.Offset)); err != nil {
			return fmt.Errorf("vdisk: metadata item %v: %w", it.ID, err)
		}
	}
	im.items = items
	var loc []byte
	if im.p, loc, err = parseParams(items, int64(md.Offset)); err != nil {
		return err
	}
	if loc != nil {
		if _, err := decodeLocator(loc, int64(md.Offset)); err != nil {
			return err
		}
	}
	im.g = im.p.geometry()
	if uint64(bat.Length) < 8*im.g.entries {
		return ErrAbsurdSize.at(int64(bat.Offset), "the block allocation table has room for %d entries; the disk needs %d", bat.Length/8, im.g.entries)
	}
	im.batOff = int64(bat.Offset)
	return nil
}

// entry reads block n's BAT entry and checks what it says.
func (im *Image) entry(n uint64) (batEntry, error) {
	off := im.batOff + 8*int64(im.g.batIndex(n))
	w, err := im.meta.word(off)
	if err != nil {
		return 0, err
	}
	e := batEntry(w)
	switch e.state() {
	case notPresent, undefined, zeroed, unmapped:
	case partial, present:
		if e.state() == partial && !im.p.HasParent {
			return 0, ErrBlockState.at(off, "block %d is partially present in an image without a parent", n)
		}
		if e.offset() < headerSectionSize {
			return 0, ErrBlockPlace.at(off, "block %d lies at %#x, among the headers", n, e.offset())
		}
	default:
		return 0, ErrBlockState.at(off, "block %d has reserved state %d", n, e.state())
	}
	return e, nil
}

// lookup is entry for those who hold no block's lock; there is false behind the
// disk's last block.
func (im *Image) lookup(n uint64) (e batEntry, there bool, err error) {
	l := &im.blocks[n%uint64(len(im.blocks))]
	l.RLock()
	defer l.RUnlock()
	if n >= im.g.blocks {
		return 0, false, nil
	}
	e, err = im.entry(n)
	return e, true, err
}

// fail makes err the answer to all further writes: memory is ahead of the file and
// only opening it again tells what arrived.
func (im *Image) fail(err error) error {
	if err != nil {
		e := err // its own, so that no error costs nothing
		im.failed.CompareAndSwap(nil, &e)
	}
	return err
}

func (im *Image) writable() error {
	switch f := im.failed.Load(); {
	case im.closed.Load():
		return ErrClosed
	case im.ro:
		return ErrReadOnly
	case f != nil:
		return fmt.Errorf("vdisk: an earlier write failed, so nothing more is written until the image is opened again: %w", *f)
	}
	return nil
}

// begin is called before the file is changed; data says that a guest could see the
// change.
func (im *Image) begin(data bool) error {
	want := sessionFile
	if data {
		want = sessionData
	}
	if im.session.Load() >= want {
		return nil
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	have := im.session.Load()
	if have >= want {
		return nil
	}
	h := im.hdr
	if have == sessionNone {
		h.FileWriteGUID = NewGUID()
	}
	if data {
		if h.DataWriteGUID = im.nextData; h.DataWriteGUID.IsZero() {
			h.DataWriteGUID = NewGUID()
		}
	}
	if err := im.writeHeaders(h, true); err != nil {
		return im.fail(err)
	}
	im.session.Store(want)
	return nil
}

// writeHeaders replaces both headers, one after the other, so that one is valid at
// every moment (2.2.2). The first is durable when it returns; the second, which says
// the same, becomes so with the next flush if that may be later. hdrMu is held.
func (im *Image) writeHeaders(h header, later bool) error {
	for range 2 {
		if err := im.hardenHeader(); err != nil {
			return err
		}
		h.Sequence = im.hdr.Sequence + 1
		off := int64(headerOffset1)
		if im.which == 0 {
			off = headerOffset2
		}
		if _, err := im.b.WriteAt(h.encode(), off); err != nil {
			return fmt.Errorf("vdisk: header at %#x: %w", off, err)
		}
		im.hdr, im.which, im.loose = h, 1-im.which, true
	}
	if later {
		return nil
	}
	return im.hardenHeader()
}

// hardenHeader makes the header in force durable. hdrMu is held.
func (im *Image) hardenHeader() error {
	if !im.loose {
		return nil
	}
	if err := im.b.Flush(); err != nil {
		return fmt.Errorf("vdisk: headers: %w", err)
	}
	im.loose = false
	return nil
}

// headerNow is the sequence number of the header in force.
func (im *Image) headerNow() uint64 {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	return im.hdr.Sequence
}

// flushedSince says that the file was flushed after headerNow gave that answer.
// hdrMu is held.
func (im *Image) flushedSince(header uint64) { im.loose = im.loose && im.hdr.Sequence != header }

// Size is the virtual disk's, in bytes.
func (im *Image) Size() int64 { return int64(im.diskSz.Load()) }

// SectorSize is the virtual disk's logical one.
func (im *Image) SectorSize() int { return int(im.p.LogicalSector) }

// BlockSize is the unit of allocation.
func (im *Image) BlockSize() int { return int(im.p.BlockSize) }

// HasParent tells a differencing image.
func (im *Image) HasParent() bool { return im.p.HasParent }
