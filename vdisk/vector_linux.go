package vdisk

import (
	"io"
	"runtime"
	"syscall"
	"unsafe"
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
		k, n, aligned := 0, 0, off%directAlign == 0
		for k < min(len(bufs), maxVectors) {
			if p := bufs[k]; len(p) > 0 {
				iov[k].Base = unsafe.SliceData(p)
				iov[k].SetLen(len(p))
				aligned = aligned && (int(uintptr(unsafe.Pointer(iov[k].Base)))|len(p))%directAlign == 0
				n += len(p)
			}
			k++
		}
		f := b.f
		if b.direct != nil && aligned {
			f = b.direct
		}
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
