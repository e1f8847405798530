package vdisk

import (
	"errors"
	"fmt"
	"io/fs"
)

// openParent opens the file below a differencing image and checks that it is the
// one meant (2.6.2.6).
func (im *Image) openParent(o Options) error {
	l, at, err := im.locator()
	if err != nil {
		return err
	}
	paths := l.paths()
	if o.Parent == nil {
		return ErrParentMissing.unsupported(at, "the image has a parent (%v) and nothing was given to find it with", paths)
	}
	b, err := o.Parent(paths)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ErrParentMissing.unsupported(at, "parent %v: %v", paths, err)
		}
		return fmt.Errorf("vdisk: parent %v: %w", paths, err)
	}
	o.ReadOnly, o.Capacity = true, 0
	o.depth++
	parent, err := Open(b, o)
	if err != nil {
		return fmt.Errorf("vdisk: parent %v: %w", paths, err)
	}
	if err := im.fits(parent, l, at); err != nil {
		parent.Close()
		return err
	}
	im.parent = parent
	return nil
}

// locator reads the item that says where the parent is; at is its place in the file.
func (im *Image) locator() (l locator, at int64, err error) {
	for _, it := range im.items {
		if it.ID == itemParentLocator && !it.User {
			if md, ok := findRegion(im.regions, regionMetadata); ok {
				at = int64(md.Offset) + int64(it.Offset)
			}
			l, err = decodeLocator(it.Data, at)
		}
	}
	return l, at, err
}

// paths are where the parent may be, in the order to try them.
func (l locator) paths() (paths []ParentPath) {
	for _, k := range []string{keyRelative, keyVolume, keyAbsolute} {
		if v := l[k]; v != "" {
			paths = append(paths, ParentPath{k, v})
		}
	}
	return paths
}

// fits refuses a parent that is not the one meant.
func (im *Image) fits(parent *Image, l locator, at int64) error {
	switch {
	case !l.linked(parent.hdr.DataWriteGUID):
		return ErrParentChanged.at(at, "the parent %v was changed after this image was made from it (it is %v, %v is wanted); find the unchanged file",
			l.paths(), parent.hdr.DataWriteGUID, l[keyLinkage])
	case parent.p.LogicalSector != im.p.LogicalSector:
		return ErrParentSectors.at(at, "the parent %v has sectors of %d bytes, this image of %d", l.paths(), parent.p.LogicalSector, im.p.LogicalSector)
	}
	return nil
}
