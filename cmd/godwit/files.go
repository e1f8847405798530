package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/kernel"
	"godwit/vnet/fetch"
)

// maxFile is the largest file a host takes into its memory, be there ever so much.
const maxFile = 2 << 30

// fetching is what transfers under way may still take of the host's memory: a server
// that never stops sending must not exhaust it.
var fetching memoryPromises

type memoryPromises struct {
	mu       sync.Mutex
	promised uint64
}

// take promises a transfer what it may need, three quarters of what is free and not
// promised to others, until release. A file may be half of that (see fetch.Client).
func (p *memoryPromises) take(free uint64) (limit int64, release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(maxFile, (free-min(free, p.promised))/8*3)
	p.promised += 2 * n
	return max(1, int64(n)), func() {
		p.mu.Lock()
		p.promised -= 2 * n
		p.mu.Unlock()
	}
}

// file gets what a name stands for: module:NAME, http://..., tftp://...
func (h *host) file(c *shell.Call, name string) ([]byte, error) {
	if m, ok := strings.CutPrefix(name, "module:"); ok {
		data, ok := module(m)
		if !ok {
			return nil, fmt.Errorf("no boot module is named %q; there are: %s", m, moduleNames())
		}
		return data, nil
	}
	if !strings.HasPrefix(name, "http://") && !strings.HasPrefix(name, "tftp://") {
		return nil, fmt.Errorf("%q: write module:NAME, http://HOST/PATH or tftp://HOST/PATH", name)
	}
	if h.net == nil {
		return nil, fmt.Errorf("%s: the network is off (ip=none)", name)
	}
	ctx, cancel := context.WithTimeout(c.Ctx, netWait)
	err := h.net.Up(ctx)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("%s: the network is not up: %w", name, err)
	}
	debug.FreeOSMemory() // an earlier file that nobody has any more does not make this one's share smaller
	limit, release := fetching.take(kernel.Memory().Free)
	defer release()
	last := time.Now()
	cl := fetch.Client{Net: h.net, Limit: limit, Progress: func(done, total int64) {
		if time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		if total > 0 {
			c.Printf("%s: %s of %s (%d %%)\n", name, shell.Bytes(uint64(done)), shell.Bytes(uint64(total)), 100*done/total)
		} else {
			c.Printf("%s: %s\n", name, shell.Bytes(uint64(done)))
		}
	}}
	data, err := cl.Get(c.Ctx, name)
	if errors.Is(err, fetch.ErrTooLarge) {
		err = fmt.Errorf("%w; a file may be three eighths of the memory that is free here: %s", err, shell.Bytes(uint64(limit)))
	}
	return data, err
}

// netWait is how long a command waits for the network to come up.
const netWait = 30 * time.Second
