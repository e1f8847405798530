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
	g.mu.Lock()
	switch {
	case g.state != InDoubt:
		g.mu.Unlock()
		return fmt.Errorf("migrate: guest %q is not in doubt: there is nothing to settle", g.machine.Name)
	case g.settled != nil:
		g.mu.Unlock()
		return fmt.Errorf("migrate: guest %q is being settled already", g.machine.Name)
	}
	g.settled = &how
	g.decided() // a question under way to the target is not waited for
	g.mu.Unlock()
	<-g.done
	if g.State() == InDoubt { // Close came first
		return fmt.Errorf("migrate: guest %q stays in doubt: this host is going down", g.machine.Name)
	}
	if g.obeyed != how {
		return fmt.Errorf("migrate: guest %q was not in doubt any more: it %s", g.machine.Name, g.obeyed.where())
	}
	return nil
}

// where the guest runs after a Settlement, or after an answer that came to the same.
func (s Settlement) where() string {
	if s == SettleResume {
		return "runs here"
	}
	return "is given up here"
}

// commit hands the guest over. The state is Committing: from here on only the
// target's word lets it run here again (rule S2).
func (g *Migration) commit(l *link) {
	// If sending fails the link has ended, and expect says so, unless the
	// message went out all the same and its answer is here already.
	_ = l.send(msgCommit, commitFrame(g.id))
	b, err := g.expect(l, msgStarted)
	g.hush.over()
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
		g.m.stood(g.stateTime())
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

// stateTime is what the guest stood still for beside its pages. Sending the state may have
// had to wait for those; alone it takes what the line takes for its bytes. What the target
// says of itself lies within what was measured here.
func (g *Migration) stateTime() time.Duration {
	r := g.Report()
	d := r.Downtime
	sent := time.Duration(float64(r.Saved) / max(g.line.rate(), 1) * 1e9)
	return d.Pause + d.State - min(g.sending, d.State) + min(sent, g.sending) + min(max(d.Load, 0), d.Prepare) + min(max(d.Start, 0), d.Commit)
}

func (g *Migration) release() {
	g.guest.Release()
	g.tracked, g.paused = false, false
}

// ask asks the target what has become of the guest until it knows, or the
// operator does.
func (g *Migration) ask(why error) {
	ctx, decided := context.WithCancel(g.m.ctx)
	defer decided()
	g.mu.Lock()
	g.decided = decided
	g.mu.Unlock()
	g.enter(InDoubt)
	close(g.doubt)
	for {
		o, err := g.query(ctx)
		switch {
		case err == nil && o == outcomeStarted:
			g.rep.update(func(r *Report) { r.Doubt, r.Downtime.Total = "", time.Since(g.stopped) })
			g.release()
			g.obeyed = SettleRelease
			g.end(Done, nil)
			return
		case err == nil && o == outcomeNotStarted:
			g.keep()
			g.obeyed = SettleResume
			g.rep.update(func(r *Report) { r.Doubt = "" })
			g.end(Failed, fmt.Errorf("migrate: the guest was not started on %s and runs here: %w", g.address, why))
			return
		case err == nil && o == outcomeUnknown:
			err = errors.New("that host was restarted or has forgotten")
		}
		if how, ok := g.order(); ok {
			g.obeyed = how
			g.rep.update(func(r *Report) { r.Doubt = "" })
			if how == SettleRelease {
				g.release()
				g.end(Done, nil)
			} else {
				g.keep()
				g.end(Failed, fmt.Errorf("migrate: settled by the operator: the guest runs here: %w", why))
			}
			return
		}
		if g.m.ctx.Err() != nil {
			g.final = ErrInDoubt
			return
		}
		text := "it is being started there"
		if err != nil {
			text = fmt.Sprintf("no answer to the commit (%v) nor to the question about it (%v): look whether the guest runs on %s; if not, `migrate settle %s resume`, else `migrate settle %s release`",
				why, err, g.address, g.machine.Name, g.machine.Name)
		}
		g.rep.update(func(r *Report) { r.Doubt = text })
		g.notify()
		wait := time.NewTimer(g.m.cfg.Timing.Retry)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
	}
}

// order is what the operator decided, if he has.
func (g *Migration) order() (Settlement, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settled == nil {
		return 0, false
	}
	return *g.settled, true
}

// query asks the target once.
func (g *Migration) query(ctx context.Context) (outcome, error) {
	l, h, err := g.greet(ctx, purposeQuery)
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
