package vdisk

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A LiveDisk is what a guest sees: the newest image of a chain, which a snapshot replaces
// by a new child while requests go on.
type LiveDisk struct {
	// mu is held for reading by each request, and for writing by a snapshot:
	// taking it means that none is under way.
	mu  sync.RWMutex
	top *Image
}

// NewLiveDisk makes a disk of an open image, which belongs to the disk from then on.
func NewLiveDisk(im *Image) *LiveDisk { return &LiveDisk{top: im} }

// Image is the newest image of the chain now. Who writes to it past the disk must not
// let that coincide with a snapshot.
func (d *LiveDisk) Image() *Image {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.top
}

// Size, SectorSize and the transfers are as those of Image.
func (d *LiveDisk) Size() int64     { return d.Image().Size() }
func (d *LiveDisk) SectorSize() int { return d.Image().SectorSize() }

func (d *LiveDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.top.ReadAt(p, off)
}

func (d *LiveDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.top.WriteAt(p, off)
}

func (d *LiveDisk) Flush() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.top.Flush()
}

func (d *LiveDisk) Trim(off, n int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.top.Trim(off, n)
}

func (d *LiveDisk) WriteZeroes(off, n int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.top.WriteZeroes(off, n)
}

// Resize is as Image's; requests go on.
func (d *LiveDisk) Resize(ctx context.Context, size int64) error {
	return d.reshape(func(top *Image) error { return top.Resize(ctx, size) })
}

// ResizeAndDiscard is as Image's; requests go on.
func (d *LiveDisk) ResizeAndDiscard(ctx context.Context, size int64) error {
	return d.reshape(func(top *Image) error { return top.ResizeAndDiscard(ctx, size) })
}

// Compact is as Image's, for the newest image; requests go on. A snapshot meanwhile
// ends it with ErrReadOnly: what was newest can not be compacted any more.
func (d *LiveDisk) Compact(ctx context.Context, progress func(Compaction)) (Compaction, error) {
	return d.Image().Compact(ctx, progress)
}

// reshape does something to the newest image, again if a snapshot was faster.
func (d *LiveDisk) reshape(f func(*Image) error) error {
	for {
		top := d.Image()
		if err := f(top); !errors.Is(err, ErrReadOnly) || d.Image() == top {
			return err
		}
	}
}

// NewQueue makes a queue of requests, as Image.NewQueue does; it outlives snapshots.
func (d *LiveDisk) NewQueue(workers int) *Queue { return NewQueue(d, workers) }

// Close closes the whole chain.
func (d *LiveDisk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.top.Close()
}

// SnapshotOptions describe a snapshot.
type SnapshotOptions struct {
	BlockSize   int          // of the child; zero: 2 MiB
	LogSize     int64        // zero: as the parent's
	ParentPaths []ParentPath // where the child finds its parent when it is opened again
	Creator     string
	// Ready is called when the child is durable and nothing has been written to
	// it, with all requests waiting: here the caller notes, durably, that the
	// disk is the child from now on. An error calls the snapshot off.
	Ready func() error
}

// Snapshot freezes what the disk holds at one instant and lets it go on in a new,
// empty child, in b. Requests that had begun are in the frozen image, which is closed
// properly and read-only from then on; those that come meanwhile wait, and none
// fails. After an error the disk goes on as before, and b is closed; after a crash
// either image is whole.
func (d *LiveDisk) Snapshot(b Backing, o SnapshotOptions) error {
	if err := d.snapshot(b, o); err != nil {
		return fmt.Errorf("vdisk: snapshot: %w", err)
	}
	return nil
}

func (d *LiveDisk) snapshot(b Backing, o SnapshotOptions) error {
	// A resize or compaction ends first, while requests still go on.
	top := d.Image()
	top.reshape.Lock()
	defer top.reshape.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	err := top.writable()
	if err == nil && d.top != top {
		err = errors.New("another snapshot came first")
	}
	if err == nil {
		err = top.settle()
	}
	if err == nil {
		err = top.createChild(b, &o)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	child, err := Open(b, Options{over: top, MetaPages: top.meta.limit})
	if err != nil {
		return err
	}
	if o.Ready != nil {
		err = o.Ready()
	}
	// From here on the frozen image may be read by others: for a copy of it.
	if s, ok := top.b.(interface{ Share() error }); ok && err == nil {
		err = top.fail(s.Share())
	}
	if err != nil {
		child.parent = nil // stays open
		return errors.Join(err, child.Close())
	}
	top.ro = true
	d.top = child
	return nil
}

// createChild makes a durable, empty child in b.
func (im *Image) createChild(b Backing, o *SnapshotOptions) error {
	c := CreateOptions{Parent: im, ParentPaths: o.ParentPaths, BlockSize: o.BlockSize, LogSize: o.LogSize, Creator: o.Creator}
	if c.LogSize == 0 {
		c.LogSize = int64(im.hdr.LogLength)
	}
	return Create(b, c)
}

// openFrozen opens, read-only, an image that nobody writes to, and makes sure that its
// log is not needed: it is replayed for good.
func openFrozen(open func(readOnly bool) (*Image, error)) (*Image, error) {
	im, err := open(true)
	if err != nil || im.hdr.LogGUID.IsZero() {
		return im, err
	}
	if err := im.Close(); err != nil {
		return nil, err
	}
	if im, err = open(false); err != nil {
		return nil, err
	}
	if err := im.Close(); err != nil {
		return nil, err
	}
	return open(true)
}

// settle makes the image as Close would leave it, with nothing under way. A later
// write begins a new session, with new identities.
func (im *Image) settle() error {
	err := im.retire()
	if err == nil {
		// The file may be shorter now, and grow again before the next flush: what
		// lay at its end must be gone, and the log not say that it was there.
		err = im.b.Flush()
	}
	if err != nil {
		return im.fail(err)
	}
	im.j.flushed = im.space.fileEnd()
	im.session.Store(sessionNone)
	im.j.guid = GUID{}
	return nil
}
