package acpi

import (
	"encoding/binary"
	"fmt"
)

// AML is encoded byte code (ACPI 6.4, chapter 20). The functions below each make
// one term; terms are put together by giving one to another.
type AML []byte

// Opcodes (section 20.3).
const (
	opZero       = 0x00
	opOne        = 0x01
	opName       = 0x08
	opByte       = 0x0a
	opWord       = 0x0b
	opDWord      = 0x0c
	opString     = 0x0d
	opQWord      = 0x0e
	opScope      = 0x10
	opBuffer     = 0x11
	opPackage    = 0x12
	opExt        = 0x5b
	opExtDevice  = 0x82
	prefixRoot   = '\\'
	prefixDual   = 0x2e
	prefixMulti  = 0x2f
	segmentBytes = 4
)

func cat(terms ...AML) (out AML) {
	for _, t := range terms {
		out = append(out, t...)
	}
	return out
}

// name encodes a path such as \_SB.PCI0; each segment is padded with underscores
// (section 20.2.2).
func name(path string) (out AML) {
	if path != "" && path[0] == prefixRoot {
		out, path = append(out, prefixRoot), path[1:]
	}
	var segs []string
	for path != "" {
		n := 0
		for n < len(path) && path[n] != '.' {
			n++
		}
		segs = append(segs, path[:n])
		if path = path[n:]; path != "" {
			path = path[1:]
		}
	}
	switch len(segs) {
	case 0:
		return append(out, 0)
	case 1:
	case 2:
		out = append(out, prefixDual)
	default:
		out = append(out, prefixMulti, byte(len(segs)))
	}
	for _, s := range segs {
		if len(s) == 0 || len(s) > segmentBytes {
			panic(fmt.Sprintf("acpi: %q is no name segment", s))
		}
		out = append(out, s...)
		for range segmentBytes - len(s) {
			out = append(out, '_')
		}
	}
	return out
}

// pkgLength prepends the length of a term that contains others, itself included
// (section 20.2.4).
func pkgLength(content AML) AML {
	n := len(content)
	switch {
	case n+1 < 1<<6:
		return append(AML{byte(n + 1)}, content...)
	case n+2 < 1<<12:
		n += 2
		return append(AML{1<<6 | byte(n&15), byte(n >> 4)}, content...)
	case n+3 < 1<<20:
		n += 3
		return append(AML{2<<6 | byte(n&15), byte(n >> 4), byte(n >> 12)}, content...)
	}
	panic("acpi: a term of more than a megabyte")
}

// integer is the shortest encoding of v.
func integer(v uint64) AML {
	switch {
	case v == 0:
		return AML{opZero}
	case v == 1:
		return AML{opOne}
	case v < 1<<8:
		return AML{opByte, byte(v)}
	case v < 1<<16:
		return binary.LittleEndian.AppendUint16(AML{opWord}, uint16(v))
	case v < 1<<32:
		return binary.LittleEndian.AppendUint32(AML{opDWord}, uint32(v))
	}
	return binary.LittleEndian.AppendUint64(AML{opQWord}, v)
}

func text(s string) AML { return append(append(AML{opString}, s...), 0) }

// eisaID packs an ID such as PNP0A03 (the EISAID macro of section 19.6).
func eisaID(id string) AML {
	if len(id) != 7 {
		panic(fmt.Sprintf("acpi: %q is no EISA ID", id))
	}
	var v uint32
	for _, c := range id[:3] {
		v = v<<5 | uint32(c-'@')
	}
	var product uint32
	if _, err := fmt.Sscanf(id[3:], "%04X", &product); err != nil {
		panic(fmt.Sprintf("acpi: %q is no EISA ID", id))
	}
	// The ID is big-endian in the integer's bytes.
	return binary.BigEndian.AppendUint32(AML{opDWord}, v<<16|product)
}

func define(path string, value AML) AML { return cat(AML{opName}, name(path), value) }

func scope(path string, terms ...AML) AML {
	return cat(AML{opScope}, pkgLength(cat(name(path), cat(terms...))))
}

func dev(path string, terms ...AML) AML {
	return cat(AML{opExt, opExtDevice}, pkgLength(cat(name(path), cat(terms...))))
}

func pkg(elements ...AML) AML {
	if len(elements) > 255 {
		panic("acpi: a package of more than 255 elements")
	}
	return cat(AML{opPackage}, pkgLength(cat(AML{byte(len(elements))}, cat(elements...))))
}

func buffer(b []byte) AML {
	return cat(AML{opBuffer}, pkgLength(cat(integer(uint64(len(b))), b)))
}
