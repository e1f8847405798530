package shell

import (
	"fmt"
	"strings"
)

// Split cuts a command line into words at blanks. Single quotes keep everything
// between them; double quotes too, but for \" and \\. Quotes may open inside a
// word: cmdline="console=ttyS0 quiet" is one word. With an error come the words before the one that is wrong.
func Split(line string) ([]string, error) {
	var words []string
	var w strings.Builder
	in, quote, at := false, byte(0), 0
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == '"' && c == '\\' && i+1 < len(line) && (line[i+1] == '"' || line[i+1] == '\\'):
			i++
			w.WriteByte(line[i])
		case quote != 0:
			w.WriteByte(c)
		case c == '\'' || c == '"':
			in, quote, at = true, c, i
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			if in {
				words = append(words, w.String())
				w.Reset()
				in = false
			}
		default:
			in = true
			w.WriteByte(c)
		}
	}
	if quote != 0 {
		return words, fmt.Errorf("the quote %c opened at column %d is not closed", quote, at+1)
	}
	if in {
		words = append(words, w.String())
	}
	return words, nil
}
