package vdisk

import (
	"fmt"
	"io"
)

// A Raw is a disk without a format: its bytes lie in the backing as they are, and
// its size is the backing's, without what is no whole sector at the end.
type Raw struct {
	b      Backing
	size   int64
	sector int64
}

// OpenRaw makes a disk of b, which it owns from then on; a sector of zero bytes
// means 512.
func OpenRaw(b Backing, sector int) (*Raw, error) {
	if sector == 0 {
		sector = 512
	}
	if sector != 512 && sector != 4096 {
		b.Close()
		return nil, fmt.Errorf("%w: logical sectors of %d bytes", ErrUnsupported, sector)
	}
	size, err := b.Size()
	if err != nil {
		b.Close()
		return nil, err
	}
	return &Raw{b, size / int64(sector) * int64(sector), int64(sector)}, nil
}

func (r *Raw) check(off, n int64) error {
	if off < 0 || n < 0 || off%r.sector != 0 || n%r.sector != 0 {
		return fmt.Errorf("vdisk: %d bytes at %d are not whole sectors of %d bytes", n, off, r.sector)
	}
	if n > r.size || off > r.size-n {
		return fmt.Errorf("vdisk: %d bytes at %d reach beyond the disk's end %d", n, off, r.size)
	}
	return nil
}

func (r *Raw) ReadAt(p []byte, off int64) (int, error) {
	if err := r.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := r.b.ReadAt(p, off)
	if n == len(p) {
		err = nil
	} else if err == io.EOF {
		err = fmt.Errorf("vdisk: the file ends at %d, before the disk does: somebody made it shorter", off+int64(n))
	}
	return n, err
}

func (r *Raw) WriteAt(p []byte, off int64) (int, error) {
	if err := r.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	return r.b.WriteAt(p, off)
}

// transfer passes many buffers on in one call where the backing takes that.
func (r *Raw) transfer(bufs [][]byte, off int64, write bool) error {
	var n int64
	for _, b := range bufs {
		if err := r.check(off+n, int64(len(b))); err != nil {
			return err
		}
		n += int64(len(b))
	}
	v, ok := r.b.(vectored)
	if ok && write {
		return v.writev(bufs, off)
	} else if ok {
		return v.readv(bufs, off)
	}
	for _, b := range bufs {
		var err error
		if write {
			_, err = r.WriteAt(b, off)
		} else {
			_, err = r.ReadAt(b, off)
		}
		if err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

func (r *Raw) Flush() error { return r.b.Flush() }

func (r *Raw) Trim(off, n int64) error {
	if err := r.check(off, n); err != nil || n == 0 {
		return err
	}
	_, err := r.b.Trim(off, n)
	return err
}

func (r *Raw) WriteZeroes(off, n int64) error {
	if err := r.check(off, n); err != nil || n == 0 {
		return err
	}
	return zeroIn(r.b, off, n, true)
}

func (r *Raw) Size() int64     { return r.size }
func (r *Raw) SectorSize() int { return int(r.sector) }
func (r *Raw) Close() error    { return r.b.Close() }
