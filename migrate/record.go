package migrate

import (
	"fmt"
	"sync"
)

// A verdict is a target's record of one migration (rule T1 of protocol.go).
type verdict uint8

const (
	verdictOpen     verdict = iota
	verdictStarting         // Commit has come; the guest is being started
	verdictStarted          // final
	verdictAborted          // final: the guest has not run here and never will
)

var verdictNames = [...]string{"open", "starting", "started", "aborted"}

func (v verdict) String() string { return verdictNames[v] }

// A record is what a target knows of a migration. Its verdict is the commit
// record: one word, moved under the table's lock.
type record struct {
	id       id
	host     id // the source's
	name     string
	verdict  verdict
	prepared bool  // Prepared was, or may have been, sent: the source may come to ask
	link     *link // of the session; nil when it is gone
	gone     chan struct{}
}

// records is the table of a target. A live session has a record; that of an
// ended one is kept only where its source may ask for it, and the oldest go
// first. A source that asks too late learns nothing and stays in doubt.
type records struct {
	mu     sync.Mutex
	byID   map[id]*record
	byName map[string]*record // sessions that hold a name
	kept   []id               // ended ones, oldest first
}

const maxKept = 1024

func newRecords() *records {
	return &records{byID: map[id]*record{}, byName: map[string]*record{}}
}

// open makes the record of a new session.
func (t *records) open(i, host id, l *link) (*record, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[i] != nil {
		return nil, protocolError("migration %v was here before", i)
	}
	r := &record{id: i, host: host, link: l, gone: make(chan struct{})}
	t.byID[i] = r
	return r, nil
}

// claim gives r the name. If another session has it, busy is that session. If
// that comes from the same source, whose link died unnoticed here, it is
// aborted: wait until it is gone and claim again.
func (t *records) claim(r *record, name string, limit int) (busy *record, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.byName[name]; b != nil {
		if b.host != r.host || !t.abortLocked(b) {
			return nil, fmt.Errorf("another migration of guest %q to this host is in progress: `migrate list` there shows it, `migrate cancel %s` there ends it", name, name)
		}
		b.link.fail(fmt.Errorf("migrate: the source began anew"))
		return b, nil
	}
	if len(t.byName) >= limit {
		return nil, fmt.Errorf("%d guests are arriving at this host already, as many as it takes at once: try again when one is there", limit)
	}
	t.byName[name] = r
	r.name = name
	return nil, nil
}

// abort moves r to Aborted. False means that the guest was started, or is being
// started, here: then it is too late.
func (t *records) abort(r *record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.abortLocked(r)
}

func (t *records) abortLocked(r *record) bool {
	switch r.verdict {
	case verdictOpen, verdictAborted:
		r.verdict = verdictAborted
		return true
	}
	return false
}

// cancel aborts the session that brings a guest, given its name or the migration's
// ID, as an operator of this host wishes. It does not wait for the session's end.
func (t *records) cancel(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byName[name]
	for _, o := range t.byID {
		if r == nil && o.name != "" && o.link != nil && o.verdict == verdictOpen && o.id.String() == name {
			r = o
		}
	}
	if r == nil {
		return fmt.Errorf("%w: no guest %q is leaving this host or arriving at it (`migrate list` lists them)", ErrNoMigration, name)
	}
	if !t.abortLocked(r) {
		return ErrTooLate
	}
	if r.link != nil {
		r.link.interrupt(fmt.Errorf("%w by the operator of the target", ErrCancelled))
	}
	return nil
}

// commit moves r from Open to Starting. False: somebody aborted it.
func (t *records) commit(r *record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.verdict != verdictOpen {
		return false
	}
	r.verdict = verdictStarting
	return true
}

// settle ends Starting.
func (t *records) settle(r *record, v verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.verdict != verdictStarting || v != verdictStarted && v != verdictAborted {
		panic(fmt.Sprintf("migrate: record of %v goes from %v to %v", r.id, r.verdict, v))
	}
	r.verdict = v
	if v == verdictStarted && t.byName[r.name] == r {
		delete(t.byName, r.name) // the name is the running machine's now
	}
}

// mayAsk notes that Prepared is about to be sent.
func (t *records) mayAsk(r *record) {
	t.mu.Lock()
	r.prepared = true
	t.mu.Unlock()
}

// release gives r's name free before its session ends.
func (t *records) release(r *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName[r.name] == r {
		delete(t.byName, r.name)
	}
}

// end says that r's session is over and holds nothing any more.
func (t *records) end(r *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName[r.name] == r {
		delete(t.byName, r.name)
	}
	r.link = nil
	close(r.gone)
	if !r.prepared {
		delete(t.byID, r.id)
		return
	}
	if t.kept = append(t.kept, r.id); len(t.kept) > maxKept {
		delete(t.byID, t.kept[0])
		t.kept = t.kept[1:]
	}
}

// decide answers a query: an open record becomes aborted.
func (t *records) decide(i id) outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byID[i]
	switch {
	case r == nil:
		return outcomeUnknown
	case t.abortLocked(r):
		if r.link != nil {
			r.link.fail(fmt.Errorf("migrate: the source asked over another connection and was told that it is off"))
		}
		return outcomeNotStarted
	case r.verdict == verdictStarted:
		return outcomeStarted
	}
	return outcomePending
}
