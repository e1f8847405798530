package vdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// FileOptions say how OpenFile opens.
type FileOptions struct {
	ReadOnly bool
	// Create makes the file; one that is there already is refused.
	Create bool
	// Direct passes aligned transfers by the page cache (O_DIRECT).
	Direct bool
}

// ErrInUse is in the error of a second writer.
var ErrInUse = errors.New("in use by another process or another opening")

// A File is a Backing on a file or a block device of Linux. It is locked against
// other writers, and by a writer against readers, as long as it is open (flock: all
// of Godwit's tools honour it).
type File struct {
	f      *os.File
	direct *os.File // the same, O_DIRECT; nil without
	fixed  int64    // size of a block device; 0 for files

	// turn is for large writes to a file by way of the page cache. File systems
	// let one at a time into a file; here those that wait keep no thread.
	turn sync.Mutex

	noDsync atomic.Bool // the kernel or the file system does not know RWF_DSYNC
}

// turnSize is the least that is large: copying it takes far longer than waking
// whoever waits.
const turnSize = 256 * kib

// OpenFile opens a file as a backing.
func OpenFile(path string, o FileOptions) (*File, error) {
	flags, lock := os.O_RDWR, syscall.LOCK_EX
	if o.ReadOnly {
		flags, lock = os.O_RDONLY, syscall.LOCK_SH
	}
	if o.Create {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return nil, err
	}
	b := &File{f: f}
	if err := syscall.Flock(int(f.Fd()), lock|syscall.LOCK_NB); err != nil {
		f.Close()
		if err == syscall.EWOULDBLOCK {
			err = ErrInUse
		}
		return nil, fmt.Errorf("%s: %w; stop what uses it, or open it read-only where nobody writes", path, err)
	}
	st, err := f.Stat()
	if err == nil && st.Mode()&os.ModeDevice != 0 {
		b.fixed, err = f.Seek(0, io.SeekEnd)
	} else if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is neither a file nor a block device", path)
	}
	if err == nil && o.Direct {
		if b.direct, err = os.OpenFile(path, flags&^(os.O_CREATE|os.O_EXCL)|syscall.O_DIRECT, 0); err != nil {
			err = fmt.Errorf("%w (this file system may not know direct I/O)", err)
		}
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Capacity is the size of a block device, zero for a file.
func (b *File) Capacity() int64 { return b.fixed }

func (b *File) Size() (int64, error) {
	if b.fixed != 0 {
		return b.fixed, nil
	}
	st, err := b.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// directAlign suits all devices there are.
const directAlign = 4096

func (b *File) pick(p []byte, off int64) *os.File {
	if b.direct != nil && len(p) > 0 && (int64(uintptr(unsafe.Pointer(unsafe.SliceData(p))))|off|int64(len(p)))%directAlign == 0 {
		return b.direct
	}
	return b.f
}

func (b *File) ReadAt(p []byte, off int64) (int, error) { return b.pick(p, off).ReadAt(p, off) }

func (b *File) WriteAt(p []byte, off int64) (int, error) {
	f := b.pick(p, off)
	if b.inTurn(f, len(p)) {
		b.turn.Lock()
		defer b.turn.Unlock()
	}
	return f.WriteAt(p, off)
}

func (b *File) inTurn(f *os.File, n int) bool { return n >= turnSize && f == b.f && b.fixed == 0 }

func (b *File) Flush() error {
	if err := syscall.Fdatasync(int(b.f.Fd())); err != nil {
		return &os.PathError{Op: "fdatasync", Path: b.f.Name(), Err: err}
	}
	return nil
}

// fallocate(2)
const (
	fallocKeepSize  = 1
	fallocPunchHole = 2
)

// Trim punches a hole. On what can not have holes it does nothing.
func (b *File) Trim(off, n int64) (bool, error) {
	err := syscall.Fallocate(int(b.f.Fd()), fallocPunchHole|fallocKeepSize, off, n)
	switch err {
	case nil:
		return true, nil
	case syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.ENODEV:
		return false, nil
	}
	return false, &os.PathError{Op: "fallocate", Path: b.f.Name(), Err: err}
}

func (b *File) Truncate(size int64) error {
	if b.fixed != 0 {
		if size > b.fixed {
			return fmt.Errorf("%w: %s has %d bytes, %d are needed", ErrNoSpace, b.f.Name(), b.fixed, size)
		}
		return nil
	}
	return b.f.Truncate(size)
}

// settle has the file system give the beginning of a new file its place, in one piece:
// headers and log are then written over and never again allocated. Each for itself they
// are more extents than an inode of ext4 holds (four; kernel documentation, ext4,
// "Extent Tree"), and a flush after an allocation has to journal one block more.
func (b *File) settle(n int64) error {
	for at := int64(0); at < n && b.fixed == 0; at += int64(len(zeroes)) {
		if _, err := b.f.WriteAt(zeroes[:min(n-at, int64(len(zeroes)))], at); err != nil {
			return err
		}
	}
	return nil
}

func (b *File) Close() error {
	var err error
	if b.direct != nil {
		err = b.direct.Close()
	}
	return errors.Join(err, b.f.Close())
}

// OpenPath opens the image in a file, and its parents by the paths that the
// locators name: relative ones from the directory of the child, then absolute ones.
func OpenPath(path string, o Options, fo FileOptions) (*Image, error) {
	fo.ReadOnly = o.ReadOnly
	b, err := OpenFile(path, fo)
	if err != nil {
		return nil, err
	}
	if o.Parent == nil {
		o.Parent = parentFinder(path)
	}
	im, err := Open(b, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return im, nil
}

// CheckPath checks the image in a file, with its parents found as OpenPath does.
func CheckPath(path string) ([]Finding, error) {
	b, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	fs, err := Check(b, Options{Parent: parentFinder(path)})
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return fs, err
}

// RepairPath repairs the image in a file, which nobody else may have open.
func RepairPath(path string, o RepairOptions) ([]Fix, error) {
	b, err := OpenFile(path, FileOptions{ReadOnly: o.DryRun})
	if err != nil {
		return nil, err
	}
	fixes, err := Repair(b, o)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return fixes, err
}

// Share lets readers in where this opening kept everybody out.
func (b *File) Share() error {
	if err := syscall.Flock(int(b.f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s: %w: %v", b.f.Name(), ErrInUse, err)
	}
	return nil
}
