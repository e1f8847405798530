package vdisk

import (
	"fmt"
	"io"
)

// A Section is a range of another backing, such as a partition of a disk. Its size
// is fixed.
type Section struct {
	b      Backing
	off, n int64
}

// NewSection makes one of n bytes at off.
func NewSection(b Backing, off, n int64) (*Section, error) {
	if off < 0 || n <= 0 || off > maxFileEnd-n || off%logSector != 0 {
		return nil, fmt.Errorf("vdisk: a section of %d bytes at %d: it must begin on 4 KiB and not be empty", n, off)
	}
	return &Section{b, off, n}, nil
}

// Capacity is the section's size.
func (s *Section) Capacity() int64 { return s.n }

func (s *Section) Size() (int64, error) { return s.n, nil }

func (s *Section) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.n {
		return 0, io.EOF
	}
	if int64(len(p)) <= s.n-off {
		return s.b.ReadAt(p, s.off+off)
	}
	n, err := s.b.ReadAt(p[:s.n-off], s.off+off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

func (s *Section) inside(off, n int64) error {
	if off < 0 || n < 0 || n > s.n || off > s.n-n {
		return fmt.Errorf("%w: %d bytes at %d of a section of %d", ErrNoSpace, n, off, s.n)
	}
	return nil
}

func (s *Section) WriteAt(p []byte, off int64) (int, error) {
	if err := s.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	return s.b.WriteAt(p, s.off+off)
}

func (s *Section) Flush() error { return s.b.Flush() }

func (s *Section) Trim(off, n int64) (bool, error) {
	if err := s.inside(off, n); err != nil {
		return false, err
	}
	return s.b.Trim(s.off+off, n)
}

func (s *Section) Truncate(size int64) error { return s.inside(0, size) }

// Close leaves the backing below open: it may hold other sections.
func (s *Section) Close() error { return nil }

// An Op is what a Faulty backing is about to do.
type Op uint8

const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpTrim
	OpTruncate
)

func (o Op) String() string { return [...]string{"read", "write", "flush", "trim", "truncate"}[o] }

// A Faulty passes everything to another backing, but for what Fault answers with an
// error. Fault may be called by many at once.
type Faulty struct {
	Backing
	Fault func(op Op, off, n int64) error
}

func (f *Faulty) ReadAt(p []byte, off int64) (int, error) {
	if err := f.Fault(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.Backing.ReadAt(p, off)
}

func (f *Faulty) WriteAt(p []byte, off int64) (int, error) {
	if err := f.Fault(OpWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.Backing.WriteAt(p, off)
}

func (f *Faulty) Flush() error {
	if err := f.Fault(OpFlush, 0, 0); err != nil {
		return err
	}
	return f.Backing.Flush()
}

func (f *Faulty) Trim(off, n int64) (bool, error) {
	if err := f.Fault(OpTrim, off, n); err != nil {
		return false, err
	}
	return f.Backing.Trim(off, n)
}

func (f *Faulty) Truncate(size int64) error {
	if err := f.Fault(OpTruncate, size, 0); err != nil {
		return err
	}
	return f.Backing.Truncate(size)
}
