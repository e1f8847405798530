package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Settlement is an operator's decision about a guest in doubt.
type Settlement uint8

const (
	SettleResume  Settlement = iota // it does not run there: run it here
	SettleRelease                   // it runs there, or is lost: give it up here
)

// Settle decides about a guest in doubt. The operator takes the word of the
// protocol's rule S2 upon himself: he has seen where the guest runs.
func (g *Migration) Settle(how Settlement) error {
	if how > SettleRelease {
		return fmt.Errorf("migrate: settlement %d does not exist", how)
	}
	if g.State() != InDoubt {
		return fmt.Errorf("migrate: guest %q is not in doubt", g.machine.Name)
	}
	select {
	case g.order <- how:
		<-g.done
		return nil
	case <-g.done:
		return fmt.Errorf("migrate: guest %q is not in doubt any more", g.machine.Name)
	}
}

// commit hands the guest over. The state is Committing: from here on only the
// target's word lets it run here again (rule S2).
func (g *Migration) commit(l *link) {
	// If sending fails the link has ended, and expect says so, unless the
	// message went out all the same and its answer is here already.
	_ = l.send(msgCommit, commitFrame(g.id))
	b, err := g.expect(l, msgStarted)
	var peer *PeerError
	switch {
	case err == nil:
		g.part(func(d *Downtime) *time.Duration { return &d.Commit })
		g.rep.update(func(r *Report) {
			r.Downtime.Total = time.Since(g.stopped)
			r.Bytes = l.written.Load()
			if start, err := parseU64(msgStarted, b); err == nil {
				r.Downtime.Start = time.Duration(start)
			}
		})
		g.release()
		l.close(context.Canceled)
		g.end(Done, nil)
	case errors.As(err, &peer):
		g.keep()
		l.close(err)
		g.end(Failed, err)
	default:
		l.close(err)
		g.ask(err)
	}
}

func (g *Migration) release() {
	g.guest.Release()
	g.tracked, g.paused = false, false
}

// ask asks the target what has become of the guest until it knows, or the
// operator does.
func (g *Migration) ask(why error) {
	g.enter(InDoubt)
	close(g.doubt)
	for {
		o, err := g.query()
		switch {
		case err == nil && o == outcomeStarted:
			g.rep.update(func(r *Report) { r.Doubt, r.Downtime.Total = "", time.Since(g.stopped) })
			g.release()
			g.end(Done, nil)
			return
		case err == nil && o == outcomeNotStarted:
			g.keep()
			g.rep.update(func(r *Report) { r.Doubt = "" })
			g.end(Failed, fmt.Errorf("migrate: the guest was not started on %s and runs here: %w", g.address, why))
			return
		case err == nil && o == outcomeUnknown:
			err = errors.New("that host was restarted or has forgotten")
		}
		text := "it is being started there"
		if err != nil {
			text = fmt.Sprintf("no answer to the commit (%v) nor to the question about it (%v): look whether the guest runs on %s, then settle it with resume or release", why, err, g.address)
		}
		g.rep.update(func(r *Report) { r.Doubt = text })
		g.notify()
		wait := time.NewTimer(g.m.cfg.Timing.Retry)
		select {
		case <-wait.C:
		case <-g.m.ctx.Done():
			wait.Stop()
			g.final = ErrInDoubt
			return
		case how := <-g.order:
			wait.Stop()
			if how == SettleRelease {
				g.release()
				g.end(Done, nil)
			} else {
				g.keep()
				g.end(Failed, fmt.Errorf("migrate: settled by the operator: the guest runs here: %w", why))
			}
			return
		}
	}
}

// query asks the target once.
func (g *Migration) query() (outcome, error) {
	l, h, err := g.greet(g.m.ctx, purposeQuery)
	if l != nil {
		defer l.close(context.Canceled)
	}
	if err != nil {
		return 0, err
	}
	b, err := g.expect(l, msgOutcome)
	if err != nil {
		return 0, err
	}
	o, err := parseOutcome(b)
	if err == nil && h.host != g.target {
		// Another life of that host, or another host: what it says of a
		// migration that it never saw is worth nothing.
		return outcomeUnknown, nil
	}
	return o, err
}
