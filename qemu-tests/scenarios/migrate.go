package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"godwit/qemu-tests/lan"
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func migrations() []*rig.Scenario {
	return []*rig.Scenario{
		{
			Name: "migrate", About: "a guest under load moves ten times between two hosts and loses nothing", Cores: 2, Machines: 2, Limit: 16 * time.Minute,
			Skip: onBochsSlowly, Run: func(ctx context.Context, t *rig.T) error { return migrateBackAndForth(ctx, t, usual, 10) },
		},
		{
			Name: "migrate-2cpus", About: "a guest with two virtual processors moves to a second host and back", Cores: 2, Machines: 2, Limit: 12 * time.Minute,
			Skip: onQEMU, Run: func(ctx context.Context, t *rig.T) error { return migrateBackAndForth(ctx, t, twoCPUs, 2) },
		},
		{
			Name: "migrate-small", About: "a small guest moves to a second slow host and back", Cores: 2, Machines: 2,
			Skip: onlyBochsVTx(tooSmall), Run: func(ctx context.Context, t *rig.T) error { return migrateBackAndForth(ctx, t, smallSpec, 2) },
		},
		{
			Name: "migrate-vendors", About: "a running guest moves from a host with SVM to one with VT-x and back", Cores: 2, Machines: 2,
			Skip: unlikeVendors, Run: func(ctx context.Context, t *rig.T) error { return migrateBetweenVendors(ctx, t, small, 2) },
		},
		migrateFaults(),
	}
}

// A load is a guest that moves.
type load struct {
	cpus, mib int
	options   string // of its workload
	model     string // of its processors
}

var (
	usual   = load{1, 160, "guest=workload guest.mem=24M guest.rate=100", ""}
	twoCPUs = load{2, 160, "guest=workload guest.mem=24M guest.rate=100", ""}
	small   = load{1, 96, "guest=workload guest.mem=4M guest.rate=20", ""}
	// smallSpec is for hosts that have its controls, as Bochs's VT-x does: SPEC_CTRL moves, too.
	smallSpec = load{1, 96, "guest=workload guest.mem=4M guest.rate=20", "godwit-v1+spec"}
)

func onBochsSlowly(g machine.Ground) string {
	if b, ok := g.(machine.Bochs); ok {
		if b.Extension == machine.SVM {
			return tooSlow
		}
		return "ten moves of this guest would take this emulator more than an hour: migrate-small and soak-migrate move another"
	}
	return ""
}

// soakMigrations are for the ground where ten moves take too long for every day.
func soakMigrations() []*rig.Scenario {
	return []*rig.Scenario{
		{
			Name: "soak-migrate", About: "a small guest moves ten times between two slow hosts", Cores: 2, Machines: 2, Limit: 6 * time.Minute,
			Skip: onlyBochsVTx(tooSmall), Run: func(ctx context.Context, t *rig.T) error { return migrateBackAndForth(ctx, t, small, 10) },
		},
		{
			Name: "soak-migrate-vendors", About: "a running guest moves ten times between a host with SVM and one with VT-x", Cores: 2, Machines: 2, Limit: 6 * time.Minute,
			Skip: unlikeVendors, Run: func(ctx context.Context, t *rig.T) error { return migrateBetweenVendors(ctx, t, small, 10) },
		},
	}
}

const tooSmall = "migrate moves a larger guest here, more often"

// onlyBochsVTx limits a scenario to Bochs with VT-x; why is the reason for QEMU.
func onlyBochsVTx(why string) func(machine.Ground) string {
	return func(g machine.Ground) string {
		switch b, ok := g.(machine.Bochs); {
		case !ok:
			return why
		case b.Extension == machine.SVM:
			return tooSlow
		}
		return ""
	}
}

// svmPartner is the ground of the other host where a scenario's ground is Bochs with VT-x and the two shall be of unlike
// vendors.
var svmPartner = machine.QEMU{}

// unlikeVendors runs a scenario once, on Bochs with VT-x, if there is a partner for it.
func unlikeVendors(g machine.Ground) string {
	if b, ok := g.(machine.Bochs); !ok || b.Extension != machine.VTx {
		return "the pair of unlike hosts stands below Bochs/VT-x"
	}
	if err := svmPartner.Available(); err != nil {
		return err.Error()
	}
	return ""
}

// pair is two hosts on one network.
type pair struct {
	lan    *lan.LAN
	ground [2]machine.Ground
	hosts  [2]*rig.Host
	addr   [2]netip.Addr
	nic    [2]*machine.NIC
}

// startPair starts two hosts of the scenario's ground.
func startPair(ctx context.Context, t *rig.T, cpus int) (*pair, error) {
	return startPairOn(ctx, t, cpus, [2]machine.Ground{t.Ground, t.Ground})
}

// startPairOn starts two hosts with as many processors each; the first has the guest's files.
func startPairOn(ctx context.Context, t *rig.T, cpus int, ground [2]machine.Ground) (*pair, error) {
	dir, err := folder(t, "")
	if err != nil {
		return nil, err
	}
	p := &pair{ground: ground}
	if p.lan, err = t.LAN(ctx, dir, ""); err != nil {
		return nil, err
	}
	for i, name := range []string{"host1", "host2"} {
		if p.nic[i], p.addr[i], err = p.lan.NIC(); err != nil {
			return nil, err
		}
		var modules []machine.Module
		if i == 0 {
			modules = t.GuestModules()
		}
		if err := p.start(ctx, t, i, name, cpus, modules...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// start starts host i, again if it was killed.
func (p *pair) start(ctx context.Context, t *rig.T, i int, name string, cpus int, modules ...machine.Module) (err error) {
	line := fmt.Sprintf("name=%s ip=%s/24 migrate=insecure-tcp", name, p.addr[i])
	if p.scale() > 1 {
		// One of the two may run many times slower than the other, as the computer's load has it.
		line += " patience=300"
	}
	if _, ok := p.ground[i].(machine.Bochs); ok {
		// Bochs's clock, when all is halted, goes a second or more ahead at once, and the downtime is counted by it.
		line += " idle=poll"
	}
	p.hosts[i], err = t.HostOn(ctx, p.ground[i], machine.Spec{Name: name, CPUs: cpus, MemoryMiB: 768, NIC: p.nic[i], Boot: image(t, line, modules...)})
	return err
}

// scale is that of the slower host's ground.
func (p *pair) scale() float64 { return max(p.ground[0].Scale(), p.ground[1].Scale()) }

// moveReport is what scenarios read of `vm migrate -json`; see migrate.Report.
type moveReport struct {
	State    string        `json:"state"`
	Error    string        `json:"error"`
	Total    time.Duration `json:"total_ns"`
	Pages    uint64        `json:"pages"`
	Zero     uint64        `json:"zero_pages"`
	Bytes    uint64        `json:"bytes"`
	Faults   uint64        `json:"write_faults"`
	Foretold time.Duration `json:"estimated_downtime_ns"`
	Rounds   []struct {
		Pages uint64 `json:"pages"`
		Bytes uint64 `json:"bytes"`
	} `json:"rounds"`
	Downtime struct {
		Total    time.Duration `json:"total_ns"`
		Pause    time.Duration `json:"pause_ns"`
		LastPass time.Duration `json:"last_pass_ns"`
		State    time.Duration `json:"state_ns"`
		Prepare  time.Duration `json:"prepare_ns"`
		Commit   time.Duration `json:"commit_ns"`
	} `json:"downtime"`
}

func (r moveReport) String() string {
	d := r.Downtime
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	last := r.Rounds[len(r.Rounds)-1] // the move has succeeded, so there is one
	return fmt.Sprintf("%.1f s, %d rounds, %d pages (%d zero), %.1f MB, downtime %.1f ms, foretold %.1f, = pause %.1f + last pass (%d pages, %d kB) %.1f + state %.1f + prepare %.1f + commit %.1f",
		r.Total.Seconds(), len(r.Rounds), r.Pages, r.Zero, float64(r.Bytes)/1e6, ms(d.Total), ms(r.Foretold), ms(d.Pause), last.Pages, last.Bytes/1000, ms(d.LastPass), ms(d.State), ms(d.Prepare), ms(d.Commit))
}

// move moves the guest from host i to the other.
func (p *pair) move(ctx context.Context, from int) (r moveReport, err error) {
	// A move takes what the slower host takes, whichever is asked.
	patience := time.Duration(float64(5*time.Minute) * p.scale() / p.ground[from].Scale())
	err = p.hosts[from].JSONWithin(ctx, fmt.Sprintf("vm migrate %s %s", guestName, p.addr[1-from]), &r, patience)
	return r, err
}

func migrateBackAndForth(ctx context.Context, t *rig.T, g load, moves int) error {
	p, err := startPair(ctx, t, g.cpus)
	if err != nil {
		return err
	}
	return p.backAndForth(ctx, t, g, moves)
}

// migrateBetweenVendors starts the guest where it starts sooner. The emulators' TSCs differ fiftyfold; Bochs scales its own, so
// that the guest's kernel keeps trusting it.
func migrateBetweenVendors(ctx context.Context, t *rig.T, g load, moves int) error {
	p, err := startPairOn(ctx, t, g.cpus, [2]machine.Ground{svmPartner, t.Ground})
	if err != nil {
		return err
	}
	return p.backAndForth(ctx, t, g, moves)
}

// backAndForth starts a guest on the first host and moves it so many times.
func (p *pair) backAndForth(ctx context.Context, t *rig.T, g load, moves int) error {
	spec := rig.GuestSpec{Name: guestName, CPUs: g.cpus, MemoryMiB: g.mib, CommandLine: g.options, Model: g.model}
	if err := p.hosts[0].StartGuest(ctx, spec); err != nil {
		return err
	}
	v, err := p.hosts[0].Judge(ctx, guestName, 0)
	if err != nil {
		return err
	}
	at := 0
	var longest, total time.Duration
	for n := range moves {
		begin := time.Now()
		r, err := p.move(ctx, at)
		if err != nil {
			return fmt.Errorf("move %d, to %s: %w", n+1, p.ground[1-at].Name(), err)
		}
		t.Logf("move %d, to %s, %.0f s of ours: %v", n+1, p.ground[1-at].Name(), time.Since(begin).Seconds(), r)
		longest, total = max(longest, r.Downtime.Total), total+r.Total
		at = 1 - at
		if v, err = p.hosts[at].Judge(ctx, guestName, v.Up+0.5); err != nil {
			return fmt.Errorf("after move %d: %w", n+1, err)
		}
		if status, err := p.hosts[1-at].GuestStatus(ctx, guestName); err == nil && status == "running" {
			return fmt.Errorf("after move %d the guest runs on both hosts", n+1)
		}
	}
	t.Measure("moves", "%d in %.1f s", moves, total.Seconds())
	t.Measure("longest downtime", "%.1f ms", float64(longest.Microseconds())/1000)
	if v, err = p.hosts[at].FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	t.Measure("verdict", "%s", strings.TrimPrefix(v.Line, "guest: "))
	return nil
}
