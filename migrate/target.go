package migrate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A targetState is where a session of a target is.
type targetState uint8

const (
	greeting targetState = iota
	describing
	preparing
	betweenRounds
	inRound
	loading
	prepared
	starting
	started
	aborted
	numTargetStates
)

var targetNames = [numTargetStates]string{
	"Greeting", "Describing", "Preparing", "BetweenRounds", "InRound", "Loading", "Prepared", "Starting", "Started", "Aborted",
}

func (s targetState) String() string { return targetNames[s] }

// targetAccepts is which messages may come in which state.
var targetAccepts = [numTargetStates]msgSet{
	greeting:      set(msgHello),
	describing:    set(msgMachine, msgFail, msgAlive),
	betweenRounds: set(msgRound, msgFail, msgAlive),
	inRound:       set(msgPages, msgRoundEnd, msgFail, msgAlive),
	loading:       set(msgVerify, msgState, msgStateEnd, msgFail, msgAlive),
	prepared:      set(msgCommit, msgFail, msgAlive),
}

func (s targetState) accepts() msgSet { return targetAccepts[s] }

// targetNext is which states may follow; Aborted may follow all but Started.
var targetNext = [numTargetStates][]targetState{
	greeting:      {describing},
	describing:    {preparing},
	preparing:     {betweenRounds},
	betweenRounds: {inRound},
	inRound:       {betweenRounds, loading},
	loading:       {prepared},
	prepared:      {starting},
	starting:      {started},
}

// A session is one connection to a target.
type session struct {
	m    *Manager
	l    *link
	rec  *record
	rep  *liveReport
	in   Incoming
	have []Bitmap // for each region: pages that have come
	raw  []Bitmap // for each region: pages that may hold something else than zero

	state    targetState
	features uint64
	machine  Machine
	missing  uint64 // pages that have never come
	round    uint32 // the next one
	last     bool   // the round is the last
	sum      roundSum
	blob     []byte // the machine's state as far as it has come
	hush     hush
	unpacked []byte // room for the pages of a run that came as less
}

func (s *session) enter(to targetState) {
	legal := to == aborted && s.state != started
	for _, n := range targetNext[s.state] {
		legal = legal || n == to
	}
	if !legal {
		panic(fmt.Sprintf("migrate: target went from %v to %v", s.state, to))
	}
	s.state = to
	if s.rep != nil {
		s.rep.update(func(r *Report) { r.State = to.String() })
	}
}

func (s *session) at() place { return s.state }

// Serve takes migrations from ln until it is closed. Connections beyond what
// the configuration allows are closed at once.
func (m *Manager) Serve(ln net.Listener) error {
	room := make(chan struct{}, m.cfg.MaxIncoming+maxGreeting)
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("migrate: waiting for connections on %v: %w", ln.Addr(), err)
		}
		select {
		case room <- struct{}{}:
		default:
			// Closed in order it would remain as long as the stranger likes.
			if l, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
				l.SetLinger(0)
			}
			conn.Close()
			continue
		}
		all.Add(1)
		go func() {
			defer all.Done()
			defer func() { <-room }()
			m.ServeConn(conn)
		}()
	}
}

// maxGreeting is how many connections may be there that are no migration (yet).
const maxGreeting = 8

// ServeConn serves one connection to its end.
func (m *Manager) ServeConn(conn net.Conn) {
	l := newLink(m.ctx, conn, m.cfg.Timing, nil)
	defer l.close(net.ErrClosed)
	s := &session{m: m, l: l}
	err := s.run()
	if s.rec != nil {
		defer m.records.end(s.rec)
	}
	if err == nil {
		l.drain(m.cfg.Timing.Silence)
		return
	}
	// Order matters: once the record is Aborted nothing can start the guest,
	// and only then Fail may be sent. What the guest had here is free before
	// that, so that the source can begin anew at once.
	if s.rec != nil && !m.records.abort(s.rec) {
		panic(fmt.Sprintf("migrate: session of %v failed after its guest was started: %v", s.rec.id, err))
	}
	if s.in != nil {
		s.in.Abort()
	}
	if s.rec != nil {
		m.records.release(s.rec)
	}
	s.enter(aborted)
	if s.rep != nil {
		m.endReport(s.rep, err)
	}
	if l.err() == nil {
		l.trySend(msgFail, failure(err).frame())
		l.drain(m.cfg.Timing.Silence)
	}
}

// failure is the Fail message that tells a peer of err.
func failure(err error) *PeerError {
	e := &PeerError{failBroken, err.Error()}
	var r *refusal
	switch {
	case errors.As(err, &r):
		e.code = failRefused
	case errors.Is(err, ErrCancelled), errors.Is(err, context.Canceled):
		e.code = failCancelled
	}
	return e
}

// A refusal is a reason not to take a guest.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// run is a session up to Started, or up to the answer to a query.
func (s *session) run() error {
	h, err := s.greet()
	if err != nil || h.purpose == purposeQuery {
		return err
	}
	if err := s.prepare(h); err != nil {
		return err
	}
	defer s.hush.over()
	for s.state != prepared {
		if err := s.step(); err != nil {
			return err
		}
	}
	return s.commit()
}

// next reads the next message; a Fail is an error.
func (s *session) next() (msgType, []byte, error) {
	s.l.await()
	t, b, err := s.l.recv(s.at)
	s.l.awaited()
	if err == nil && t == msgFail {
		if e, ferr := parseFail(b); ferr != nil {
			err = ferr
		} else {
			err = e
		}
	}
	return t, b, err
}

func (s *session) greet() (hello, error) {
	_, b, err := s.next()
	if err != nil {
		return hello{}, err
	}
	h, err := parseHello(b)
	if err != nil {
		return h, err
	}
	if h.min > maxVersion || h.max < minVersion {
		return h, &refusal{fmt.Errorf("the source speaks versions %d to %d of the protocol, this host %d to %d", h.min, h.max, minVersion, maxVersion)}
	}
	if lack := h.required &^ knownFeatures; lack != 0 {
		return h, &refusal{fmt.Errorf("the source needs features %#x, unknown to this host", lack)}
	}
	s.features = h.features & knownFeatures
	reply := helloReply{version: min(h.max, maxVersion), features: s.features, host: s.m.host}
	if h.purpose == purposeQuery {
		if err := s.l.send(msgHelloReply, reply.frame()); err != nil {
			return h, err
		}
		return h, s.l.send(msgOutcome, outcomeFrame(s.m.records.decide(h.id)))
	}
	if h.host == s.m.host {
		return h, &refusal{errors.New("source and target are the same host")}
	}
	if s.rec, err = s.m.records.open(h.id, h.host, s.l); err != nil {
		return h, err
	}
	s.enter(describing)
	if err := s.l.send(msgHelloReply, reply.frame()); err != nil {
		return h, err
	}
	s.l.chatty.Store(true)
	return h, nil
}

// prepare has the empty machine built.
func (s *session) prepare(h hello) error {
	_, b, err := s.next()
	if err != nil {
		return err
	}
	if s.machine, err = parseMachine(b, s.m.cfg.MaxMemory); err != nil {
		return &refusal{err}
	}
	for {
		busy, err := s.m.records.claim(s.rec, s.machine.Name, s.m.cfg.MaxIncoming)
		if err != nil {
			return &refusal{err}
		}
		if busy == nil {
			break
		}
		select {
		case <-busy.gone:
		case <-s.l.ctx.Done():
			return s.l.err()
		}
	}
	s.rep = s.m.newReport(Report{ID: h.id.String(), Guest: s.machine.Name, Peer: s.l.conn.RemoteAddr().String(), Incoming: true})
	s.enter(preparing)
	ctx, stop := context.WithTimeout(s.l.ctx, s.m.cfg.Timing.Step/2) // before the source gives up
	defer stop()
	if s.in, err = s.m.cfg.Target.Prepare(ctx, s.machine); err != nil {
		s.in = nil
		return &refusal{err}
	}
	for _, r := range s.machine.Regions {
		s.have = append(s.have, NewBitmap(r.pages()))
		s.raw = append(s.raw, NewBitmap(r.pages()))
		s.missing += r.pages()
	}
	s.enter(betweenRounds)
	return s.l.send(msgReady, newFrame().Bytes())
}

// step does what one message between Ready and Prepared asks for.
func (s *session) step() error {
	t, b, err := s.next()
	if err != nil {
		return err
	}
	switch t {
	case msgRound:
		r, err := parseRound(b)
		if err != nil {
			return err
		}
		if r.round != s.round {
			return protocolError("round %d begins where round %d was due", r.round, s.round)
		}
		s.last, s.sum = r.last, roundSum{round: r.round}
		s.round++
		if r.last {
			s.hush.beginLate(s.m.cfg.Timing)
		} else if r.pages <= maxCopies {
			s.hush.begin(s.m.cfg.Timing)
		}
		s.enter(inRound)
		return nil
	case msgPages:
		return s.pages(b)
	case msgRoundEnd:
		return s.endRound(b)
	case msgVerify:
		return s.verify(b)
	case msgState:
		if len(s.blob)+len(b) > maxState {
			return protocolError("the machine's state is larger than %d MiB", maxState>>20)
		}
		s.blob = append(s.blob, b...)
		return nil
	case msgStateEnd:
		return s.load(b)
	}
	panic(fmt.Sprintf("migrate: target accepts %v in %v but does not handle it", t, s.state))
}

func (s *session) region(first, n uint64) (int, error) {
	for i, r := range s.machine.Regions {
		if first >= r.first() && first < r.end() && n <= r.end()-first {
			return i, nil
		}
	}
	return 0, protocolError("pages %#x+%#x are not the guest's", first, n)
}

func (s *session) pages(b []byte) error {
	p, err := parsePages(b)
	if err != nil {
		return err
	}
	if p.round != s.sum.round {
		return protocolError("a batch of round %d came in round %d", p.round, s.sum.round)
	}
	for {
		r, data, ok, err := p.next()
		if err != nil || !ok {
			return err
		}
		n := uint64(r.pages)
		i, err := s.region(r.first, n)
		if err != nil {
			return err
		}
		off := r.first - s.machine.Regions[i].first()
		if r.method != methodZero {
			if data, err = s.plain(r, i, data); err != nil {
				return err
			}
			if err := s.in.WritePages(r.first, data); err != nil {
				return fmt.Errorf("migrate: writing pages %#x+%#x: %w", r.first, n, err)
			}
			s.raw[i].SetRange(off, n)
			s.sum.raw += n
		} else {
			if err := s.zero(i, off, n); err != nil {
				return fmt.Errorf("migrate: clearing pages %#x+%#x: %w", r.first, n, err)
			}
			s.sum.zero += n
		}
		s.missing -= n - s.have[i].countRange(off, n)
		s.have[i].SetRange(off, n)
	}
}

// plain is the pages of a run in region i.
func (s *session) plain(r run, i int, data []byte) ([]byte, error) {
	need := uint64(0)
	switch r.method {
	case methodS2:
		need = featS2
	case methodDelta:
		need = featDelta
	default:
		return data, nil
	}
	if s.features&need == 0 {
		return nil, protocolError("pages %#x+%#x came in encoding %d, which was not agreed on", r.first, r.pages, r.method)
	}
	if s.unpacked == nil {
		s.unpacked = make([]byte, chunk*PageSize)
	}
	if r.method == methodS2 {
		return r.unpack(s.unpacked, data)
	}
	n := uint64(r.pages)
	if s.have[i].countRange(r.first-s.machine.Regions[i].first(), n) != n {
		return nil, protocolError("changes of pages %#x+%#x came, which never came themselves", r.first, n)
	}
	p := s.unpacked[:n*PageSize]
	s.in.ReadPages(r.first, p)
	return p, r.change(p, data)
}

// zero clears those of n pages that are not clear already: memory that was
// never written is never touched.
func (s *session) zero(i int, off, n uint64) error {
	end := off + n
	for p, ok := s.raw[i].NextBefore(off, end); ok; p, ok = s.raw[i].NextBefore(p, end) {
		q := p
		for ; q < end && s.raw[i].Has(q); q++ {
			s.raw[i].Clear(q)
		}
		if err := s.in.ZeroPages(s.machine.Regions[i].first()+p, q-p); err != nil {
			return err
		}
		p = q
	}
	return nil
}

func (s *session) endRound(b []byte) error {
	want, err := parseRoundSum(b)
	if err != nil {
		return err
	}
	if want != s.sum {
		return protocolError("round %d brought %d pages and %d zero ones, the source says %d and %d", s.sum.round, s.sum.raw, s.sum.zero, want.raw, want.zero)
	}
	s.rep.update(func(r *Report) {
		r.arrived(Round{Raw: s.sum.raw, Zero: s.sum.zero, Last: s.last})
		r.Pages += s.sum.raw + s.sum.zero
		r.Zero += s.sum.zero
		r.Bytes = s.l.read.Load()
	})
	switch {
	case !s.last && s.round == maxRoundCount:
		return protocolError("more than %d rounds", maxRoundCount)
	case !s.last:
		s.enter(betweenRounds)
	case s.missing > 0:
		return protocolError("the last round is over and %d pages have never come", s.missing)
	default:
		s.enter(loading)
	}
	return s.l.send(msgRoundDone, s.sum.frame())
}

// verify compares sums of pages with what is in memory.
func (s *session) verify(b []byte) error {
	if s.features&featVerify == 0 {
		return protocolError("Verify was not agreed on")
	}
	le := binary.LittleEndian
	if len(b) < 16 || len(b)%4 != 0 {
		return protocolError("Verify: %d bytes", len(b))
	}
	first, sums := le.Uint64(b), b[12:]
	n := uint64(len(sums) / 4)
	if uint64(le.Uint32(b[8:])) != n {
		return protocolError("Verify: %d sums, not %d", n, le.Uint32(b[8:]))
	}
	if _, err := s.region(first, n); err != nil {
		return err
	}
	var page [PageSize]byte
	for i := range n {
		s.in.ReadPages(first+i, page[:])
		if got, want := checksum(page[:]), le.Uint32(sums[i*4:]); got != want {
			return fmt.Errorf("migrate: page %#x differs (checksum %#x, at the source %#x)", first+i, got, want)
		}
	}
	return nil
}

// load loads the state and says Prepared.
func (s *session) load(b []byte) error {
	length, sum, err := parseStateEnd(b)
	if err != nil {
		return err
	}
	if length != uint64(len(s.blob)) || sum != checksum(s.blob) {
		return protocolError("the machine's state came with %d bytes, not %d, or damaged", len(s.blob), length)
	}
	begin := time.Now()
	ctx, stop := context.WithTimeout(s.l.ctx, s.m.cfg.Timing.Step/2) // before the source gives up
	defer stop()
	if err := s.in.LoadState(ctx, bytes.NewReader(s.blob)); err != nil {
		return fmt.Errorf("migrate: loading the state of guest %q: %w", s.machine.Name, err)
	}
	s.blob = nil
	took := time.Since(begin)
	s.rep.update(func(r *Report) { r.Downtime.Load = took })
	s.m.records.mayAsk(s.rec)
	s.enter(prepared)
	return s.l.send(msgPrepared, u64Frame(uint64(took)))
}

// commit waits for Commit and starts the guest.
func (s *session) commit() error {
	_, b, err := s.next()
	if err != nil {
		return err
	}
	i, err := parseCommit(b)
	if err != nil {
		return err
	}
	if i != s.rec.id {
		return protocolError("Commit is for migration %v, not %v", i, s.rec.id)
	}
	if !s.m.records.commit(s.rec) {
		return s.l.interrupted() // a query, a newer session or an operator ended this one
	}
	s.enter(starting)
	begin := time.Now()
	if err := s.in.Start(); err != nil {
		s.m.records.settle(s.rec, verdictAborted)
		return fmt.Errorf("migrate: starting guest %q: %w", s.machine.Name, err)
	}
	s.m.records.settle(s.rec, verdictStarted)
	took := time.Since(begin)
	s.enter(started)
	s.rep.update(func(r *Report) { r.Downtime.Start = took })
	s.m.endReport(s.rep, nil)
	// The source may have gone. It asks when it comes back.
	_ = s.l.send(msgStarted, u64Frame(uint64(took)))
	return nil
}
