// Package gcoff keeps the garbage collector away from what must not be held up: a measurement, or a guest that stands
// still while it moves.
package gcoff

import (
	"runtime/debug"
	"sync"
)

var users struct {
	sync.Mutex
	n       int
	percent int // before the first
}

// Off waits for the end of a collection in progress. None begins from then on until all who have called Off have called
// what it returned; but where the runtime has been given a memory limit (kernel/heaplimit.go), that holds nevertheless.
func Off() (on func()) {
	users.Lock()
	defer users.Unlock()
	if users.n == 0 {
		users.percent = debug.SetGCPercent(-1)
	}
	users.n++
	return sync.OnceFunc(func() {
		users.Lock()
		defer users.Unlock()
		if users.n--; users.n == 0 {
			debug.SetGCPercent(users.percent)
		}
	})
}
