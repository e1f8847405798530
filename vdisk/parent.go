package vdisk

import "fmt"

// openParent opens the file below a differencing image and checks that it is the
// one meant (2.6.2.6).
func (im *Image) openParent(o Options) error {
	var l locator
	for _, it := range im.items {
		if it.ID == itemParentLocator && !it.User {
			var err error
			if l, err = decodeLocator(it.Data, 0); err != nil {
				return err
			}
		}
	}
	var paths []ParentPath
	for _, k := range []string{keyRelative, keyVolume, keyAbsolute} {
		if v := l[k]; v != "" {
			paths = append(paths, ParentPath{k, v})
		}
	}
	if o.Parent == nil {
		return fmt.Errorf("%w: the image has a parent (%v) and nothing was given to find it with", ErrUnsupported, paths)
	}
	b, err := o.Parent(paths)
	if err != nil {
		return fmt.Errorf("vdisk: parent %v: %w", paths, err)
	}
	o.ReadOnly, o.Capacity = true, 0
	o.depth++
	parent, err := Open(b, o)
	if err != nil {
		return fmt.Errorf("vdisk: parent %v: %w", paths, err)
	}
	switch {
	case !l.linked(parent.hdr.DataWriteGUID):
		err = fmt.Errorf("%w: the parent %v was changed after this image was made from it (it is %v, %v is wanted); find the unchanged file",
			ErrCorrupt, paths, parent.hdr.DataWriteGUID, l[keyLinkage])
	case parent.p.LogicalSector != im.p.LogicalSector:
		err = fmt.Errorf("%w: the parent %v has sectors of %d bytes, this image of %d", ErrCorrupt, paths, parent.p.LogicalSector, im.p.LogicalSector)
	}
	if err != nil {
		parent.Close()
		return err
	}
	im.parent = parent
	return nil
}
