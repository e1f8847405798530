package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/vnet/fetch"
)

// maxFile is the largest file a host takes into its memory.
const maxFile = 2 << 30

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
	last := time.Now()
	cl := fetch.Client{Net: h.net, Limit: maxFile, Progress: func(done, total int64) {
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
	return cl.Get(c.Ctx, name)
}

// netWait is how long a command waits for the network to come up.
const netWait = 30 * time.Second
