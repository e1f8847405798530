package boot

import (
	"errors"
	"fmt"
)

// MultibootMagic is what a Multiboot loader leaves in EAX, and the stub in RSI (MB 3.2).
const MultibootMagic = 0x2badb002

const (
	multibootHeaderMagic = 0x1badb002
	multibootSearch      = 8192 // the header lies wholly within this many bytes of the file (MB 3.1)

	multibootPageAlign     = 1 << 0  // modules at page boundaries
	multibootMemoryInfo    = 1 << 1  // the loader must pass mem_*, and mmap if it can
	multibootAddressFields = 1 << 16 // the header's own address fields count, not a file format's
)

// MultibootHeader is the header with its address fields (MB 3.1.1 to 3.1.3).
type MultibootHeader struct {
	Magic    uint32
	Flags    uint32
	Checksum uint32 // makes the three sum to zero
	Header   uint32 // address of this header
	Load     uint32 // where the file's bytes go, those before the header included
	LoadEnd  uint32 // end of the file's bytes
	BSSEnd   uint32 // end of what the loader clears; modules come after
	Entry    uint32
}

const multibootHeaderSize = 32

func newMultibootHeader(loadEnd, bssEnd, entry uint32) MultibootHeader {
	const flags = multibootPageAlign | multibootMemoryInfo | multibootAddressFields
	return MultibootHeader{
		Magic: multibootHeaderMagic, Flags: flags, Checksum: -(multibootHeaderMagic + flags&0xffffffff) & 0xffffffff,
		Header: headerAddr, Load: Base, LoadEnd: loadEnd, BSSEnd: bssEnd, Entry: entry,
	}
}

func (h MultibootHeader) put(b []byte) {
	for i, v := range [...]uint32{h.Magic, h.Flags, h.Checksum, h.Header, h.Load, h.LoadEnd, h.BSSEnd, h.Entry} {
		le.PutUint32(b[4*i:], v)
	}
}

var errNoMultiboot = errors.New("no Multiboot header with a valid checksum in the first 8192 bytes")

// ParseMultiboot finds the header as a loader does and checks that its address fields describe file.
func ParseMultiboot(file []byte) (MultibootHeader, error) {
	window := file[:min(len(file), multibootSearch)]
	for at := 0; at+multibootHeaderSize <= len(window); at += 4 {
		var v [8]uint32
		for i := range v {
			v[i] = le.Uint32(window[at+4*i:])
		}
		if v[0] != multibootHeaderMagic || v[0]+v[1]+v[2] != 0 {
			continue
		}
		h := MultibootHeader{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]}
		return h, h.check(uint64(at), uint64(len(file)))
	}
	return MultibootHeader{}, errNoMultiboot
}

func (h MultibootHeader) check(at, size uint64) error {
	switch {
	case h.Flags&multibootAddressFields == 0:
		return errors.New("multiboot header: no address fields, the file would have to be an ELF")
	case h.Load > h.Header || uint64(h.Header-h.Load) != at:
		return fmt.Errorf("multiboot header: at offset %#x of the file, but header %#x - load %#x differs", at, h.Header, h.Load)
	case h.LoadEnd < h.Load || uint64(h.LoadEnd-h.Load) > size:
		return fmt.Errorf("multiboot header: load %#x to %#x needs more than the file's %#x bytes", h.Load, h.LoadEnd, size)
	case h.BSSEnd < h.LoadEnd:
		return fmt.Errorf("multiboot header: bss end %#x lies before load end %#x", h.BSSEnd, h.LoadEnd)
	case h.Entry < h.Load || h.Entry >= h.LoadEnd:
		return fmt.Errorf("multiboot header: entry %#x lies outside %#x to %#x", h.Entry, h.Load, h.LoadEnd)
	}
	return nil
}
