package main

import (
	"strings"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/migrate"
)

// moveProgress shows how far a move is. The move does not wait for it: a terminal may be slow or stuck, and the guest
// may be standing still. What does not fit is left out; the result tells all.
type moveProgress struct {
	c    *shell.Call
	news chan migrate.Report
	stop chan struct{} // closed when the command ends
	done chan struct{}

	state string // shown last
	round int    // to be shown next
}

func showProgress(c *shell.Call) *moveProgress {
	p := &moveProgress{c: c, news: make(chan migrate.Report, 64), stop: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

// notify is migrate.Options.Notify. It may be called after end: a move in doubt outlives its command.
func (p *moveProgress) notify(r migrate.Report) {
	select {
	case p.news <- r:
	default:
	}
}

// end shows what is left.
func (p *moveProgress) end() {
	close(p.stop)
	<-p.done
}

func (p *moveProgress) run() {
	defer close(p.done)
	for {
		select {
		case r := <-p.news:
			p.show(r)
		case <-p.stop:
			for {
				select {
				case r := <-p.news:
					p.show(r)
				default:
					return
				}
			}
		}
	}
}

func (p *moveProgress) show(r migrate.Report) {
	if r.State != p.state {
		p.state = r.State
		p.c.Printf("%s\n", strings.ToLower(r.State))
		if r.State == migrate.Stopping.String() && r.Estimate > r.Limit {
			p.c.Printf("it will stand still for about %v, more than the %v allowed (diverge=giveup leaves a machine here that writes faster than the line carries)\n",
				r.Estimate.Round(time.Millisecond), r.Limit)
		}
	}
	if n := len(r.Rounds) - 1; n >= p.round {
		p.round = n + 1
		d := r.Rounds[n]
		p.c.Printf("round %d: %d pages, %s sent in %v at %s/s; %d pages written meanwhile (%.0f/s), downtime would be %v\n", n, d.Pages,
			shell.Bytes(d.Bytes), d.Duration.Round(time.Millisecond), shell.Bytes(uint64(r.Bandwidth)), d.Dirtied, r.DirtyRate, r.Estimate.Round(time.Millisecond))
	}
}
