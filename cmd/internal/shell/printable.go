package shell

import "unicode/utf8"

// Printable shows what came from elsewhere, a guest or another host, without what would steer the operator's terminal.
func Printable(s string) string {
	clean := true
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\n' && s[i] != '\t' || s[i] == 0x7f || s[i] >= utf8.RuneSelf {
			clean = false
		}
	}
	if clean {
		return s
	}
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(s)+16)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\n' && r != '\t', r >= 0x7f && r < 0xa0:
			for i := range n {
				out = append(out, '\\', 'x', hex[s[i]>>4], hex[s[i]&15])
			}
		default:
			out = append(out, s[:n]...)
		}
		s = s[n:]
	}
	return string(out)
}
