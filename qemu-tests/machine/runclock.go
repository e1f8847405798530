package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// runClock counts the wall time during which a process was not kept waiting for a processor. Time-outs in it mean the
// same on a busy machine as on a quiet one.
type runClock struct {
	pid int

	mu    sync.Mutex
	last  time.Time
	waits map[string]time.Duration // each thread's waiting so far
	run   time.Duration
}

func newRunClock(pid int) *runClock {
	now := time.Now()
	return &runClock{pid: pid, last: now, waits: map[string]time.Duration{}}
}

// read is called at least every few hundred milliseconds by whoever waits.
func (c *runClock) read() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	elapsed := now.Sub(c.last)
	c.last = now
	c.run += max(0, elapsed-c.longestWait())
	return c.run
}

// longestWait returns how long the thread that waited most was runnable but not running since the last call
// (Documentation/scheduler/sched-stats.rst: /proc/PID/schedstat, second field). Kernels without it wait for nothing.
func (c *runClock) longestWait() (longest time.Duration) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.pid)) // the pattern is well formed
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has just ended
		}
		var run, wait int64
		if _, err := fmt.Sscan(strings.TrimSpace(string(b)), &run, &wait); err != nil {
			continue
		}
		if before, ok := c.waits[f]; ok {
			longest = max(longest, time.Duration(wait)-before)
		}
		c.waits[f] = time.Duration(wait)
	}
	return longest
}
