package control

import (
	"sync"
	"time"
)

// Of clients that are refused or dropped the log tells only some: whoever can reach the port could otherwise wash
// everything else out of it, and write over the console without end.
const (
	complaintsMost = 5
	complaintsTime = 10 * time.Second
)

// complaints counts them since the first one after a pause.
type complaints struct {
	mu sync.Mutex
	n  int
}

func (s *Server) complain(format string, args ...any) {
	k := &s.complaints
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n++; k.n == 1 {
		time.AfterFunc(complaintsTime, s.complaintsEnd)
	}
	if k.n <= complaintsMost {
		s.Log(format, args...)
	}
}

func (s *Server) complaintsEnd() {
	k := &s.complaints
	k.mu.Lock()
	defer k.mu.Unlock()
	if more := k.n - complaintsMost; more > 0 {
		s.Log("control: %d more clients were refused or dropped in %v", more, complaintsTime)
	}
	k.n = 0
}
