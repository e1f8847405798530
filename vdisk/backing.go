package vdisk

import "io"

// A Backing is where an image's bytes lie: a file, a partition, memory. Its methods
// may be called at the same time. What was written may be lost, torn or reordered
// by a power cut until a Flush that began after the write has returned; writes
// beyond the end extend it, and what is skipped then reads as zero.
type Backing interface {
	io.ReaderAt
	io.WriterAt
	// Size is the length now.
	Size() (int64, error)
	// Flush makes all completed writes and truncations durable.
	Flush() error
	// Trim says that a range's contents do not matter any more. Afterwards it
	// reads as anything; zero is true if it is sure to read as zero.
	Trim(off, n int64) (zero bool, err error)
	// Truncate makes it this long; new bytes read as zero. A Backing of fixed
	// size answers ErrNoSpace to what it can not hold and may stay longer.
	Truncate(size int64) error
	Close() error
}
