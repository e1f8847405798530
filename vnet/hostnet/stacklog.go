package hostnet

import (
	"fmt"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// stackLog passes the stack's warnings on. Packets cause some of them, so there is
// at most one a second: nobody outside fills the host's log.
type stackLog struct {
	to func(string)

	mu      sync.Mutex
	last    time.Time
	skipped int
}

// Emit is log.Emitter's.
func (l *stackLog) Emit(_ int, level log.Level, at time.Time, format string, args ...any) {
	if level != log.Warning {
		return
	}
	l.mu.Lock()
	if at.Sub(l.last) < time.Second {
		l.skipped++
		l.mu.Unlock()
		return
	}
	line := "network stack: " + fmt.Sprintf(format, args...)
	if l.skipped > 0 {
		line += fmt.Sprintf(" (and %d other warnings)", l.skipped)
	}
	l.last, l.skipped = at, 0
	l.mu.Unlock()
	l.to(line)
}
