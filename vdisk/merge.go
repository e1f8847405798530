package vdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// CommitOptions of Commit.
type CommitOptions struct {
	// Parent opens the child's parent for writing, Ancestors what that is
	// based on, read-only: both as Options.Parent does.
	Parent    func(paths []ParentPath) (Backing, error)
	Ancestors func(paths []ParentPath) (Backing, error)
	// Progress is called now and then, with bytes of the child's disk.
	Progress func(done, total int64)
}

// Committed is what Commit did.
type Committed struct {
	Size    int64 `json:"size"`    // of the parent's disk now
	Written int64 `json:"written"` // bytes of data
	Zeroed  int64 `json:"zeroed"`  // bytes that became zero
}

// ErrNoParent answers a commit of an image that is no child.
var ErrNoParent = errors.New("the image has no parent")

// Commit writes what a child holds into its parent, which then reads as the child
// does. The child stays as it is, and reads the same at every moment: of what the
// parent gains, it has its own. It may be removed afterwards. A parent that was
// changed since the child was made is refused.
//
// After a crash, or when ctx has ended, Commit may simply be called again. For this,
// the identity that the parent's data will get is in the child, as parent_linkage2
// (2.6.2.6.3), before the parent changes. Other children of the parent do not fit it
// any more.
func Commit(ctx context.Context, b Backing, o CommitOptions) (done Committed, err error) {
	child, err := Open(b, Options{orphan: true})
	if err != nil {
		return done, err
	}
	defer func() {
		err = errors.Join(err, child.Close())
	}()
	if !child.p.HasParent {
		return done, fmt.Errorf("vdisk: commit: %w", ErrNoParent)
	}
	l, at, err := child.locator()
	if err != nil {
		return done, err
	}
	pb, err := o.Parent(l.paths())
	if err != nil {
		return done, fmt.Errorf("vdisk: parent %v: %w", l.paths(), err)
	}
	parent, err := Open(pb, Options{Parent: o.Ancestors})
	if err != nil {
		return done, fmt.Errorf("vdisk: parent %v: %w", l.paths(), err)
	}
	if err := child.fits(parent, l, at); err != nil {
		return done, errors.Join(err, parent.Close())
	}
	parent.nextData = NewGUID()
	if err := child.relink(l, parent.hdr.DataWriteGUID, parent.nextData); err != nil {
		return done, errors.Join(err, parent.Close())
	}
	done, err = child.mergeInto(ctx, parent, o.Progress)
	if err = errors.Join(err, parent.Close()); err != nil {
		return done, err
	}
	return done, child.relink(l, parent.nextData, GUID{})
}

// relink says which identities a parent may have; second may be none.
func (im *Image) relink(l locator, first, second GUID) error {
	l[keyLinkage] = linkage(first)
	delete(l, keyLinkage2)
	if !second.IsZero() {
		l[keyLinkage2] = linkage(second)
	}
	data, err := l.encode()
	if err != nil {
		return err
	}
	im.reshape.Lock()
	defer im.reshape.Unlock()
	next := append([]item(nil), im.items...)
	for i := range next {
		if it := &next[i]; it.ID == itemParentLocator && !it.User {
			it.Data = data
		}
	}
	if err := im.begin(false); err != nil {
		return err
	}
	return im.storeItems(next)
}

// mergeInto writes all that this image holds itself to its parent.
func (im *Image) mergeInto(ctx context.Context, parent *Image, progress func(done, total int64)) (done Committed, err error) {
	if err := parent.begin(true); err != nil {
		return done, err
	}
	if im.Size() > parent.Size() {
		if err := parent.Resize(ctx, im.Size()); err != nil {
			return done, err
		}
	}
	done.Size = parent.Size()
	bs := int64(im.p.BlockSize)
	buf := make([]byte, min(bs, 4*mib))
	for n := range im.g.blocks {
		if err := ctx.Err(); err != nil {
			return done, fmt.Errorf("vdisk: commit: interrupted: %w; commit again to finish: child and parent read as before together", err)
		}
		e, err := im.entry(n)
		if err != nil {
			return done, err
		}
		base := int64(n) * bs
		size := min(bs, im.Size()-base)
		copied := func(at, m int64, here bool) error {
			if !here {
				return nil
			}
			return im.mergeData(parent, e.offset()+at, base+at, m, buf, &done)
		}
		switch e.state() {
		case notPresent:
			continue
		case present:
			err = copied(0, size, true)
		case partial:
			err = im.runs(n, 0, size, copied)
		default:
			done.Zeroed += size
			err = parent.WriteZeroes(base, size)
		}
		if err != nil {
			return done, err
		}
		if progress != nil {
			progress(base+size, im.Size())
		}
	}
	for _, it := range im.UserItems() {
		if err := parent.SetUserItem(it); err != nil {
			return done, err
		}
	}
	return done, nil
}

// mergeData copies n bytes of payload; what is zero takes no room in the parent.
func (im *Image) mergeData(parent *Image, from, to, n int64, buf []byte, done *Committed) error {
	for n > 0 {
		p := buf[:min(n, int64(len(buf)))]
		if m, err := im.b.ReadAt(p, from); m < len(p) {
			if err == io.EOF {
				err = ErrTruncated.at(from+int64(m), "a block's data lies beyond the file's end")
			}
			return err
		}
		var err error
		if allZero(p) {
			done.Zeroed += int64(len(p))
			err = parent.WriteZeroes(to, int64(len(p)))
		} else {
			done.Written += int64(len(p))
			_, err = parent.WriteAt(p, to)
		}
		if err != nil {
			return err
		}
		from, to, n = from+int64(len(p)), to+int64(len(p)), n-int64(len(p))
	}
	return nil
}
