package vdisk

import (
	"fmt"
)

// CreateOptions describe a new image.
type CreateOptions struct {
	Size           int64 // of the virtual disk
	BlockSize      int   // zero: 32 MiB, differencing images 2 MiB
	LogicalSector  int   // zero: 512
	PhysicalSector int   // zero: 4096
	LogSize        int64 // zero: 1 MiB
	Fixed          bool  // all blocks have their place from the start
	Creator        string
	// Parent makes a differencing image of this one; ParentPaths say where it
	// is to be found again.
	Parent      *Image
	ParentPaths []ParentPath
}

// Create writes a new, empty image to b. Whatever b held is lost.
func Create(b Backing, o CreateOptions) error {
	p := params{
		BlockSize: uint32(o.BlockSize), LeaveAllocated: o.Fixed, DiskSize: uint64(o.Size), Page83: NewGUID(),
		LogicalSector: uint32(o.LogicalSector), PhysicalSector: uint32(o.PhysicalSector),
	}
	if o.Size < 0 || o.BlockSize < 0 || o.LogicalSector < 0 || o.PhysicalSector < 0 || o.LogSize < 0 {
		return fmt.Errorf("vdisk: create: a size is negative")
	}
	var extra []item
	if o.Parent != nil {
		if o.Fixed {
			return fmt.Errorf("vdisk: create: a differencing image can not be fixed")
		}
		p.HasParent = true
		if p.DiskSize == 0 {
			p.DiskSize = uint64(o.Parent.Size())
		}
		if p.LogicalSector == 0 {
			p.LogicalSector = o.Parent.p.LogicalSector
		}
		if p.LogicalSector != o.Parent.p.LogicalSector {
			return fmt.Errorf("vdisk: create: sectors of %d bytes over a parent with sectors of %d", p.LogicalSector, o.Parent.p.LogicalSector)
		}
		if p.PhysicalSector == 0 {
			p.PhysicalSector = o.Parent.p.PhysicalSector
		}
		l := locator{keyLinkage: linkage(o.Parent.hdr.DataWriteGUID)}
		for _, path := range o.ParentPaths {
			l[path.Kind] = path.Path
		}
		data, err := l.encode()
		if err != nil {
			return err
		}
		extra = append(extra, item{ID: itemParentLocator, Required: true, Data: data})
	}
	if p.BlockSize == 0 {
		p.BlockSize = 32 * mib
		if p.HasParent {
			p.BlockSize = 2 * mib
		}
	}
	if p.LogicalSector == 0 {
		p.LogicalSector = 512
	}
	if p.PhysicalSector == 0 {
		p.PhysicalSector = 4096
	}
	if err := p.check(); err != nil {
		return fmt.Errorf("vdisk: create: %w", err)
	}
	if o.LogSize == 0 {
		o.LogSize = mib
	}
	if o.LogSize%mib != 0 || o.LogSize > maxLog {
		return fmt.Errorf("vdisk: create: a log of %d bytes; it is a multiple of 1 MiB up to 4 GiB", o.LogSize)
	}
	g := p.geometry()
	md := encodeMetadata(append(p.items(), extra...))
	logAt := int64(headerSectionSize)
	mdAt := logAt + o.LogSize
	batAt := mdAt + int64(len(md))
	batLen := batRoom(&p)
	end := batAt + batLen
	first := end
	if o.Fixed {
		end += int64(g.blocks) * int64(p.BlockSize)
	}
	if err := b.Truncate(0); err != nil {
		return err
	}
	kept, err := b.Size()
	if err != nil {
		return err
	}
	if err := b.Truncate(end); err != nil {
		return err
	}
	if kept != 0 {
		// A device keeps its bytes: no old header may outlive what it spoke of,
		// and no block may show them.
		from, to := int64(0), int64(headerSectionSize)
		for range 2 {
			for at := from; at < to; at += int64(len(zeroes)) {
				if _, err := b.WriteAt(zeroes[:min(to-at, int64(len(zeroes)))], at); err != nil {
					return fmt.Errorf("vdisk: create: offset %#x: %w", at, err)
				}
			}
			if err := b.Flush(); err != nil {
				return err
			}
			from, to = first, end
		}
	}
	if f, ok := b.(interface{ settle(n int64) error }); ok && kept == 0 {
		if err := f.settle(min(mdAt, 2*mib)); err != nil {
			return fmt.Errorf("vdisk: create: %w", err)
		}
	}
	regions := encodeRegions([]region{
		{ID: regionBAT, Offset: uint64(batAt), Length: uint32(batLen), Required: true},
		{ID: regionMetadata, Offset: uint64(mdAt), Length: uint32(len(md)), Required: true},
	})
	put := func(data []byte, off int64) error {
		if _, err := b.WriteAt(data, off); err != nil {
			return fmt.Errorf("vdisk: create: offset %#x: %w", off, err)
		}
		return nil
	}
	bat := batWriter{g: &g, p: &p, first: first, fixed: o.Fixed}
	if o.Fixed || !readsZero(b, batAt, batLen) {
		buf := make([]byte, mib)
		for at := int64(0); at < batLen; at += mib {
			bat.fill(buf)
			if err := put(buf, batAt+at); err != nil {
				return err
			}
		}
	}
	h := header{Sequence: 1, FileWriteGUID: NewGUID(), DataWriteGUID: NewGUID(), LogLength: uint32(o.LogSize), LogOffset: uint64(logAt)}
	// The headers come last: until they are there, the file is none of ours.
	for _, w := range []struct {
		data []byte
		off  int64
	}{{regions, regionOffset1}, {regions, regionOffset2}, {md, mdAt}} {
		if err := put(w.data, w.off); err != nil {
			return err
		}
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if err := put(encodeFileID(o.Creator), fileIDOffset); err != nil {
		return err
	}
	for _, off := range []int64{headerOffset1, headerOffset2} {
		if err := put(h.encode(), off); err != nil {
			return err
		}
		h.Sequence++
	}
	return b.Flush()
}

// batWriter makes the BAT of a new image, piece by piece.
type batWriter struct {
	g     *geometry
	p     *params
	first int64
	fixed bool
	at    uint64 // the next entry
}

func (w *batWriter) fill(b []byte) {
	clear(b)
	for i := 0; i < len(b); i, w.at = i+8, w.at+1 {
		if !w.fixed || w.at >= w.g.entries || (w.at+1)%(w.g.chunkRatio+1) == 0 {
			continue
		}
		n := w.at - w.at/(w.g.chunkRatio+1)
		le.PutUint64(b[i:], uint64(entry(present, w.first+int64(n)*int64(w.p.BlockSize))))
	}
}
