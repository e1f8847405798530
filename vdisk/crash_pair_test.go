package vdisk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// Power cuts while two files change: snapshots and commits.

// pairGrounds are what these runs begin on: an image, or a child, that becomes a
// parent.
var pairGrounds = []crashSetup{{"512", 512, false, false}, {"4096, child", 4096, true, false}, {"512, child", 512, true, false}, {"4096", 4096, false, false}}

// A pairRun is a short run on a disk that snapshots are taken of.
type pairRun struct {
	*shortRun
	w     *crashWalk
	clock int
	live  *LiveDisk
	item  UserItem
}

// pairOps are shortOps, and more, on such a disk.
var pairOps = []struct {
	name string
	run  func(r *pairRun) error
}{
	{"write block 0", func(r *pairRun) error { return r.write(r.live, Write, 0, 0) }},
	{"write block 0 beside it", func(r *pairRun) error { return r.write(r.live, Write, 0, 1) }},
	{"write block 1", func(r *pairRun) error { return r.write(r.live, Write, 1, 0) }},
	{"trim block 0", func(r *pairRun) error { r.zeroed(0); return r.live.Trim(0, mib) }},
	{"zero block 1", func(r *pairRun) error { r.zeroed(1); return r.live.WriteZeroes(mib, mib) }},
	{"flush", func(r *pairRun) error { return r.settled(r.live.Flush()) }},
	{"write block 1, FUA", func(r *pairRun) error { return r.hardened(1, 1, r.write(r.live, WriteFUA, 1, 1)) }},
	{"grow, write block 2", func(r *pairRun) error {
		if r.live.Size() == 3*mib {
			return errSkip
		}
		r.sizes = append(r.sizes, 3*mib)
		if err := r.resized(r.live.Resize(context.Background(), 3*mib)); err != nil {
			return err
		}
		return r.write(r.live, Write, 2, 1)
	}},
	{"power cut", (*pairRun).powerCut},
	// Those behind here are for snapshots only.
	{"snapshot", func(r *pairRun) error { return r.snapshot(nil) }},
	{"snapshot that is called off", func(r *pairRun) error {
		if err := r.snapshot(errCalledOff); !errors.Is(err, errCalledOff) {
			return fmt.Errorf("it answered %v", err)
		}
		r.w.disks = r.w.disks[:r.top+1]
		return nil
	}},
	{"snapshot offline", (*pairRun).offline},
}

const (
	pairSnapshots  = 9 // from here on
	pairFileAtMost = 4
)

var errCalledOff = errors.New("called off")

// add makes another file.
func (r *pairRun) add(m *Memory) *crashDisk {
	d := &crashDisk{Memory: m, durable: m.Snapshot(), clock: &r.clock}
	if len(r.w.disks) > 0 {
		d.onEvent = r.w.disks[0].onEvent
	}
	r.w.disks = append(r.w.disks, d)
	return d
}

func (r *pairRun) bs() []Backing {
	bs := make([]Backing, len(r.w.disks))
	for i, d := range r.w.disks {
		bs[i] = d
	}
	return bs
}

func (r *pairRun) snapshotOptions(off error) SnapshotOptions {
	return SnapshotOptions{BlockSize: mib, ParentPaths: []ParentPath{{keyRelative, strconv.Itoa(r.top)}}, Ready: func() error {
		if err := r.settled(nil); err != nil { // all that was written is durable
			return err
		}
		r.w.event()
		if off != nil {
			return off
		}
		r.frozen = append(r.frozen, shortMay{slices.Clone(r.sizes), r.may})
		r.top++
		r.w.expect()
		r.w.event()
		return nil
	}}
}

func (r *pairRun) snapshot(off error) error {
	if r.top+2 > pairFileAtMost {
		return errSkip
	}
	return r.live.Snapshot(r.add(NewMemory()), r.snapshotOptions(off))
}

// cutPower leaves all that was written on the media, and finds out what the disk is
// there.
func (r *pairRun) cutPower() error {
	for _, d := range r.w.disks {
		for _, w := range d.since {
			d.sum += w.apply(d.durable)
		}
		d.since = nil
		d.Memory = d.durable.Snapshot()
	}
	im, err := r.open(r.bs(), r.top, true)
	if err != nil {
		return err
	}
	if err := r.compare(im, &r.shortMay); err != nil {
		return err
	}
	r.sizes = []int64{im.Size()}
	for b := range r.may {
		for i := range r.may[b] {
			r.may[b][i] = []byte{r.got[b][i*512]}
		}
	}
	r.collapsed()
	return nil
}

func (r *pairRun) powerCut() error { return errors.Join(r.cutPower(), r.reopen()) }

func (r *pairRun) reopen() error {
	im, err := r.open(r.bs(), r.top, false)
	if err == nil {
		r.live = NewLiveDisk(im)
	}
	return err
}

// offline cuts the power, and takes a snapshot of what is not in use.
func (r *pairRun) offline() error {
	if r.top+2 > pairFileAtMost {
		return errSkip
	}
	if err := r.cutPower(); err != nil {
		return err
	}
	below, err := openFrozen(func(ro bool) (*Image, error) { return r.open(r.bs(), r.top, ro) })
	if err != nil {
		return err
	}
	o := r.snapshotOptions(nil)
	if err := errors.Join(below.createChild(r.add(NewMemory()), &o), o.Ready(), below.Close()); err != nil {
		return err
	}
	return r.reopen()
}

// newPairRun begins a run; nothing is visited before watch.
func newPairRun(ground *shortGround, name *string, run []int) (*pairRun, error) {
	s, d := ground.run()
	r := &pairRun{shortRun: s, item: UserItem{ID: NewGUID(), Data: []byte("kept")}}
	r.w = &crashWalk{
		visited: map[uint64]bool{}, ticks: &ground.ticks, every: 64, depth: 3, look: s.check,
		goOn: func(bs []Backing) error { _, err := s.open(bs, s.top, false); return err },
		what: func() string { return fmt.Sprintf("%s: %v, during %q", s.name, run, *name) },
	}
	s.collapsed = r.w.expect
	r.add(d.Memory)
	return r, r.reopen()
}

func (r *pairRun) watch() { r.w.disks[0].onEvent = func(*crashDisk) { r.w.event() } }

// snapshotCrashes visits the crash states of a run with snapshots.
func snapshotCrashes(t *testing.T, ground *shortGround, run []int, known int) *crashWalk {
	t.Helper()
	name := "open"
	r, err := newPairRun(ground, &name, run)
	if err != nil {
		t.Fatal(err)
	}
	r.watch()
	for i, o := range run {
		name, r.w.known = pairOps[o].name, i < known
		if err = pairOps[o].run(r); err != nil {
			break
		}
	}
	if err == nil {
		name, r.w.known = "close", false
		err = r.live.Close()
	}
	if err == nil {
		name = "after close"
		r.w.event()
	}
	if r.w.err != nil {
		err = r.w.err
	}
	if err != nil && err != errSkip {
		t.Fatalf("%s: %v", r.w.what(), err)
	}
	return r.w
}

// commit writes the run's newest file into the one below it.
func (r *pairRun) commit(ctx context.Context, bs []Backing, progress func(int64, int64)) error {
	_, err := Commit(ctx, bs[1], CommitOptions{
		Parent:    func([]ParentPath) (Backing, error) { return bs[0], nil },
		Ancestors: func([]ParentPath) (Backing, error) { return r.parentDisk, nil },
		Progress:  progress,
	})
	return err
}

// commitCrashes makes a child, does with it what run says, closes it or not, and
// visits the crash states of a commit, or of one that is interrupted and the next.
// Afterwards both files read as the child did, and so they do when the commit is
// repeated after a crash, and that is cut off.
func commitCrashes(t *testing.T, ground *shortGround, run []int, close, interrupt bool) *crashWalk {
	t.Helper()
	name := "prepare"
	r, err := newPairRun(ground, &name, run)
	if err != nil {
		t.Fatal(err)
	}
	do := func(what string, f func() error) {
		t.Helper()
		name = what
		if err == nil {
			err = f()
		}
		if err == nil {
			err = r.w.err
		}
	}
	both := func(bs []Backing) error {
		for i := range bs {
			im, err := r.open(bs, i, true)
			if err == nil {
				err = r.compare(im, &r.shortMay)
			}
			if err != nil {
				return fmt.Errorf("committed, file %d: %w", i, err)
			}
		}
		return nil
	}
	do("snapshot", func() error { return r.snapshot(nil) })
	r.frozen = nil // the commit changes it
	for _, o := range run {
		do(pairOps[o].name, func() error { return pairOps[o].run(r) })
	}
	do("item", func() error { return r.live.Image().SetUserItem(r.item) })
	if close {
		do("close", func() error { return errors.Join(r.live.Close(), r.settled(nil)) })
	} else {
		do("power cut", r.cutPower)
	}
	r.watch()
	r.w.disks[1].onEvent = r.w.disks[0].onEvent
	r.w.every, r.w.depth = 512, 2
	r.w.goOn = func(bs []Backing) error {
		if err := r.commit(context.Background(), bs, nil); err != nil {
			return fmt.Errorf("repeated: %w", err)
		}
		return both(bs)
	}
	if interrupt {
		do("commit that is interrupted", func() error {
			ctx, cancel := context.WithCancel(context.Background())
			if err := r.commit(ctx, r.bs(), func(int64, int64) { cancel() }); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	do("commit", func() error { return r.commit(context.Background(), r.bs(), nil) })
	r.frozen = []shortMay{r.shortMay} // the parent reads the same now, whatever is lost
	r.w.expect()
	do("after the commit", func() error { r.w.event(); return both(r.bs()) })
	do("item", func() error {
		im, err := r.open(r.bs(), 0, true)
		if err != nil {
			return err
		}
		it, err := im.UserItem(r.item.ID)
		if err == nil && string(it.Data) != "kept" {
			err = fmt.Errorf("the parent has %q", it.Data)
		}
		return err
	})
	if err != nil && err != errSkip {
		t.Fatalf("%s: %v", r.w.what(), err)
	}
	return r.w
}

// At every event of snapshots of disks in use and at rest, of those that are called
// off, and of what is done before and after, any part of what was not flushed to
// either file is on the media: the disk is what Ready has noted, and images below it
// hold what was frozen.
func TestEveryCrashOfSnapshots(t *testing.T) {
	t.Parallel()
	states, deep, runs := 0, 0, 0
	rng := rand.New(rand.NewPCG(3, 4))
	for _, setup := range pairGrounds {
		ground := newShortGround(t, setup)
		crashRuns(rng, 1, len(pairOps), *crashOperations, func(run []int, known int) {
			if slices.Max(run) < pairSnapshots {
				return
			}
			w := snapshotCrashes(t, ground, run, known)
			states, deep, runs = states+w.states, deep+w.deep, runs+1
		})
	}
	crashStates.Add(int64(states))
	t.Logf("%d crash states of %d runs opened and compared, %d of them in the midst of replays", states, runs, deep)
	if states < 5000 {
		t.Errorf("only %d crash states were visited", states)
	}
}

// The same of commits.
func TestEveryCrashOfCommits(t *testing.T) {
	t.Parallel()
	states, deep, runs := 0, 0, 0
	rng := rand.New(rand.NewPCG(5, 6))
	for _, setup := range pairGrounds {
		ground := newShortGround(t, setup)
		crashRuns(rng, *crashSample, pairSnapshots, *crashOperations, func(run []int, _ int) {
			w := commitCrashes(t, ground, run, rng.IntN(2) == 0, rng.IntN(3) == 0)
			states, deep, runs = states+w.states, deep+w.deep, runs+1
		})
	}
	crashStates.Add(int64(states))
	t.Logf("%d crash states of %d runs opened and compared, %d of them in the midst of repetitions", states, runs, deep)
	if states < 5000 {
		t.Errorf("only %d crash states were visited", states)
	}
}
