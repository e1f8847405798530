package console

import "strings"

// A history is what the up key brings back: the last lines, but no empty one and none twice in a row.
type history struct{ lines []string }

const maxHistory = 100

func (h *history) Add(line string) {
	if strings.TrimSpace(line) == "" || len(h.lines) > 0 && h.lines[len(h.lines)-1] == line {
		return
	}
	if len(h.lines) == maxHistory {
		h.lines = append(h.lines[:0], h.lines[1:]...)
	}
	h.lines = append(h.lines, line)
}

func (h *history) Len() int { return len(h.lines) }

// At is the line before last for 1, and so on.
func (h *history) At(n int) string { return h.lines[len(h.lines)-1-n] }
