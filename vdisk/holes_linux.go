package vdisk

import "syscall"

const seekData = 3 // lseek(2)

// NextData asks the file system. A block device, and a file system that does not know
// of holes, hold data everywhere.
func (b *File) NextData(off int64) (int64, error) {
	if b.fixed != 0 {
		return min(off, b.fixed), nil
	}
	at, err := syscall.Seek(int(b.f.Fd()), off, seekData)
	switch err {
	case nil:
		return at, nil
	case syscall.ENXIO: // a hole up to the end, or behind it
		return b.Size()
	}
	return off, nil
}
