package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/migrate"
	"godwit/vmm"
)

func (h *host) migrateCommands() []*shell.Command {
	return []*shell.Command{
		{Name: "vm migrate", Args: "NAME HOST[:PORT] [downtime=MS] [rounds=N] [group=PAGES] [diverge=stop|giveup] [verify=yes]",
			Summary: "move a running machine to another host",
			Detail: "downtime is the longest the guest may stand still, in milliseconds (default 300). rounds bounds the passes over memory. " +
				"group is how many pages one write fault opens at most. diverge says what to do with a guest that writes faster than " +
				"the line carries: stop it all the same (the default), or give up. verify compares every page before the hand-over.\n" +
				"^C cancels; until the hand-over the guest goes on running here.",
			Example: "vm migrate web 192.0.2.11 downtime=100", Shows: true, Run: h.cmdMigrate, Complete: h.completeVMThen("downtime=", "rounds=", "group=", "diverge=stop", "diverge=giveup", "verify=yes")},
		{Name: "migrate list", Summary: "list the migrations from and to this host", Example: "migrate list", Shows: true, Run: h.cmdMigrateList},
		{Name: "migrate cancel", Args: "NAME", Summary: "cancel a machine's migration, from this host or to it; it goes on running where it was", Example: "migrate cancel web", Run: func(c *shell.Call) error {
			return h.onMigration(c, "a machine's name is wanted", 1, func(name string) error { return h.mover.Cancel(name) })
		}, Complete: h.completeVM},
		{Name: "migrate settle", Args: "NAME resume|release", Summary: "decide about a machine in doubt, after looking at the other host",
			Detail:  "resume: it does not run there, so run it here. release: it runs there, so give it up here.",
			Example: "migrate settle web release", Run: h.cmdMigrateSettle, Complete: h.completeVMThen("resume", "release")},
	}
}

func (h *host) onMigration(c *shell.Call, wanted string, args int, f func(name string) error) error {
	if len(c.Args) != args {
		return shell.Usagef("%s", wanted)
	}
	if err := h.canMigrate(); err != nil {
		return err
	}
	return f(c.Args[0])
}

func (h *host) canMigrate() error {
	switch {
	case h.vms == nil:
		return h.virtErr
	case h.mover == nil:
		return errors.New("the network is off (ip=none on the command line)")
	}
	return nil
}

type report struct{ migrate.Report }

func (h *host) cmdMigrate(c *shell.Call) error {
	if len(c.Args) < 2 {
		return shell.Usagef("a machine and a host are wanted")
	}
	if err := h.canMigrate(); err != nil {
		return err
	}
	var o migrate.Options
	for _, a := range c.Args[2:] {
		k, v, _ := strings.Cut(a, "=")
		n, err := strconv.Atoi(v)
		number := k == "downtime" || k == "rounds" || k == "group"
		if number && (err != nil || n < 1) {
			return shell.Usagef("%s: %q is no number above 0", k, v)
		}
		switch {
		case k == "downtime":
			if n > 3600000 {
				return shell.Usagef("downtime: %d ms is more than an hour", n)
			}
			o.Downtime = time.Duration(n) * time.Millisecond
		case k == "rounds":
			o.MaxRounds = n
		case k == "group":
			o.MaxGroup = n
		case a == "diverge=stop":
			o.NonConvergent = migrate.StopAnyway
		case a == "diverge=giveup":
			o.NonConvergent = migrate.GiveUp
		case a == "verify=yes":
			o.Verify = true
		default:
			return shell.Usagef("unknown option %q", a)
		}
	}
	vm, err := h.vms.Get(c.Args[0])
	if err != nil {
		return err
	}
	if s := vm.Status(); s != vmm.Running && s != vmm.Arriving { // of the latter the mover knows more
		return fmt.Errorf("vm %s is %v: only a running machine can be moved", vm.Name(), s)
	}
	progress := showProgress(c)
	o.Notify = progress.notify
	r, err := h.mover.Migrate(c.Ctx, c.Args[0], c.Args[1], o)
	progress.end()
	if err != nil {
		return err
	}
	return c.Show(report{r})
}

func (r report) Text(w io.Writer) {
	way := "to"
	if r.Incoming {
		way = "from"
	}
	fmt.Fprintf(w, "%s %s %s: %s", r.Guest, way, r.Peer, strings.ToLower(r.State))
	if r.Error != "" {
		fmt.Fprintf(w, ": %s", r.Error)
	}
	fmt.Fprintln(w)
	if r.Doubt != "" {
		fmt.Fprintln(w, "  "+r.Doubt)
	}
	if r.Bytes == 0 && r.Error != "" {
		return // it did not come to anything that could be counted
	}
	t := shell.Table{}
	t.Row("  total time", r.Total.Round(time.Millisecond))
	t.Row("  rounds", len(r.Rounds)+r.Forgotten)
	t.Row("  pages", fmt.Sprintf("%d, of which %d were zero; %d not sent because written again, %d because unchanged", r.Pages, r.Zero, r.Skipped, r.Same))
	t.Row("  sent", fmt.Sprintf("%s, of which state %s; %d pages compressed, of %d only changes", shell.Bytes(r.Bytes), shell.Bytes(r.Saved), r.Packed, r.Deltas))
	t.Row("  write faults", fmt.Sprintf("%d, which opened %d pages", r.Faults, r.Opened))
	if d := r.Downtime; d.Total > 0 {
		us := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
		verify := ""
		if d.Verify != 0 {
			verify = fmt.Sprintf(" + verify %v", us(d.Verify))
		}
		if r.Estimate > 0 { // by the source
			foretold := us(r.Estimate).String()
			if r.Estimate > r.Limit {
				foretold += fmt.Sprintf(", more than the %v allowed", r.Limit)
			}
			t.Row("  foretold", foretold)
		}
		over := ""
		if r.Limit > 0 && d.Total-d.Verify > r.Limit { // whoever wants sums knows that they take their time
			over = fmt.Sprintf("; more than the %v allowed", r.Limit)
		}
		t.Row("  downtime", fmt.Sprintf("%v = pause %v + last pass %v%s + state %v + prepare %v + commit %v%s", us(d.Total), us(d.Pause), us(d.LastPass), verify, us(d.State), us(d.Prepare), us(d.Commit), over))
	}
	t.Text(w)
}

type reports []migrate.Report

func (rs reports) Text(w io.Writer) {
	if len(rs) == 0 {
		fmt.Fprintln(w, "no migration yet")
	}
	for _, r := range rs {
		report{r}.Text(w)
	}
}

func (h *host) cmdMigrateList(c *shell.Call) error {
	if err := h.canMigrate(); err != nil {
		return err
	}
	rs := h.mover.List()
	if rs == nil {
		rs = []migrate.Report{}
	}
	return c.Show(reports(rs))
}

func (h *host) cmdMigrateSettle(c *shell.Call) error {
	return h.onMigration(c, "a machine's name and resume or release are wanted", 2, func(name string) error {
		switch c.Args[1] {
		case "resume":
			return h.mover.Settle(name, migrate.SettleResume)
		case "release":
			return h.mover.Settle(name, migrate.SettleRelease)
		}
		return shell.Usagef("%q is neither resume nor release", c.Args[1])
	})
}
