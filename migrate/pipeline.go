package migrate

import "time"

// A pipeline overlaps encoding and sending: a goroutine reads pages from the
// guest into batches, the caller's sends them, and the few batches go round
// between the two. Nothing is allocated for a page or a batch.
type pipeline struct {
	free chan *batch
	sum  roundSum // of the last task

	choice choice
}

// depth is how many batches there are: one being filled, one being sent, and
// some to even out.
const depth = 4

func newPipeline() *pipeline {
	p := &pipeline{free: make(chan *batch, depth)}
	for range depth {
		p.free <- newBatch()
	}
	return p
}

// A task is one round's work.
type task struct {
	g     *Migration
	l     *link
	todo  Bitmap
	left  uint64
	round uint32
	last  bool
	keep  *copies // of the pages sent; nil: none

	sum      roundSum
	skipped  uint64
	same     uint64
	deltas   uint64
	bytes    uint64
	group    int
	encoding time.Duration // the encoder was busy
	writing  time.Duration // the sender was busy
	sent     time.Time     // the last batch
}

// send does t. The link's end ends it early.
func (p *pipeline) send(t *task) error {
	full := make(chan *batch, depth)
	go func() {
		defer close(full)
		t.encode(p, full)
	}()
	t.sum.round = t.round
	for b := range full {
		t.same += b.same
		t.deltas += b.deltas
		if t.l.err() == nil && !b.empty() {
			t.write(b)
		} else {
			p.choice.sent(b, 0)
		}
		p.free <- b
	}
	p.sum = t.sum
	return t.l.err()
}

func (t *task) write(b *batch) {
	begin := time.Now()
	f := b.frame(t.round)
	if t.l.send(msgPages, f) != nil {
		return
	}
	now := time.Now()
	t.writing += now.Sub(begin)
	// From one batch to the next, whatever held it up; that of the encoder shows
	// here only when no other batch is left.
	var took time.Duration
	if !t.sent.IsZero() {
		took = max(now.Sub(t.sent), b.took)
	}
	t.g.pipe.choice.sent(b, took)
	t.sent = now
	t.bytes += uint64(len(f))
	t.l.bound(t.bytes, t.writing)
	t.sum.raw += b.raw
	t.sum.zero += b.zero
	t.g.rep.update(func(r *Report) {
		r.Pages += b.raw + b.zero
		r.Zero += b.zero
		r.Packed += b.packed
		r.Deltas += b.deltas
		r.Bytes = t.l.written.Load()
	})
}

// chunk is how many pages are read from the guest at once.
const chunk = 16

// maxScan is how many zero pages make a batch full, so that scanning empty
// memory shows as progress at both ends.
const maxScan = 128 << 20 / PageSize

// encode fills batches with the pages of todo.
func (t *task) encode(p *pipeline, full chan<- *batch) {
	b := t.take(p)
	if b == nil {
		return
	}
	begin := time.Now()
	flush := func() bool {
		now := time.Now()
		b.took = now.Sub(begin)
		t.encoding += b.took
		p.choice.filled(b, now)
		full <- b
		b = t.take(p)
		begin = time.Now()
		return b != nil
	}
	for _, r := range t.g.machine.Regions {
		page := r.first()
		for {
			first, ok := t.todo.Next(page)
			if !ok || first >= r.end() {
				break
			}
			if b.full() && !flush() {
				return
			}
			n := t.stretch(first, min(r.end()-first, chunk))
			if n > 0 {
				b.add(t.g.guest, first, n)
				t.left -= n
				page = first + n
			} else {
				t.skipped++
				t.left--
				page = first + 1
			}
		}
	}
	b.took = time.Since(begin)
	t.encoding += b.took
	full <- b
}

// stretch is how many pages from first on, at most limit, are to be sent. A page
// that was written again already is not: its turn comes in a later round. When
// the guest stands still there is no later round. And where copies are kept, those that
// are written all the time must have been sent once, or they would be sent whole then.
func (t *task) stretch(first, limit uint64) (n uint64) {
	for n < limit && t.todo.Has(first+n) && (t.last || !t.g.guest.Written(first+n) || t.keep != nil && !t.keep.has(first+n)) {
		n++
	}
	return n
}

// take gets an empty batch; nil means that the link has ended. It is also where
// the group size is set, once for every batch.
func (t *task) take(p *pipeline) *batch {
	var b *batch
	waited := false
	select {
	case b = <-p.free:
	default:
		waited = true
		select {
		case b = <-p.free:
		case <-t.l.ctx.Done():
			return nil
		}
	}
	b.reset()
	b.copies = t.keep
	if t.g.feats&featS2 != 0 {
		p.choice.next(b, time.Now(), waited, t.last)
	}
	// While the guest stands still, what comes first is to be on its way soon, and at
	// work in the target while the rest comes.
	b.short = b.short || t.last
	if !t.last {
		c := t.g.guest.Counters()
		t.g.rep.update(func(r *Report) { r.Left = t.left })
		if o := t.g.opts; !o.FixedGroup {
			if n := groupSize(o.MaxGroup, t.round, t.left+c.Dirty); n != t.group {
				t.g.guest.SetGroup(n)
				t.group = n
			}
		} else {
			t.group = o.MaxGroup
		}
	}
	return b
}
