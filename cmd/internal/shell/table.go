package shell

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A Table is columns of text.
type Table struct {
	Head []string
	rows [][]string
}

// Row adds a row; values are shown as fmt.Print shows them.
func (t *Table) Row(cells ...any) {
	r := make([]string, len(cells))
	for i, c := range cells {
		r[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, r)
}

// Text prints the columns two blanks apart.
func (t *Table) Text(w io.Writer) {
	all := t.rows
	if t.Head != nil {
		all = append([][]string{t.Head}, t.rows...)
	}
	var width []int
	for _, r := range all {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range all {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// Wrap cuts text into lines of at most width columns, at blanks.
func Wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// Bytes shows n with a binary unit, exactly where it can.
func Bytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i, f := 0, float64(n)
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 || f == float64(uint64(f)) {
		return fmt.Sprintf("%d %s", uint64(f), units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// ParseBytes reads what an operator writes for a size: 512M, 2G, 1048576, 64KiB.
func ParseBytes(s string) (uint64, error) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	var n uint64
	for _, c := range s[:i] {
		d := uint64(c - '0')
		if n > (1<<63)/10 {
			return 0, fmt.Errorf("size %q is too large", s)
		}
		n = n*10 + d
	}
	unit := strings.ToUpper(strings.TrimSpace(s[i:]))
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
	shift, ok := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
	if i == 0 || !ok {
		return 0, fmt.Errorf("%q is not a size; write for example 512M, 2G or 1048576", s)
	}
	if n > 1<<62>>shift {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return n << shift, nil
}
