// Package acpi finds and checks ACPI's static tables (ACPI 6.5, section 5.2) and
// reads the few that a kernel needs to start: MADT, FADT, HPET. It allocates
// nothing, so that it works before the Go runtime does. Tables come from firmware
// and are trusted to be there, not to be right: every length is checked.
package acpi

import "encoding/binary"

// Memory gives access to physical memory: n bytes at addr, nil if they are not
// all there.
type Memory interface {
	Bytes(addr, n uint64) []byte
}

var le = binary.LittleEndian

const (
	headerSize = 36      // 5.2.6 System Description Table Header
	maxTable   = 4 << 20 // far above any real table; bounds a broken length
)

func sum(b []byte) (s uint8) {
	for _, c := range b {
		s += c
	}
	return
}

// FindRSDP looks where 5.2.5.1 says: the first KiB of the EBDA, and
// 0xE0000-0xFFFFF. It returns 0 if there is none.
func FindRSDP(mem Memory) uint64 {
	if b := mem.Bytes(0x40e, 2); b != nil { // the BDA's segment of the EBDA
		if ebda := uint64(le.Uint16(b)) << 4; ebda >= 0x400 {
			if p := scanRSDP(mem, ebda, 1024); p != 0 {
				return p
			}
		}
	}
	return scanRSDP(mem, 0xe0000, 0x20000)
}

func scanRSDP(mem Memory, start, size uint64) uint64 {
	for p := start; p < start+size; p += 16 {
		if validRSDP(mem, p) {
			return p
		}
	}
	return 0
}

const rsdpSig = "RSD PTR "

func validRSDP(mem Memory, p uint64) bool {
	b := mem.Bytes(p, 20)
	return b != nil && string(b[:8]) == rsdpSig && sum(b) == 0
}

// OEM is who made the firmware (OEMID, 5.2.5.3); zero if there is no ACPI.
func OEM(mem Memory, rsdp uint64) (id [6]byte) {
	if rsdp != 0 && validRSDP(mem, rsdp) {
		copy(id[:], mem.Bytes(rsdp, 20)[9:])
	}
	return id
}

// Table returns the n-th table (from 0) with the given signature, or nil.
func Table(mem Memory, rsdp uint64, sig string, n int) []byte {
	if len(sig) != 4 {
		return nil
	}
	t, width := root(mem, rsdp)
	for o := uint64(headerSize); o+width <= uint64(len(t)); o += width {
		a := uint64(le.Uint32(t[o:]))
		if width == 8 {
			a = le.Uint64(t[o:])
		}
		h := mem.Bytes(a, headerSize)
		if h == nil || string(h[:4]) != sig {
			continue
		}
		if n > 0 {
			n--
			continue
		}
		return At(mem, a)
	}
	return nil
}

// root returns the table of tables and how wide its addresses are: the XSDT where the
// RSDP names one and it is sound, else the RSDT, else nil.
func root(mem Memory, rsdp uint64) (t []byte, width uint64) {
	if rsdp == 0 || !validRSDP(mem, rsdp) {
		return nil, 8
	}
	r := mem.Bytes(rsdp, 20)
	if r[15] >= 2 { // revision
		if x := mem.Bytes(rsdp, 36); x != nil && sum(x) == 0 {
			if t := At(mem, le.Uint64(x[24:])); t != nil && string(t[:4]) == "XSDT" {
				return t, 8
			}
		}
	}
	if t := At(mem, uint64(le.Uint32(r[16:]))); t != nil && string(t[:4]) == "RSDT" {
		return t, 4
	}
	return nil, 8
}

// At returns the table at a physical address if its length and checksum are good.
func At(mem Memory, addr uint64) []byte {
	h := mem.Bytes(addr, headerSize)
	if h == nil {
		return nil
	}
	n := uint64(le.Uint32(h[4:]))
	if n < headerSize || n > maxTable {
		return nil
	}
	t := mem.Bytes(addr, n)
	if t == nil || sum(t) != 0 {
		return nil
	}
	return t
}
