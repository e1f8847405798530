package main

import "strings"

// A replay shows what a guest printed earlier without what asks the terminal something (ECMA-48, 8.3.24 DA, 8.3.35 DSR;
// xterm's control sequences). The guest asked a terminal of that time; today's would answer too, and the answers be typed
// into whatever the guest does now: BusyBox's shell asks where the cursor is at each prompt.
type replay struct {
	seq []byte // an escape sequence that has not ended
	out []byte
}

const (
	esc = 0x1b
	enq = 0x05
	bel = 0x07
	can = 0x18
	sub = 0x1a
	del = 0x7f

	maxReplaySequence = 256 // longer ones are dropped
)

// show returns what of in is shown; it is overwritten by the next call.
func (r *replay) show(in []byte) []byte {
	r.out = r.out[:0]
	for _, b := range in {
		switch {
		case b == enq && !isString(r.seq):
		case len(r.seq) == 0 && b != esc:
			r.out = append(r.out, b)
		case b < 0x20 && b != esc && b != can && b != sub && !isString(r.seq): // done at once, and the sequence goes on
			r.out = append(r.out, b)
		case b == del:
		default:
			if b == esc && !isString(r.seq) { // what had begun is given up
				r.seq = r.seq[:0]
			}
			r.seq = append(r.seq, b)
			ended, asks := sequence(r.seq)
			if ended && !asks {
				r.out = append(r.out, r.seq...)
			}
			if ended || len(r.seq) >= maxReplaySequence {
				r.seq = r.seq[:0]
			}
		}
	}
	return r.out
}

// rest is what show holds back; its end is printed by a guest of today.
func (r *replay) rest() []byte {
	s := r.seq
	r.seq = nil
	return s
}

// sequence looks at an escape sequence's last byte: does it end it, and is it a question?
func sequence(s []byte) (ended, asks bool) {
	if len(s) < 2 {
		return false, false
	}
	last := s[len(s)-1]
	switch s[1] {
	case '[': // CSI, parameters 30h-3Fh, intermediates 20h-2Fh, final 40h-7Eh
		switch {
		case len(s) == 2 || last >= 0x20 && last < 0x40:
			return false, false
		case last == 'n' || last == 'c' || last == 't' || last == 'x':
			return true, true
		case last == 'p' || last == 'q' || last == 'u': // with a prefix or an intermediate byte they ask for modes, version, keyboard
			return true, s[2] < '0' || s[2] > ';' && s[2] < 0x40 || len(s) > 3 && s[len(s)-2] < '0'
		}
		return true, false
	}
	if isString(s) { // ended by BEL or ESC \: titles, and questions about colours and capabilities
		return last == bel || len(s) > 3 && last == '\\' && s[len(s)-2] == esc, true
	}
	return true, s[1] == 'Z'
}

// isString tells whether s begins one of the sequences that hold text: OSC, DCS, APC, PM, SOS (ECMA-48, 5.6).
func isString(s []byte) bool {
	return len(s) > 1 && strings.IndexByte("]P_^X", s[1]) >= 0
}
