package main

import (
	"strings"
	"testing"
)

func TestOldOutputAsksTheTerminalNothing(t *testing.T) {
	for in, want := range map[string]string{
		"guest# \x1b[6nls\r\n":                   "guest# ls\r\n",
		"\x1b[c\x1b[0c\x1b[>c\x1b[5n\x1bZ\x05.":  ".",
		"\x1b[18t\x1b[?u\x1b[>q\x1b[?25$p.":      ".",
		"\x1b]11;?\x07a\x1b]0;title\x1b\\b":      "ab",
		"\x1bP+q544e\x1b\\.":                     ".",
		"\x1b[\x1b[6n\x1b\x1b[c.":                ".",
		"\x1b[\r6n\x1b\r[c\x1b[\x7f\x056n.":      "\r\r.",
		"\x1b[3\x18\x1b[31m\x1b[1\ny\n":          "\x1b[3\x18\x1b[31m\n\x1b[1y\n",
		"\x1b[31mred\x1b[m \x1b[2J\x1b[1;1H":     "\x1b[31mred\x1b[m \x1b[2J\x1b[1;1H",
		"\x1b7\x1b8\x1b[?25l\x1b[s\x1b[u":        "\x1b7\x1b8\x1b[?25l\x1b[s\x1b[u",
		"a\x00\xff\xc3\xa4\x07":                  "a\x00\xff\xc3\xa4\x07",
		"\x1b]" + strings.Repeat("x", 254) + "y": "y",
	} {
		var whole, bytewise replay
		got := string(whole.show([]byte(in)))
		var each strings.Builder
		for i := range len(in) {
			each.Write(bytewise.show([]byte{in[i]}))
		}
		if got != want || each.String() != want {
			t.Errorf("%q: %q at once, %q byte by byte; want %q", in, got, each.String(), want)
		}
	}
	var r replay
	if got := string(r.show([]byte("now\x1b["))) + string(r.rest()) + "6n"; got != "now\x1b[6n" {
		t.Errorf("what begins before and ends after: %q", got)
	}
}
