// Package state is the encoding of everything a virtual machine is: what a
// device saves, what migrates, what a snapshot holds.
//
// A state is a sequence of sections:
//
//	u32 name length, name ("uart0", "vcpu/3", ...)
//	u16 version
//	u16 flags (bit 0: required)
//	u32 length, payload
//	u32 CRC-32C of all of the above
//
// all little-endian. A reader that meets an unknown required section, a version
// newer than it knows, a length that does not fit or a wrong checksum refuses
// the state and names the section. Unknown optional sections are skipped.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Limits of what a reader accepts from a peer.
const (
	MaxName    = 64
	MaxSection = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Device is whatever has state. LoadState either loads all of it or returns
// an error and leaves the device fit only for Reset or another LoadState. It
// checks every value as if an enemy had chosen it.
type Device interface {
	StateName() string
	StateVersion() uint16
	SaveState(*Writer)
	LoadState(version uint16, r *Reader) error
}

// A Writer collects one section's payload.
type Writer struct{ buf []byte }

func (w *Writer) Bytes() []byte { return w.buf }
func (w *Writer) U8(v uint8)    { w.buf = append(w.buf, v) }
func (w *Writer) U16(v uint16)  { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }
func (w *Writer) U32(v uint32)  { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
func (w *Writer) U64(v uint64)  { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }
func (w *Writer) I64(v int64)   { w.U64(uint64(v)) }
func (w *Writer) Bool(v bool) {
	if v {
		w.U8(1)
	} else {
		w.U8(0)
	}
}

// Blob writes a length and the bytes.
func (w *Writer) Blob(b []byte) {
	w.U32(uint32(len(b)))
	w.buf = append(w.buf, b...)
}

// A Reader reads one section's payload. Its first error sticks; later reads
// give zeroes. Close reports it, or that bytes are left over.
type Reader struct {
	buf []byte
	err error
}

// NewReader reads from b.
func NewReader(b []byte) *Reader { return &Reader{buf: b} }

var errShort = errors.New("section too short")

func (r *Reader) take(n int) []byte {
	if r.err != nil || n > len(r.buf) {
		if r.err == nil {
			r.err = errShort
		}
		return nil
	}
	b := r.buf[:n]
	r.buf = r.buf[n:]
	return b
}

func (r *Reader) U8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *Reader) U16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *Reader) U32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *Reader) U64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *Reader) I64() int64 { return int64(r.U64()) }

// Bool accepts 0 and 1 only.
func (r *Reader) Bool() bool {
	v := r.U8()
	if v > 1 {
		r.Fail(fmt.Errorf("boolean is %d", v))
	}
	return v == 1
}

// Blob reads what Writer.Blob wrote, at most max bytes, without copying.
func (r *Reader) Blob(max int) []byte {
	n := r.U32()
	if r.err == nil && uint64(n) > uint64(max) {
		r.Fail(fmt.Errorf("%d bytes where at most %d fit", n, max))
		return nil
	}
	return r.take(int(n))
}

// Fail makes err the Reader's error unless it has one.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Err is the first error so far.
func (r *Reader) Err() error { return r.err }

// Close returns the first error, or one that says that bytes are left over.
func (r *Reader) Close() error {
	if r.err == nil && len(r.buf) > 0 {
		r.err = fmt.Errorf("%d bytes too long", len(r.buf))
	}
	return r.err
}

// Save writes d as a required section.
func Save(w io.Writer, d Device) error { return saveSection(w, d, true) }

// SaveOptional writes d as a section that a release which does not know it skips.
func SaveOptional(w io.Writer, d Device) error { return saveSection(w, d, false) }

func saveSection(w io.Writer, d Device, required bool) error {
	var p Writer
	d.SaveState(&p)
	if len(p.buf) > MaxSection {
		return fmt.Errorf("state: section %q is %d bytes, more than %d", d.StateName(), len(p.buf), MaxSection)
	}
	return WriteSection(w, d.StateName(), d.StateVersion(), required, p.buf)
}

// WriteSection writes one section.
func WriteSection(w io.Writer, name string, version uint16, required bool, payload []byte) error {
	var b Writer
	b.Blob([]byte(name))
	b.U16(version)
	var flags uint16
	if required {
		flags = 1
	}
	b.U16(flags)
	b.Blob(payload)
	b.U32(crc32.Checksum(b.buf, castagnoli))
	_, err := w.Write(b.buf)
	return err
}

// A Section as read.
type Section struct {
	Name     string
	Version  uint16
	Required bool
	Payload  []byte
}

// ReadSection reads one section; io.EOF only at a clean end.
func ReadSection(r io.Reader) (Section, error) {
	var s Section
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if err == io.EOF {
			return s, err
		}
		return s, fmt.Errorf("state: section header: %w", err)
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n == 0 || n > MaxName {
		return s, fmt.Errorf("state: a section's name is %d bytes long, not 1 to %d", n, MaxName)
	}
	b := make([]byte, n+8)
	if _, err := io.ReadFull(r, b); err != nil {
		return s, fmt.Errorf("state: section header: %w", noEOF(err))
	}
	s.Name = string(b[:n])
	s.Version = binary.LittleEndian.Uint16(b[n:])
	flags := binary.LittleEndian.Uint16(b[n+2:])
	length := binary.LittleEndian.Uint32(b[n+4:])
	if flags&^1 != 0 {
		return s, fmt.Errorf("state: section %q has unknown flags %#x", s.Name, flags)
	}
	s.Required = flags&1 != 0
	if length > MaxSection {
		return s, fmt.Errorf("state: section %q claims %d bytes, more than %d", s.Name, length, MaxSection)
	}
	crc := crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, b)
	// Grow as bytes arrive: a peer that lies about the length gets no memory for it.
	var err error
	if s.Payload, err = readN(r, int(length)); err != nil {
		return s, fmt.Errorf("state: section %q: %w", s.Name, noEOF(err))
	}
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return s, fmt.Errorf("state: section %q: %w", s.Name, noEOF(err))
	}
	if got := binary.LittleEndian.Uint32(h[:]); got != crc32.Update(crc, castagnoli, s.Payload) {
		return s, fmt.Errorf("state: section %q has a wrong checksum", s.Name)
	}
	return s, nil
}

func readN(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, 0, min(n, 64<<10))
	for len(b) < n {
		m := min(n-len(b), max(64<<10, len(b)))
		b = append(b, make([]byte, m)...)
		if _, err := io.ReadFull(r, b[len(b)-m:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Load gives s to d.
func (s Section) Load(d Device) error {
	if s.Version == 0 || s.Version > d.StateVersion() {
		return fmt.Errorf("state: section %q has version %d; this release reads 1 to %d", s.Name, s.Version, d.StateVersion())
	}
	r := NewReader(s.Payload)
	if err := d.LoadState(s.Version, r); err != nil {
		return fmt.Errorf("state: section %q: %w", s.Name, err)
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("state: section %q: %w", s.Name, err)
	}
	return nil
}
