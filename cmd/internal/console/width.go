package console

import (
	"bytes"
	"strconv"
)

// A serial line does not tell how wide the terminal at its other end is, so the editor takes it for 80 columns and paints a
// longer line wrongly on a narrower one. Only ^L, the key for a screen that looks wrong, asks: what programs that read the
// line get is then never a question.

// askWidth has the terminal wrap long lines, which firmware that shares the line may have switched off (DECAWM). Then it saves
// the cursor, moves it as far right as the terminal lets it, asks where it is (ECMA-48, 8.3.35 DSR) and puts it back. DECAWM,
// DECSC and DECRC are the VT100's.
const askWidth = "\x1b[?7h\x1b7\x1b[999C\x1b[6n\x1b8"

const (
	minWidth = 20 // less, or more than maxWidth, is noise
	maxWidth = 1000
)

// reportedWidth reads the answer, ESC [ row ; column R (ECMA-48, 8.3.14 CPR).
func reportedWidth(seq []byte) (columns int, ok bool) {
	s, ok := bytes.CutPrefix(seq, []byte("\x1b["))
	if !ok || !bytes.HasSuffix(s, []byte("R")) {
		return 0, false
	}
	_, column, ok := bytes.Cut(s[:len(s)-1], []byte(";"))
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(string(column))
	return n, err == nil && n >= minWidth && n <= maxWidth
}
