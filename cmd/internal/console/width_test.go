package console

import (
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// screen is what a terminal so many columns wide shows of out, a row a line.
func screen(out string, columns int) string {
	rows, x, y, savedX, savedY := [][]rune{nil}, 0, 0, 0, 0
	put := func(r rune) {
		if x == columns {
			x, y = 0, y+1
		}
		for len(rows) <= y {
			rows = append(rows, nil)
		}
		for len(rows[y]) <= x {
			rows[y] = append(rows[y], ' ')
		}
		rows[y][x] = r
		x++
	}
	for in := []rune(out); len(in) > 0; {
		r := in[0]
		in = in[1:]
		switch {
		case r == '\r':
			x = 0
		case r == '\n':
			y++
		case r == '\x1b' && in[0] == '7':
			savedX, savedY, in = x, y, in[1:]
		case r == '\x1b' && in[0] == '8':
			x, y, in = savedX, savedY, in[1:]
		case r == '\x1b':
			s := string(in)
			end := strings.IndexAny(s, "ABCDHJKhn")
			n := 1
			if end > 1 {
				n, _ = strconv.Atoi(s[1:end])
			}
			switch s[end] {
			case 'A':
				y = max(y-n, 0)
			case 'B':
				y += n
			case 'C':
				x = min(x+n, columns-1)
			case 'D':
				x = max(min(x, columns-1)-n, 0)
			case 'H':
				x, y = 0, 0
			case 'J':
				rows = [][]rune{nil}
			case 'K':
				if y < len(rows) && x < len(rows[y]) {
					rows[y] = rows[y][:x]
				}
			}
			in = in[len([]rune(s[:end+1])):]
		default:
			put(r)
		}
	}
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(strings.TrimRight(string(r), " ") + "\n")
	}
	return strings.TrimSpace(b.String())
}

func TestALongLineOnANarrowTerminalIsPaintedRightAfterCtrlL(t *testing.T) {
	const columns = 40
	y, c := start(t)
	long := "say " + strings.Repeat("0123456789", 7)
	io.WriteString(y, long+"\x0c")
	y.expect(t, askWidth)
	io.WriteString(y, "\x1b[1;40R")
	y.expect(t, "\x1b[H"+Prompt+long[:columns-len(Prompt)]+"\r\n")
	io.WriteString(y, "\x01#") // at the line's start
	c.Log("the host: something")
	want := "the host: something\n" + Prompt + "#" + long[:31] + "\n" + long[31:71] + "\n" + long[71:]
	for range 1000 {
		if screen(y.text(), columns) == want {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := screen(y.text(), columns); got != want {
		t.Fatalf("the terminal shows\n%s\nwant\n%s", got, want)
	}
	io.WriteString(y, "\x03say done\r")
	y.expect(t, "said <done>")
}

func TestOnlyAnAnswerSetsTheTerminalsWidth(t *testing.T) {
	for in, want := range map[string]int{"\x1b[24;80R": 80, "\x1b[1;1000R": 1000, "\x1b[1;19R": 0, "\x1b[1;1001R": 0, "\x1b[80R": 0, "\x1b[1;R": 0, "\x1b[1;2;80R": 0,
		"\x1b[1;99999999999R": 0, "\x1bOR": 0, "\x1b[24;80H": 0} {
		if n, ok := reportedWidth([]byte(in)); ok != (want != 0) || ok && n != want {
			t.Errorf("%q: %d, %v; want %d", in, n, ok, want)
		}
	}
	widths := 0
	e := &editKeys{r: strings.NewReader("\x1b[1;60Ra\x0cb\x1b[1;61Rc\x1b[1;62Rd"), ask: func() {}, width: func(int) { widths++ }}
	b, err := io.ReadAll(e)
	if want := "\x1b[1;60Ra\x0cb\x0cc\x1b[1;62Rd"; err != nil || string(b) != want || widths != 1 {
		t.Errorf("%q, %v, %d widths; want %q and one", b, err, widths, want)
	}
}

func TestTheUpKeyBringsNoEmptyLinesAndNoneTwice(t *testing.T) {
	y, _ := start(t)
	io.WriteString(y, "say one\rsay two\rsay two\r\r  \r\x1b[A\x1b[A!\r")
	y.expect(t, "said <one!>")
	h := &history{}
	for i := range maxHistory + 5 {
		h.Add(strconv.Itoa(i))
	}
	if h.Len() != maxHistory || h.At(0) != "104" || h.At(maxHistory-1) != "5" {
		t.Errorf("%d lines from %q to %q", h.Len(), h.At(maxHistory-1), h.At(0))
	}
}
