package migrate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// DefaultPort is where hosts take guests.
const DefaultPort = "4774"

// Config is what a Manager works with.
type Config struct {
	Target Target                                                      // makes machines for guests that arrive
	Find   func(name string) (Guest, error)                            // finds those that leave
	Dial   func(ctx context.Context, address string) (net.Conn, error) // address has a port
	Timing Timing                                                      // zero: DefaultTiming

	MaxIncoming int    // guests arriving at once; zero: 4
	MaxLeaving  int    // guests leaving at once: each takes some 7 MiB of the host's own memory, and its part of the line; zero: 4
	MaxMemory   uint64 // bytes of RAM a guest may bring; zero: 256 GiB
}

// Options of one migration. The zero value of each field is its default.
type Options struct {
	Downtime      time.Duration // how long the guest may stand still; 300 ms
	MaxRounds     int           // after so many rounds it does not converge; 30
	MaxGroup      int           // pages a write fault opens at most; DefaultMaxGroup
	FixedGroup    bool          // always MaxGroup, whatever is outstanding
	NonConvergent Policy        // what then; StopAnyway
	Verify        bool          // compare the sums of all pages before the commit: costs downtime
	// Notify is called at every change of state and after every round, from
	// the migration's goroutine: the guest may be standing still, so it must
	// return at once.
	Notify func(Report) `json:"-"`
}

// A Policy is what to do with a guest that writes faster than the line carries.
type Policy uint8

const (
	StopAnyway Policy = iota // pause it and send what is left, however long that takes
	GiveUp                   // fail; it goes on running here
)

const (
	defaultDowntime = 300 * time.Millisecond
	defaultRounds   = 30
	maxRoundCount   = 10000 // what a target bears
)

func (o Options) check() (Options, error) {
	if o.Downtime == 0 {
		o.Downtime = defaultDowntime
	}
	if o.MaxRounds == 0 {
		o.MaxRounds = defaultRounds
	}
	if o.MaxGroup == 0 {
		o.MaxGroup = DefaultMaxGroup
	}
	switch {
	case o.Downtime < 0:
		return o, fmt.Errorf("migrate: a downtime limit of %v", o.Downtime)
	case o.MaxRounds < 1 || o.MaxRounds >= maxRoundCount:
		return o, fmt.Errorf("migrate: %d rounds, not 1 to %d", o.MaxRounds, maxRoundCount-1)
	case o.MaxGroup < 1 || o.MaxGroup > MaxGroup || o.MaxGroup&(o.MaxGroup-1) != 0:
		return o, fmt.Errorf("migrate: groups of %d pages; a power of two from 1 to %d is needed", o.MaxGroup, MaxGroup)
	case o.NonConvergent > GiveUp:
		return o, fmt.Errorf("migrate: policy %d does not exist", o.NonConvergent)
	}
	return o, nil
}

// A Manager is a host's part in migrations, both ways.
type Manager struct {
	cfg     Config
	host    id // this host, from its start to its end: all that a Manager knows ends with it
	ctx     context.Context
	stop    context.CancelFunc
	records *records

	mu      sync.Mutex
	leaving map[string]*Migration // by guest
	reports []*liveReport         // oldest first
	states  [2]time.Duration      // what the last guests that left stood still for beside their pages; 0: none has
}

// maxReports is how many ended migrations a Manager remembers.
const maxReports = 100

// NewManager makes a Manager. Close ends it.
func NewManager(cfg Config) *Manager {
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming
	}
	if cfg.MaxIncoming == 0 {
		cfg.MaxIncoming = 4
	}
	if cfg.MaxLeaving == 0 {
		cfg.MaxLeaving = 4
	}
	if cfg.MaxMemory == 0 {
		cfg.MaxMemory = 256 << 30
	}
	m := &Manager{cfg: cfg, host: newID(), records: newRecords(), leaving: map[string]*Migration{}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

func newID() (i id) {
	rand.Read(i[:])
	return i
}

// Close cancels what can be cancelled and ends all connections. Guests in doubt
// stay paused.
func (m *Manager) Close() {
	m.stop()
	m.mu.Lock()
	var all []*Migration
	for _, g := range m.leaving {
		all = append(all, g)
	}
	m.mu.Unlock()
	for _, g := range all {
		<-g.done
	}
}

// Errors of a Manager's callers.
var (
	ErrCancelled   = errors.New("migrate: cancelled")
	ErrTooLate     = errors.New("migrate: too late: the guest is handed over already")
	ErrInDoubt     = errors.New("migrate: in doubt whether the guest runs on the other host")
	ErrNoMigration = errors.New("migrate: no such migration")
)

// Migrate moves a guest to the host at address (DefaultPort if it has none) and
// returns when that is done or has failed. If ctx ends, the migration is
// cancelled, unless it is too late for that: then Migrate still waits for its
// end or, when in doubt, returns ErrInDoubt.
func (m *Manager) Migrate(ctx context.Context, name, address string, o Options) (Report, error) {
	g, err := m.Start(name, address, o)
	if err != nil {
		return Report{}, err
	}
	return g.Wait(ctx)
}

// Start begins to move a guest.
func (m *Manager) Start(name, address string, o Options) (*Migration, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, DefaultPort)
	}
	if err := m.ctx.Err(); err != nil {
		return nil, errors.New("migrate: this host is going down")
	}
	guest, err := m.cfg.Find(name)
	if err != nil {
		return nil, err
	}
	machine := guest.Machine() // it may take a while
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaving[name] != nil {
		return nil, fmt.Errorf("migrate: guest %q is being moved already", name)
	}
	busy := 0
	for _, o := range m.leaving {
		if o.State() < Committing { // in doubt it has nothing any more that would be scarce
			busy++
		}
	}
	if busy >= m.cfg.MaxLeaving {
		return nil, fmt.Errorf("migrate: %d guests are leaving this host already, as many as it sends at once: try again when one is there", busy)
	}
	g := &Migration{
		m: m, guest: guest, machine: machine, address: address, opts: o,
		id: newID(), done: make(chan struct{}), doubt: make(chan struct{}),
	}
	g.ctx, g.cancel = context.WithCancelCause(m.ctx)
	g.rep = m.addReport(Report{ID: g.id.String(), Guest: name, Peer: address, State: Idle.String(), Limit: o.Downtime})
	m.leaving[name] = g
	go func() {
		g.run()
		m.mu.Lock()
		delete(m.leaving, name)
		m.mu.Unlock()
		close(g.done)
	}()
	return g, nil
}

// List tells of all migrations, oldest first.
func (m *Manager) List() []Report {
	m.mu.Lock()
	live := append([]*liveReport(nil), m.reports...)
	m.mu.Unlock()
	out := make([]Report, len(live))
	for i, l := range live {
		out[i] = l.get()
	}
	return out
}

// leavingGuest finds a migration from here that has not ended, by guest or ID.
func (m *Manager) leavingGuest(name string) *Migration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.leaving[name]; g != nil {
		return g
	}
	for _, g := range m.leaving {
		if g.id.String() == name {
			return g
		}
	}
	return nil
}

// Cancel ends the migration of a guest from or to here, given its name or the
// migration's ID.
func (m *Manager) Cancel(name string) error {
	if g := m.leavingGuest(name); g != nil {
		return g.Cancel()
	}
	return m.records.cancel(name)
}

// Settle decides about a guest in doubt, given its name or the migration's ID.
func (m *Manager) Settle(name string, how Settlement) error {
	g := m.leavingGuest(name)
	if g == nil {
		return fmt.Errorf("%w: no guest %q is leaving this host", ErrNoMigration, name)
	}
	return g.Settle(how)
}

func (m *Manager) newReport(r Report) *liveReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addReport(r)
}

// stateTime is what a guest that leaves will stand still for beside its pages: until it is
// paused, its state saved, loaded at the target, and it is started. The last two that left
// tell; the lesser, since one may have been held up.
func (m *Manager) stateTime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states[1] == 0 {
		return m.states[0]
	}
	return min(m.states[0], m.states[1])
}

// stood notes what that was for a guest that has left.
func (m *Manager) stood(took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states = [2]time.Duration{took, m.states[0]}
}

func (m *Manager) addReport(r Report) *liveReport {
	r.Began = time.Now()
	l := &liveReport{r: r}
	m.reports = append(m.reports, l)
	for i := 0; len(m.reports) > maxReports && i < len(m.reports); {
		if m.reports[i].get().Ended.IsZero() {
			i++
			continue
		}
		m.reports = append(m.reports[:i], m.reports[i+1:]...)
	}
	return l
}

func (m *Manager) endReport(l *liveReport, err error) {
	l.update(func(r *Report) {
		r.Ended = time.Now()
		r.Total = r.Ended.Sub(r.Began)
		if err != nil {
			r.Error = err.Error()
		}
	})
}
