package console

import (
	"io"
	"unicode/utf8"
)

// editKeys passes on to the line editor what it understands, whole keys only, and drops the rest: a serial line brings
// noise, and half a key, or a byte that is no UTF-8, would make the editor wait for more and keep what was typed behind it.
// ^C becomes "forget this line"; ^D and NUL nothing: a serial console has no end. The marks around a pasted text are dropped,
// because with the second one lost the editor would take control keys for text.
type editKeys struct {
	r io.Reader
	// ask asks the terminal for its width, and width takes the answer; nil where there is no terminal.
	ask   func()
	width func(columns int)
	asked bool
	part  []byte // of a key: an escape sequence or UTF-8
	out   []byte // keys that did not fit: none if Read's buffer has some 30 bytes
}

// maxSequence is how long an escape sequence may be: the longest that the editor knows has 6 bytes.
const maxSequence = 16

const (
	escapeKey = 0x1b
	clearKey  = 0x0c // ^L
)

// Read ends behind a line's end at the latest if r's Read does.
func (e *editKeys) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(e.out) == 0 {
		// A byte makes two at most, or ends a sequence: what is read now fits, and no key is cut in two.
		var in [64]byte
		n, err := e.r.Read(in[:max(1, min(len(in), (len(p)-maxSequence)/2))])
		for _, b := range in[:n] {
			e.key(b)
		}
		if err != nil && len(e.out) == 0 {
			return 0, err
		}
	}
	n := copy(p, e.out)
	e.out = append(e.out[:0], e.out[n:]...)
	return n, nil
}

// key takes one byte.
func (e *editKeys) key(b byte) {
	if b < ' ' || b == 0x7f { // also ends what was begun
		e.part = e.part[:0]
		switch b {
		case 3:
			e.out = append(e.out, 5, 21) // to the line's end, then erase to its start
		case 0, 4:
		case escapeKey:
			e.part = append(e.part, b)
		case clearKey:
			e.out = append(e.out, b)
			if e.ask != nil {
				e.asked = true
				e.ask()
			}
		default:
			e.out = append(e.out, b)
		}
		return
	}
	if len(e.part) == 0 && b < utf8.RuneSelf {
		e.out = append(e.out, b)
		return
	}
	e.part = append(e.part, b)
	if e.part[0] == escapeKey {
		switch {
		case whole(e.part):
			if n, ok := reportedWidth(e.part); ok && e.asked {
				e.asked = false
				e.width(n)
				e.out = append(e.out, clearKey) // once more, as wide as it is
			} else if s := string(e.part); s != "\x1b[200~" && s != "\x1b[201~" {
				e.out = append(e.out, s...)
			}
		case len(e.part) < maxSequence && (len(e.part) == 1 || e.part[1] == '[') && b >= ' ' && b < 0x40 || len(e.part) == 2 && (b == '[' || b == 'O'):
			return // more is to come
		}
		e.part = e.part[:0]
		return
	}
	for len(e.part) > 0 && utf8.FullRune(e.part) {
		r, n := utf8.DecodeRune(e.part)
		if r != utf8.RuneError {
			e.out = append(e.out, e.part[:n]...)
		}
		e.part = append(e.part[:0], e.part[n:]...)
	}
}

// whole tells whether s is a whole escape sequence that the editor finds the end of (ECMA-48, 5.4): ESC [ parameters letter.
func whole(s []byte) bool {
	if len(s) < 3 || s[0] != escapeKey || s[1] != '[' && s[1] != 'O' {
		return false
	}
	for _, b := range s[2 : len(s)-1] {
		if b < ' ' || b >= 0x40 {
			return false
		}
	}
	b := s[len(s)-1]
	return b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || b == '~'
}
