package migrate

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"time"
)

// A State is where the source of a migration is.
type State uint8

const (
	Idle       State = iota
	Connecting       // until the target has built an empty machine
	Copying          // the guest runs and its memory is copied
	Stopping         // the guest is being paused
	Sending          // it is paused; the rest is sent and loaded
	Committing       // Commit is on its way: only the target may run the guest now
	InDoubt          // no answer to Commit; the target is being asked
	Done             // the guest runs there
	Failed           // it runs here
	Cancelled        // it runs here, as somebody wished
	numStates
)

var stateNames = [numStates]string{
	"Idle", "Connecting", "Copying", "Stopping", "Sending", "Committing", "InDoubt", "Done", "Failed", "Cancelled",
}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return "invalid"
}

// stateNext is which states may follow.
var stateNext = [numStates][]State{
	Idle:       {Connecting},
	Connecting: {Copying, Failed, Cancelled},
	Copying:    {Stopping, Failed, Cancelled},
	Stopping:   {Sending, Failed, Cancelled},
	Sending:    {Committing, Failed, Cancelled},
	Committing: {Done, Failed, InDoubt},
	InDoubt:    {Done, Failed},
}

// sourceAccepts is which messages may come in which state.
var sourceAccepts = [numStates]msgSet{
	Connecting: set(msgHelloReply, msgReady, msgFail, msgAlive),
	Copying:    set(msgRoundDone, msgFail, msgAlive),
	Stopping:   set(msgFail, msgAlive),
	Sending:    set(msgRoundDone, msgPrepared, msgFail, msgAlive),
	Committing: set(msgStarted, msgFail, msgAlive),
	InDoubt:    set(msgHelloReply, msgOutcome, msgFail),
}

func (s State) accepts() msgSet { return sourceAccepts[s] }

// A Migration is a guest on its way out.
type Migration struct {
	m       *Manager
	guest   Guest
	machine Machine
	address string
	opts    Options
	id      id
	rep     *liveReport
	done    chan struct{} // closed at the end
	doubt   chan struct{} // closed when the state becomes InDoubt

	ctx    context.Context // until Committing: ended by Cancel
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	state   State
	settled *Settlement        // an operator's decision
	decided context.CancelFunc // tells of it who asks the target

	// Only the migration's goroutine uses the rest.
	target  id // the target host
	feats   uint64
	replies chan reply
	pipe    *pipeline
	gone    bool       // Release was called
	paused  bool       // by us
	tracked bool       // likewise
	final   error      // why it failed
	obeyed  Settlement // how its doubt ended
	stopped time.Time
	begun   time.Time // of the downtime's current part
	line    bandwidth
	copies  *copies
	hush    hush
	sending time.Duration // of the state
	todo    Bitmap        // of the round
	group   int           // in the last round
	left    uint64        // pages after it
	takes   time.Duration // what they would take
	best    uint64        // the fewest after any
	soonest time.Duration // likewise
	stale   int           // rounds since either
}

// State is where the migration is now.
func (g *Migration) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// ID names the migration, at both hosts.
func (g *Migration) ID() string { return g.id.String() }

// Report tells how far it is.
func (g *Migration) Report() Report { return g.rep.get() }

// Done is closed when the migration has ended.
func (g *Migration) Done() <-chan struct{} { return g.done }

// Wait waits for the end. If ctx ends first the migration is cancelled; where it
// is too late for that, Wait goes on, but not in doubt.
func (g *Migration) Wait(ctx context.Context) (Report, error) {
	select {
	case <-g.done:
		return g.Report(), g.final
	case <-ctx.Done():
	}
	g.cancelWith(context.Cause(ctx))
	select {
	case <-g.done:
		return g.Report(), g.final
	case <-g.doubt:
		return g.Report(), fmt.Errorf("%w: `migrate list` says more, `migrate settle %s` decides", ErrInDoubt, g.machine.Name)
	}
}

// Cancel ends the migration; the guest stays. It does not wait for the end.
func (g *Migration) Cancel() error { return g.cancelWith(nil) }

func (g *Migration) cancelWith(why error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.state == InDoubt:
		return fmt.Errorf("%w: look there, then `migrate settle %s resume` or `release`", ErrInDoubt, g.machine.Name)
	case g.state >= Committing:
		return ErrTooLate
	}
	if why == nil {
		g.cancel(ErrCancelled)
	} else {
		g.cancel(fmt.Errorf("%w: %w", ErrCancelled, why))
	}
	return nil
}

func (g *Migration) enter(to State) {
	if !g.tryEnter(to) {
		panic("unreachable")
	}
}

// tryEnter changes the state. It refuses only Committing, and that if the
// migration was cancelled: the lock makes it the one point after which Cancel is
// too late (rule S1).
func (g *Migration) tryEnter(to State) bool {
	g.mu.Lock()
	legal := false
	for _, n := range stateNext[g.state] {
		legal = legal || n == to
	}
	if !legal {
		defer g.mu.Unlock()
		panic(fmt.Sprintf("migrate: source went from %v to %v", g.state, to))
	}
	if to == Committing && g.ctx.Err() != nil {
		g.mu.Unlock()
		return false
	}
	g.state = to
	g.mu.Unlock()
	g.rep.update(func(r *Report) { r.State = to.String() })
	g.notify()
	return true
}

func (g *Migration) notify() {
	if g.opts.Notify != nil {
		g.opts.Notify(g.Report())
	}
}

// run is the migration from its begin to its end.
func (g *Migration) run() {
	l, err := g.untilPrepared()
	if err == nil && !g.tryEnter(Committing) {
		err = context.Cause(g.ctx)
	}
	if err != nil {
		g.stay(l, err)
		return
	}
	g.commit(l)
}

// stay ends a migration that has not committed: the guest runs on here.
func (g *Migration) stay(l *link, err error) {
	// The guest first; the other host can wait.
	g.keep()
	g.hush.over()
	end := Failed
	if g.ctx.Err() != nil {
		end, err = Cancelled, context.Cause(g.ctx)
		if !errors.Is(err, ErrCancelled) {
			err = fmt.Errorf("%w: this host is going down", ErrCancelled)
		}
	}
	if l != nil {
		l.trySend(msgFail, failure(err).frame())
		l.close(err)
	}
	g.end(end, err)
}

// keep has the guest run here, at full speed.
func (g *Migration) keep() {
	if g.paused {
		g.guest.Resume()
		g.paused = false
	}
	if g.tracked {
		g.guest.EndTracking()
		g.tracked = false
	}
}

func (g *Migration) end(to State, err error) {
	g.final = err
	g.m.endReport(g.rep, err)
	g.enter(to)
}

// untilPrepared does everything before the commit. It returns the link, if there
// is one, with errors too.
func (g *Migration) untilPrepared() (*link, error) {
	g.enter(Connecting)
	l, err := g.connect()
	if err != nil {
		return l, err
	}
	g.pipe, g.copies = newPipeline(), newCopies()
	if err := g.copy(l); err != nil {
		return l, err
	}
	g.enter(Stopping)
	g.stopped = time.Now()
	g.begun = g.stopped
	ctx, stop := context.WithTimeout(g.ctx, g.m.cfg.Timing.Pause)
	defer stop()
	if err := g.guest.Pause(ctx); err != nil {
		return l, fmt.Errorf("migrate: pausing guest %q: %w", g.machine.Name, err)
	}
	g.paused = true
	g.part(func(d *Downtime) *time.Duration { return &d.Pause })
	g.enter(Sending)
	defer g.boundStanding(l)()
	err = g.rest(l)
	g.pipe, g.copies, g.todo = nil, nil, nil // a guest in doubt may stay for long
	return l, err
}

// boundStanding gives the target up should the guest stand still for much longer than
// foretold. Each of the target's steps has its time, and each write to it; but one that
// takes all the time it gets, again and again, would keep the guest for many minutes.
// Sums of all pages take as long as there is memory, and who wants them wants that.
func (g *Migration) boundStanding(l *link) (stop func() bool) {
	if g.opts.Verify {
		return func() bool { return false }
	}
	limit := g.m.cfg.Timing.Step + 2*g.takes
	return time.AfterFunc(limit, func() {
		l.fail(fmt.Errorf("migrate: %w: guest %q has stood still for %v, and the target has not taken over", errStuck, g.machine.Name, limit.Round(time.Millisecond)))
	}).Stop
}

// part ends a part of the downtime.
func (g *Migration) part(f func(*Downtime) *time.Duration) {
	now := time.Now()
	g.rep.update(func(r *Report) { *f(&r.Downtime) = now.Sub(g.begun) })
	g.begun = now
}

// A reply is a message of the target.
type reply struct {
	t msgType
	b []byte
}

// connect dials, greets, and has the target build an empty machine.
func (g *Migration) connect() (*link, error) {
	l, h, err := g.greet(g.ctx, purposeMove)
	if err != nil {
		return l, err
	}
	g.target = h.host
	g.feats = h.features
	if g.opts.Verify && g.feats&featVerify == 0 {
		return l, errors.New("migrate: the target can not verify pages")
	}
	l.bound(0, 0)
	if err := l.send(msgMachine, machineFrame(g.machine)); err != nil {
		return l, err
	}
	_, err = g.expect(l, msgReady)
	return l, err
}

// greet dials and greets. From then on a goroutine reads what the target sends.
func (g *Migration) greet(ctx context.Context, p purpose) (*link, helloReply, error) {
	t := g.m.cfg.Timing
	dial, stop := context.WithTimeout(ctx, t.Dial)
	defer stop()
	conn, err := g.m.cfg.Dial(dial, g.address)
	if err != nil {
		return nil, helloReply{}, fmt.Errorf("migrate: connecting to %s: %w (is that host up, and does it take machines: migrate=insecure-tcp?)", g.address, err)
	}
	l := newLink(ctx, conn, t, func(why error) *PeerError {
		// Cancelled. After the commit there is nothing to take back.
		if g.State() >= Committing {
			return nil
		}
		return failure(why)
	})
	g.replies = make(chan reply, 4)
	begin := time.Now()
	h := hello{min: minVersion, max: maxVersion, features: knownFeatures, purpose: p, id: g.id, host: g.m.host}
	if g.opts.Verify && p == purposeMove {
		h.required |= featVerify
	}
	l.done.Add(1)
	go g.read(l, g.replies)
	if err := l.send(msgHello, h.frame()); err != nil {
		return l, helloReply{}, err
	}
	b, err := g.expect(l, msgHelloReply)
	if err != nil {
		return l, helloReply{}, err
	}
	r, err := parseHelloReply(b)
	if err != nil {
		return l, r, err
	}
	switch {
	case r.version < minVersion || r.version > maxVersion:
		return l, r, protocolError("the target chose version %d, which was not offered", r.version)
	case r.features&^knownFeatures != 0:
		return l, r, protocolError("the target chose features %#x, which were not offered", r.features&^knownFeatures)
	}
	if p == purposeMove {
		l.chatty.Store(true)
		g.line.rtt = time.Since(begin)
		g.rep.update(func(r *Report) { r.RTT = g.line.rtt })
	}
	return l, r, nil
}

// read passes on what the target sends. A Fail, and a breach of the protocol,
// end the link at once, whatever this side is doing.
func (g *Migration) read(l *link, to chan<- reply) {
	defer l.done.Done()
	for {
		t, b, err := l.recv(func() place { return g.State() })
		if err == nil && t == msgFail {
			if e, ferr := parseFail(b); ferr != nil {
				err = ferr
			} else {
				err = e
			}
		}
		if err != nil {
			l.fail(err)
			return
		}
		select {
		case to <- reply{t, append([]byte(nil), b...)}:
		case <-l.ctx.Done():
			return
		}
	}
}

// expect waits for the target's next message, which must be a t.
func (g *Migration) expect(l *link, t msgType) ([]byte, error) {
	l.await()
	defer l.awaited()
	var r reply
	select {
	case r = <-g.replies:
	case <-l.ctx.Done():
		select { // what came before the end still counts
		case r = <-g.replies:
		default:
			return nil, l.err()
		}
	}
	if r.t != t {
		return nil, protocolError("%v came where %v was due", r.t, t)
	}
	return r.b, nil
}

// copy copies memory, round after round, while the guest runs, until what is
// left can be sent within the downtime limit.
func (g *Migration) copy(l *link) error {
	g.enter(Copying)
	rs := g.machine.Regions
	g.todo = NewBitmap(rs[len(rs)-1].end())
	todo := g.todo
	var pages uint64
	for _, r := range rs {
		todo.SetRange(r.first(), r.pages())
		pages += r.pages()
	}
	group := groupSize(g.opts.MaxGroup, 0, pages)
	if g.opts.FixedGroup {
		group = g.opts.MaxGroup
	}
	if err := g.guest.BeginTracking(group); err != nil {
		return fmt.Errorf("migrate: tracking the writes of guest %q: %w", g.machine.Name, err)
	}
	g.tracked = true
	g.left, g.best = pages, pages
	g.soonest = math.MaxInt64
	for round := uint32(0); ; round++ {
		if err := g.sendRound(l, todo, pages, round, false); err != nil {
			return err
		}
		if g.guest.Counters().Dirty <= maxCopies {
			g.hush.begin(g.m.cfg.Timing)
		}
		stop, err := g.enough(round)
		if err != nil || stop {
			return err
		}
		clear(todo)
		pages = uint64(g.guest.Harvest(todo))
	}
}

// enough tells whether to stop the guest after this round, and keeps count of
// whether that comes nearer. Within the downtime limit another round still pays
// as long as rounds halve what is left, or what that takes: all of them together take no longer than
// the limit, while the guest runs, and save most of the downtime.
func (g *Migration) enough(round uint32) (bool, error) {
	left := g.guest.Counters().Dirty
	takes := g.line.estimate(left, g.copies.lack(g.guest, left))
	beside := g.m.stateTime()
	foretold := takes + beside
	g.rep.update(func(r *Report) { r.Estimate, r.Bandwidth = foretold, g.line.rate() })
	g.notify()
	halved := left <= g.left/2 || takes <= g.takes/2
	g.left, g.takes = left, takes
	// At most half of the limit is set aside for the state: what another guest took, or
	// another target, must not keep this one for ever.
	limit := g.opts.Downtime - min(beside, g.opts.Downtime/2)
	if takes <= limit && (!halved || takes <= g.opts.Downtime/wellBelow || int(round)+1 >= g.opts.MaxRounds) {
		return true, nil
	}
	// Less than a tenth gained in three rounds: more of them would only warm
	// the line. Rounds with groups do not count, because smaller groups alone
	// may bring a gain.
	// As many pages may take less, too: of more of them only changes go.
	switch {
	case left < g.best-g.best/10 || takes < g.soonest-g.soonest/10:
		g.best, g.soonest, g.stale = min(g.best, left), min(g.soonest, takes), 0
	case g.group == 1 || g.opts.FixedGroup:
		g.stale++
	}
	if int(round)+1 < g.opts.MaxRounds && g.stale < 3 {
		return false, nil
	}
	if g.opts.NonConvergent == GiveUp {
		return false, fmt.Errorf("migrate: guest %q writes faster than the line carries: after %d rounds it would stand still for %v, more than %v",
			g.machine.Name, round+1, foretold.Round(time.Millisecond), g.opts.Downtime)
	}
	return true, nil
}

// wellBelow: under a tenth of the limit nobody will notice less.
const wellBelow = 10

// sendRound sends the pages in todo and waits until the target has them.
func (g *Migration) sendRound(l *link, todo Bitmap, pages uint64, round uint32, last bool) error {
	begin := time.Now()
	before := g.guest.Counters()
	if err := l.send(msgRound, roundStart{round, last, pages}.frame()); err != nil {
		return err
	}
	t := &task{g: g, l: l, todo: todo, left: pages, round: round, last: last}
	if g.feats&featDelta != 0 && g.copies.begin(round, pages, g.line.rate(), last) {
		t.keep = g.copies
	}
	err := g.pipe.send(t)
	if err != nil {
		return err
	}
	if err := l.send(msgRoundEnd, t.sum.frame()); err != nil {
		return err
	}
	if !last { // in the last one the state follows without waiting
		flush := time.Now()
		if err := g.roundDone(l, t.sum); err != nil {
			return err
		}
		// The round trip is not the line's speed, and the estimate has it already. It
		// was measured when both ends may have been busy; no wait is shorter than it.
		waited := time.Since(flush)
		g.line.rtt = min(g.line.rtt, waited)
		t.writing += waited - g.line.rtt
		g.line.measure(t)
	}
	g.group = t.group
	took := time.Since(begin)
	after := g.guest.Counters()
	g.rep.update(func(r *Report) {
		r.Rounds = append(r.Rounds, Round{
			Pages: pages, Raw: t.sum.raw, Zero: t.sum.zero, Skipped: t.skipped, Bytes: t.bytes, Duration: took,
			Dirtied: after.Dirty, Faults: after.Faults - before.Faults, Group: t.group, Last: last,
		})
		r.Skipped += t.skipped
		r.Same += t.same
		r.Faults, r.Opened = after.Faults, after.Opened
		r.Left = 0
		if !last {
			r.DirtyRate = float64(after.Dirty) / max(took.Seconds(), 1e-6)
		}
	})
	return nil
}

func (g *Migration) roundDone(l *link, want roundSum) error {
	b, err := g.expect(l, msgRoundDone)
	if err != nil {
		return err
	}
	if got, err := parseRoundSum(b); err != nil {
		return err
	} else if got != want {
		return protocolError("the target has received %+v, not %+v", got, want)
	}
	return nil
}

// rest sends what is left of the paused guest: pages, then state.
func (g *Migration) rest(l *link) error {
	clear(g.todo)
	pages := uint64(g.guest.Harvest(g.todo))
	round := uint32(len(g.Report().Rounds))
	if err := g.sendRound(l, g.todo, pages, round, true); err != nil {
		return err
	}
	g.part(func(d *Downtime) *time.Duration { return &d.LastPass })
	if g.opts.Verify {
		if err := g.verify(l); err != nil {
			return err
		}
		g.part(func(d *Downtime) *time.Duration { return &d.Verify })
	}
	w := stateWriter{l: l}
	if err := g.guest.SaveState(&w); err != nil {
		return fmt.Errorf("migrate: saving the state of guest %q: %w", g.machine.Name, err)
	}
	if err := w.close(); err != nil {
		return err
	}
	g.rep.update(func(r *Report) { r.Saved = w.length })
	g.part(func(d *Downtime) *time.Duration { return &d.State })
	g.sending = w.sending
	if err := g.roundDone(l, g.pipe.sum); err != nil {
		return err
	}
	b, err := g.expect(l, msgPrepared)
	if err != nil {
		return err
	}
	load, err := parseU64(msgPrepared, b)
	if err != nil {
		return err
	}
	g.rep.update(func(r *Report) { r.Downtime.Load = time.Duration(load) })
	g.part(func(d *Downtime) *time.Duration { return &d.Prepare })
	return nil
}

// verify sends the sums of all pages.
func (g *Migration) verify(l *link) error {
	var page [PageSize]byte
	for _, r := range g.machine.Regions {
		for first := r.first(); first < r.end(); {
			n := min(r.end()-first, maxSums)
			w := newFrame()
			w.U64(first)
			w.U32(uint32(n))
			for i := range n {
				g.guest.ReadPages(first+i, page[:])
				w.U32(checksum(page[:]))
			}
			if err := l.send(msgVerify, w.Bytes()); err != nil {
				return err
			}
			first += n
		}
	}
	return nil
}

// A stateWriter cuts what a machine saves into messages.
type stateWriter struct {
	l       *link
	b       []byte
	length  uint64
	sum     uint32
	sending time.Duration // of what came before it too, if the line is not done with that
}

func (w *stateWriter) Write(p []byte) (int, error) {
	if w.length+uint64(len(p)) > maxState {
		return 0, fmt.Errorf("migrate: the machine's state is larger than %d MiB", maxState>>20)
	}
	w.length += uint64(len(p))
	w.sum = crc32.Update(w.sum, castagnoli, p)
	n := len(p)
	for len(p) > 0 {
		if w.b == nil {
			w.b = make([]byte, headerSize, headerSize+stateChunk)
		}
		m := min(len(p), cap(w.b)-len(w.b))
		w.b = append(w.b, p[:m]...)
		p = p[m:]
		if len(w.b) == cap(w.b) {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (w *stateWriter) flush() error {
	begin := time.Now()
	err := w.l.send(msgState, w.b)
	w.sending += time.Since(begin)
	w.b = w.b[:headerSize]
	return err
}

func (w *stateWriter) close() error {
	if len(w.b) > headerSize {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.l.send(msgStateEnd, stateEndFrame(w.length, w.sum))
}

// bandwidth is what the line and the encoder were measured to carry.
type bandwidth struct {
	rtt     time.Duration
	bytes   float64 // weighted by age
	seconds float64 // during which the sender was busy with the line

	// What is left when the guest stops are pages like those of the last rounds, and
	// go the way those went, compressed or not. So the rest is soon forgotten.
	carried     float64 // pages with data
	whole       float64 // of them, those of which not only changes went
	carriedSize float64 // the bytes they took
	carriedTime float64 // and the seconds, the target's work among them
	encoded     float64 // pages
	encode      float64 // seconds the encoder was busy
}

const (
	// window is how many bytes the measure of the line remembers beside the last
	// round's.
	window = 16 << 20
	// pageWindow is how many pages that of pages does.
	pageWindow = 128
)

func (b *bandwidth) measure(t *task) {
	keep := min(1, window/max(b.bytes, 1))
	b.bytes = b.bytes*keep + float64(t.bytes)
	b.seconds = b.seconds*keep + t.writing.Seconds()
	keep = min(1, pageWindow/max(b.encoded, 1))
	b.carried = b.carried*keep + float64(t.sum.raw+t.same)
	b.whole = b.whole*keep + float64(t.sum.raw-t.deltas)
	b.carriedSize = b.carriedSize*keep + float64(t.bytes)
	b.carriedTime = b.carriedTime*keep + t.writing.Seconds()
	b.encoded = b.encoded*keep + float64(t.sum.raw+t.sum.zero+t.same)
	b.encode = b.encode*keep + t.encoding.Seconds()
}

func (b *bandwidth) rate() float64 { return b.bytes / max(b.seconds, 1e-6) }

// estimate is how long the guest would stand still for so many pages, none of them zero,
// so many of which were not sent lately, and can not go as changes: two round trips
// (Prepared, Started), then the line, the encoder, or whatever the last pages needed that
// is not of their size, as changes do, which are small but make work: whichever is slower.
func (b *bandwidth) estimate(pages, whole uint64) time.Duration {
	n := float64(pages)
	page, took := float64(PageSize), 0.
	if b.carried > 0 {
		page = min(page, b.carriedSize/b.carried) // as the last ones were
		took = n * b.carriedTime / b.carried
	}
	// The last ones may have been those that the guest writes all the time, and changes
	// little in. What is left has more of the others than they had.
	more := max(0, float64(whole)-n*b.whole/max(b.carried, 1))
	line := (n*page + more*PageSize) / max(b.rate(), 1)
	encoder := n * b.encode / max(b.encoded, 1)
	return 2*b.rtt + time.Duration(max(line, encoder, took)*1e9)
}
