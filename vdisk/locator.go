package vdisk

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A locator is where a differencing image's parent is to be found (2.6.2.6).
type locator map[string]string

const (
	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyVolume   = "volume_path"
	keyAbsolute = "absolute_win32_path"
)

// linkage is a parent's identity as a locator has it: in lower case (2.6.2.6.3), and
// some readers accept nothing else.
func linkage(g GUID) string { return strings.ToLower(g.String()) }

const maxLocatorEntries = 1024

func decodeLocator(b []byte, off int64) (locator, error) {
	if len(b) < 20 {
		return nil, ErrLocator.at(off, "a parent locator of %d bytes", len(b))
	}
	var typ GUID
	copy(typ[:], b)
	if typ != locatorVHDX {
		return nil, ErrLocator.unsupported(off, "a parent locator of type %v", typ)
	}
	n := int(le.Uint16(b[18:]))
	if n > maxLocatorEntries || 20+12*n > len(b) {
		return nil, ErrLocator.at(off+18, "the parent locator claims %d entries", n)
	}
	text := func(at, length int, what string) (string, error) {
		if length == 0 || length%2 != 0 || at < 20+12*n || at > len(b) || length > len(b)-at {
			return "", ErrLocator.at(off+int64(at), "a parent locator's %s (%d bytes) lies outside it", what, length)
		}
		u := make([]uint16, length/2)
		for i := range u {
			u[i] = le.Uint16(b[at+2*i:])
		}
		s := string(utf16.Decode(u))
		for _, r := range s {
			if r == 0 || r == utf8.RuneError {
				return "", ErrLocator.at(off+int64(at), "a parent locator's %s is not text", what)
			}
		}
		return s, nil
	}
	l := make(locator, n)
	for i := range n {
		e := b[20+12*i:]
		k, err := text(int(le.Uint32(e)), int(le.Uint16(e[8:])), "key")
		if err != nil {
			return nil, err
		}
		v, err := text(int(le.Uint32(e[4:])), int(le.Uint16(e[10:])), "value")
		if err != nil {
			return nil, err
		}
		if _, ok := l[k]; ok {
			return nil, ErrLocator.at(off+20+12*int64(i), "the parent locator has the key %q twice", k)
		}
		l[k] = v
	}
	if _, err := ParseGUID(l[keyLinkage]); err != nil {
		return nil, ErrLocator.at(off, "the parent locator has no valid %s", keyLinkage)
	}
	return l, nil
}

func (l locator) encode() ([]byte, error) {
	keys := make([]string, 0, len(l))
	for k := range l {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	b := make([]byte, 20+12*len(keys))
	copy(b, locatorVHDX[:])
	le.PutUint16(b[18:], uint16(len(keys)))
	put := func(s string) (at, n int, err error) {
		u := utf16.Encode([]rune(s))
		if len(u) == 0 || 2*len(u) > 0xffff {
			return 0, 0, fmt.Errorf("vdisk: %q does not fit a parent locator", s)
		}
		at = len(b)
		for _, c := range u {
			b = le.AppendUint16(b, c)
		}
		return at, 2 * len(u), nil
	}
	for i, k := range keys {
		ka, kn, err := put(k)
		if err != nil {
			return nil, err
		}
		va, vn, err := put(l[k])
		if err != nil {
			return nil, err
		}
		e := b[20+12*i:]
		le.PutUint32(e, uint32(ka))
		le.PutUint32(e[4:], uint32(va))
		le.PutUint16(e[8:], uint16(kn))
		le.PutUint16(e[10:], uint16(vn))
	}
	return b, nil
}

// linked tells whether a parent with this DataWriteGUID is the one meant.
func (l locator) linked(g GUID) bool {
	for _, k := range []string{keyLinkage, keyLinkage2} {
		if p, err := ParseGUID(l[k]); err == nil && p == g {
			return true
		}
	}
	return false
}
