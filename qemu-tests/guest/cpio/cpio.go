// Package cpio writes archives in the "newc" format, which Linux unpacks as its initial RAM file system
// (Documentation/driver-api/early-userspace/buffer-format.rst). Times are zero and inodes count up, so equal contents
// give equal archives.
package cpio

import (
	"fmt"
	"io"
)

// Mode bits of an entry's type, as in stat(2).
const (
	typeDir    = 0o040000
	typeChar   = 0o020000
	typeFile   = 0o100000
	typeLink   = 0o120000
	nameLimit  = 4096    // Linux: PATH_MAX
	sizeLimit  = 1 << 32 // eight hexadecimal digits
	trailer    = "TRAILER!!!"
	headerSize = 110
)

// Writer writes one archive. The first error sticks: the methods may be called in a row and Close tells.
type Writer struct {
	w     io.Writer
	inode uint32
	err   error
}

func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Dir adds a directory. Its parent must have been added before.
func (w *Writer) Dir(name string, perm uint32) { w.entry(name, typeDir|perm, 0, 0, nil) }

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, data []byte) {
	w.entry(name, typeFile|perm, 0, 0, data)
}

// Link adds a symbolic link.
func (w *Writer) Link(name, target string) { w.entry(name, typeLink|0o777, 0, 0, []byte(target)) }

// CharDevice adds a character device node.
func (w *Writer) CharDevice(name string, perm, major, minor uint32) {
	w.entry(name, typeChar|perm, major, minor, nil)
}

// Close writes the trailer and returns the first error of all calls.
func (w *Writer) Close() error {
	w.entry(trailer, 0, 0, 0, nil)
	return w.err
}

func (w *Writer) entry(name string, mode, major, minor uint32, data []byte) {
	if w.err != nil {
		return
	}
	if name == "" || name[0] == '/' || len(name) >= nameLimit || uint64(len(data)) >= sizeLimit {
		w.err = fmt.Errorf("cpio: %.40q with %d bytes: names are relative and below %d bytes, files below 4 GiB", name, len(data), nameLimit)
		return
	}
	w.inode++
	const uid, gid, links, mtime, fileMajor, fileMinor, check = 0, 0, 1, 0, 0, 0, 0
	header := "070701"
	for _, v := range [...]uint32{
		w.inode, mode, uid, gid, links, mtime, uint32(len(data)), fileMajor, fileMinor, major, minor, uint32(len(name) + 1), check,
	} {
		header += fmt.Sprintf("%08X", v)
	}
	w.put(pad([]byte(header + name + "\x00")))
	w.put(pad(data))
}

// pad appends zeros up to a multiple of four bytes.
func pad(b []byte) []byte { return append(b[:len(b):len(b)], make([]byte, -len(b)&3)...) }

func (w *Writer) put(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}
