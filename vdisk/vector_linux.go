package vdisk

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func (b *File) readv(bufs [][]byte, off int64) error {
	return b.vector(syscall.SYS_PREADV, bufs, off, b.ReadAt)
}

func (b *File) writev(bufs [][]byte, off int64) error {
	return b.vector(syscall.SYS_PWRITEV, bufs, off, b.WriteAt)
}

// vector makes one call for up to maxVectors buffers. What the kernel did not do
// wholly is done again, buffer by buffer, and that tells why.
func (b *File) vector(call uintptr, bufs [][]byte, off int64, each func([]byte, int64) (int, error)) error {
	for len(bufs) > 0 {
		var iov [maxVectors]syscall.Iovec
		f, k, n := b.vectors(&iov, bufs, off)
		inTurn := call == syscall.SYS_PWRITEV && b.inTurn(f, n)
		if inTurn {
			b.turn.Lock()
		}
		did, _, errno := syscall.Syscall6(call, f.Fd(), uintptr(unsafe.Pointer(&iov)), uintptr(k), uintptr(off), 0, 0)
		if inTurn {
			b.turn.Unlock()
		}
		runtime.KeepAlive(bufs)
		if errno != 0 || int(did) != n {
			at := off
			for _, p := range bufs[:k] {
				if m, err := each(p, at); m < len(p) {
					if err == nil {
						err = io.ErrUnexpectedEOF
					}
					return err
				}
				at += int64(len(p))
			}
		}
		bufs, off = bufs[k:], off+int64(n)
	}
	return nil
}

// vectors fills iov with the first k of bufs, n bytes, and says which file suits them.
func (b *File) vectors(iov *[maxVectors]syscall.Iovec, bufs [][]byte, off int64) (f *os.File, k, n int) {
	aligned := off%directAlign == 0
	for k < min(len(bufs), maxVectors) {
		if p := bufs[k]; len(p) > 0 {
			iov[k].Base = unsafe.SliceData(p)
			iov[k].SetLen(len(p))
			aligned = aligned && (int(uintptr(unsafe.Pointer(iov[k].Base)))|len(p))%directAlign == 0
			n += len(p)
		}
		k++
	}
	if b.direct != nil && aligned {
		return b.direct, k, n
	}
	return b.f, k, n
}

// writeDurably is a write as if the file were O_DSYNC, pwritev2(2).
func (b *File) writeDurably(bufs [][]byte, off int64) (bool, error) {
	if len(bufs) > maxVectors || b.noDsync.Load() {
		return false, nil
	}
	var iov [maxVectors]syscall.Iovec
	f, k, n := b.vectors(&iov, bufs, off)
	did, _, errno := syscall.Syscall6(unix.SYS_PWRITEV2, f.Fd(), uintptr(unsafe.Pointer(&iov)), uintptr(k), uintptr(off), 0, unix.RWF_DSYNC)
	runtime.KeepAlive(bufs)
	switch {
	case errno == syscall.EOPNOTSUPP, errno == syscall.ENOSYS, errno == syscall.EINVAL:
		b.noDsync.Store(true)
		return false, nil
	case errno != 0:
		return true, &os.PathError{Op: "pwritev2", Path: b.f.Name(), Err: errno}
	case int(did) != n:
		return true, fmt.Errorf("%s: %d of %d bytes at %d: %w", b.f.Name(), did, n, off, io.ErrShortWrite)
	}
	return true, nil
}
