package vdisk

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"testing"
)

var (
	crashOperations = flag.Int("crash-operations", 2, "visit the crash states of runs of so many operations; from 3 on every recent write is torn, not only the last")
	crashSample     = flag.Int("crash-sample", 14, "of one in so many of these runs")
)

// A crashSetup is the ground that short runs are made on.
type crashSetup struct {
	name            string
	sector          int64
	parent, section bool
}

var crashSetups = []crashSetup{
	{"512", 512, false, false},
	{"4096", 4096, false, false},
	{"512, child", 512, true, false},
	{"4096, child", 4096, true, false},
	{"512, partition", 512, false, true},
	{"4096, child, partition", 4096, true, true},
}

// shortOps are what a short run consists of. One that can not be done there answers
// errSkip, and the run is left out.
var shortOps = []struct {
	name string
	run  func(im *Image, s *shortRun) error
}{
	{"write block 0", func(im *Image, s *shortRun) error { return s.write(im, Write, 0, 0) }},
	{"write block 0 beside it", func(im *Image, s *shortRun) error { return s.write(im, Write, 0, 1) }},
	{"write block 1", func(im *Image, s *shortRun) error { return s.write(im, Write, 1, 0) }},
	{"trim block 0", func(im *Image, s *shortRun) error { s.zeroed(0); return im.Trim(0, mib) }},
	{"zero block 1", func(im *Image, s *shortRun) error { s.zeroed(1); return im.WriteZeroes(mib, mib) }},
	{"flush", func(im *Image, s *shortRun) error { return s.settled(im.Flush()) }},
	{"write block 1, FUA", func(im *Image, s *shortRun) error { return s.settled(s.write(im, WriteFUA, 1, 1)) }},
	{"write block 0 with flushes meanwhile", func(im *Image, s *shortRun) error {
		s.split = true
		err := s.write(im, Write, 0, 2)
		s.split = false
		return err
	}},
	{"write block 2", func(im *Image, s *shortRun) error {
		if im.Size() < 3*mib {
			return errSkip
		}
		return s.write(im, Write, 2, 1)
	}},
	{"grow", func(im *Image, s *shortRun) error {
		if im.Size() == 3*mib {
			return errSkip
		}
		s.sizes = append(s.sizes, 3*mib)
		return s.resized(im.Resize(context.Background(), 3*mib))
	}},
	{"shrink", func(im *Image, s *shortRun) error {
		if im.Size() == 2*mib || im.parent != nil {
			return errSkip
		}
		s.sizes = append(s.sizes, 2*mib)
		if err := s.resized(im.ResizeAndDiscard(context.Background(), 2*mib)); err != nil {
			return err
		}
		for i := range s.may[2] {
			s.may[2][i] = []byte{0} // when it is grown again
		}
		return nil
	}},
	{"compact", func(im *Image, s *shortRun) error {
		_, err := im.Compact(context.Background(), nil)
		return err
	}},
	{"move the BAT", func(im *Image, s *shortRun) error {
		return im.step(func() error {
			off, c, err := im.space.alloc(mib)
			if errors.Is(err, ErrNoSpace) {
				return errSkip
			}
			if err != nil {
				return err
			}
			return im.moveBAT(context.Background(), off, mib, c)
		})
	}},
	{"compact, and write block 0 when something has moved", func(im *Image, s *shortRun) error {
		var wrote bool
		var werr error
		_, err := im.Compact(context.Background(), func(c Compaction) {
			if c.Moved > 0 && !wrote {
				wrote, werr = true, s.write(im, Write, 0, 1)
			}
		})
		return errors.Join(err, werr)
	}},
}

// shortPrefixes are what happens before the runs.
var shortPrefixes = [][]int{nil, {0, 2, 5, 3, 5}, {9, 8, 0, 5, 3}, {0, 2, 12, 5, 3}}

var errSkip = errors.New("not here")

const (
	shortBlocks  = 3
	shortWindow  = 16 * kib // of each block is what runs write to
	shortParts   = 3        // places of 4 KiB in it, a little apart
	sectionBytes = 12*mib + 8*kib
)

// A shortRun knows which stamps each 512 bytes may bear; the last is the newest.
type shortRun struct {
	crashSetup
	parentDisk *Memory
	stamp      byte
	sizes      []int64
	may        [shortBlocks][shortWindow / 512][]byte
	split      bool
	flying     [2]int     // block and part of the write in flight, when split
	collapsed  func()     // the lists became shorter
	got        shortBytes // for check, which runs in the midst of a write
	data       [4096]byte
	checks     int
}

// shortBytes is what a reader finds: of each block the window and the last 4 KiB.
type shortBytes [shortBlocks][shortWindow + 4*kib]byte

// place is where part k of a block's window begins: with sectors of 512 bytes the
// parts overlap.
func (s *shortRun) place(k int) int64 {
	if s.sector == 4096 {
		return []int64{0, 4096, 0}[k]
	}
	return []int64{512, 3072, 2048}[k]
}

func (s *shortRun) write(im *Image, kind Kind, block, part int) error {
	s.stamp++
	for i := range s.data {
		s.data[i] = s.stamp
	}
	off := s.place(part)
	for i := off / 512; i < off/512+8; i++ {
		s.may[block][i] = append(s.may[block][i], s.stamp)
	}
	s.flying = [2]int{block, part}
	bufs := [][]byte{s.data[:]}
	if s.sector == 512 {
		bufs = [][]byte{s.data[:1024], s.data[1024:]}
	}
	return run(im, &Request{Kind: kind, Offset: int64(block)*mib + off, Buffers: bufs})
}

func (s *shortRun) zeroed(block int) {
	for i := range s.may[block] {
		s.may[block][i] = append(s.may[block][i], 0)
	}
}

// settled drops all but the newest after a flush; of what is in flight, all but the
// two newest.
func (s *shortRun) settled(err error) error {
	for b := range s.may {
		for i := range s.may[b] {
			keep := 1
			if from := s.place(s.flying[1]) / 512; s.split && b == s.flying[0] && int64(i) >= from && int64(i) < from+8 {
				keep = 2
			}
			if l := s.may[b][i]; len(l) > keep {
				s.may[b][i] = append([]byte(nil), l[len(l)-keep:]...)
			}
		}
	}
	s.collapsed()
	return err
}

func (s *shortRun) resized(err error) error {
	s.sizes = s.sizes[len(s.sizes)-1:]
	s.collapsed()
	return err
}

func (s *shortRun) open(b Backing, ro bool) (*Image, error) {
	o := Options{ReadOnly: ro}
	if s.section {
		var err error
		if b, err = NewSection(b, 0, sectionBytes); err != nil {
			return nil, err
		}
	}
	if s.parent {
		o.Parent = func([]ParentPath) (Backing, error) { return s.parentDisk, nil }
	}
	return Open(b, o)
}

// read fills s.got with what im holds.
func (s *shortRun) read(im *Image) error {
	for b := range int64(shortBlocks) {
		clear(s.got[b][:])
		if b*mib >= im.Size() {
			continue
		}
		if _, err := im.ReadAt(s.got[b][:shortWindow], b*mib); err != nil {
			return err
		}
		if _, err := im.ReadAt(s.got[b][shortWindow:], b*mib+mib-4*kib); err != nil {
			return err
		}
	}
	return nil
}

// check opens what a crash left, and looks at every sector.
func (s *shortRun) check(m *Memory) error {
	s.checks++
	im, err := s.open(m, s.checks%2 == 0)
	if err != nil {
		return err
	}
	found := false
	for _, size := range s.sizes {
		found = found || size == im.Size()
	}
	if !found {
		return fmt.Errorf("the disk has %d bytes; it may have %v", im.Size(), s.sizes)
	}
	if err := s.read(im); err != nil {
		return err
	}
	for b := range im.Size() / mib {
		for i, may := range s.may[b] {
			p := s.got[b][i*512:][:512]
			for _, c := range p {
				if c != p[0] {
					return fmt.Errorf("512 bytes at %d of block %d are torn", i*512, b)
				}
			}
			if !containsByte(may, p[0]) {
				return fmt.Errorf("512 bytes at %d of block %d bear %d; they may bear %d", i*512, b, p[0], may)
			}
		}
		want := byte(0)
		if s.parent && b < 2 {
			want = s.may[b][shortWindow/512-1][0] // nobody writes there
			if l := s.may[b][shortWindow/512-1]; !containsByte(l, s.got[b][shortWindow]) {
				return fmt.Errorf("the end of block %d bears %d; it may bear %d", b, s.got[b][shortWindow], l)
			}
			want = s.got[b][shortWindow]
		}
		for _, c := range s.got[b][shortWindow:] {
			if c != want {
				return fmt.Errorf("the end of block %d bears %d, not %d", b, c, want)
			}
		}
	}
	if s.checks%64 == 0 {
		return s.secondLife(m)
	}
	return nil
}

var lifeStamps = func() (b [4096]byte) {
	for i := range b {
		b[i] = 0xee
	}
	return b
}()

// secondLife goes on with an image after a crash: what was there stays, a new write
// comes to it, and nothing is found to be damaged.
func (s *shortRun) secondLife(m *Memory) error {
	im, err := s.open(m, false)
	if err != nil {
		return err
	}
	if err := s.read(im); err != nil {
		return err
	}
	want, last := s.got, im.Size()/mib-1
	copy(want[last][8*kib:], lifeStamps[:])
	if _, err := im.WriteAt(lifeStamps[:], last*mib+8*kib); err != nil {
		return err
	}
	if err := im.Flush(); err != nil {
		return err
	}
	if im, err = s.open(m.Snapshot(), true); err != nil { // once more as after a crash
		return err
	}
	if err := s.read(im); err != nil {
		return err
	}
	for b := range want {
		for i := range want[b] {
			if s.got[b][i] != want[b][i] {
				return fmt.Errorf("written to after the crash, byte %d of block %d's window became %d; it was %d", i, b, s.got[b][i], want[b][i])
			}
		}
	}
	var b Backing = m
	if s.section {
		if b, err = NewSection(m, 0, sectionBytes); err != nil {
			return err
		}
	}
	list, err := Check(b, Options{Parent: func([]ParentPath) (Backing, error) { return s.parentDisk, nil }})
	if err != nil {
		return err
	}
	for _, f := range list {
		if f.Damage {
			return fmt.Errorf("after the crash: %v", f)
		}
	}
	return nil
}

func containsByte(b []byte, c byte) bool {
	for _, x := range b {
		if x == c {
			return true
		}
	}
	return false
}

// newShortRun makes the image that a run begins with.
func newShortRun(t *testing.T, setup crashSetup) (*shortRun, *crashDisk) {
	t.Helper()
	s := &shortRun{crashSetup: setup, sizes: []int64{2 * mib}}
	create := CreateOptions{Size: 2 * mib, BlockSize: mib, LogicalSector: int(setup.sector)}
	for b := range s.may {
		s.zeroed(b)
	}
	if setup.parent {
		s.parentDisk = NewMemory()
		if err := Create(s.parentDisk, create); err != nil {
			t.Fatal(err)
		}
		p, err := Open(s.parentDisk, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for b := range s.may[:2] {
			buf := make([]byte, mib)
			for i := range buf {
				buf[i] = byte(200 + b)
			}
			if _, err := p.WriteAt(buf, int64(b)*mib); err != nil {
				t.Fatal(err)
			}
			for i := range s.may[b] {
				s.may[b][i] = []byte{byte(200 + b)}
			}
		}
		create.Parent = p
		defer p.Close()
	}
	m := NewMemory()
	var b Backing = m
	if setup.section {
		// A partition holds what was on it before.
		junk := make([]byte, 16*kib)
		for i := range junk {
			junk[i] = 0xdb
		}
		for at := int64(0); at+mib <= sectionBytes; at += mib {
			m.WriteAt(junk, at)
			m.WriteAt(junk, at+mib-int64(len(junk)))
		}
		m.Truncate(sectionBytes)
		var err error
		if b, err = NewSection(m, 0, sectionBytes); err != nil {
			t.Fatal(err)
		}
	}
	if err := Create(b, create); err != nil {
		t.Fatal(err)
	}
	return s, &crashDisk{Memory: m, durable: m.Snapshot()}
}

// A crashWalk visits the crash states of one run.
type crashWalk struct {
	s      *shortRun
	d      *crashDisk
	what   func() string
	seen   int // of d.since, whose subsets were visited; -1 for none, not even the empty one
	states int
	deep   int   // during replays
	err    error // the first; nothing is visited after it
}

func (w *crashWalk) failed(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%s, cut at event %d%w", w.what(), w.d.events, fmt.Errorf(format, args...))
	}
}

const crashRecent = 6 // of what was not flushed, all subsets of the last so many

// event visits what the medium may hold now, but for what it visited at the event
// before: every subset of what was not flushed, all of it in reverse, and the last of
// it torn at each 512 bytes.
func (w *crashWalk) event() {
	since := w.d.since
	n := min(len(since), crashRecent)
	old, recent := since[:len(since)-n], since[len(since)-n:]
	for set := range 1 << n {
		ws := append([]*pendingWrite(nil), old...)
		fresh := w.seen < 0
		for i := range n {
			if set>>i&1 != 0 {
				ws = append(ws, recent[i])
				fresh = fresh || len(old)+i >= w.seen
			}
		}
		if !fresh {
			continue
		}
		w.visit(ws)
		if set != 1<<n-1 || n == 0 {
			continue
		}
		for i := len(ws) - 1; i >= 0 && (i == len(ws)-1 || *crashOperations > 2 && i >= len(old)); i-- {
			whole := ws[i]
			for k := 512; k < len(whole.data); k += max(512, len(whole.data)/16/512*512) {
				ws[i] = &pendingWrite{off: whole.off, data: whole.data[:k]}
				w.visit(ws)
				if *crashOperations > 2 {
					ws[i] = &pendingWrite{off: whole.off + int64(k), data: whole.data[k:]}
					w.visit(ws)
				}
			}
			ws[i] = whole
		}
		if len(old) > 0 {
			w.visit(nil)
		}
		for i, j := 0, len(ws)-1; i < j; i, j = i+1, j-1 {
			ws[i], ws[j] = ws[j], ws[i]
		}
		if n > 1 {
			w.visit(ws)
		}
	}
	w.seen = len(since)
}

func (w *crashWalk) visit(ws []*pendingWrite) {
	if w.err != nil {
		return
	}
	m := w.d.durable.Snapshot()
	for _, p := range ws {
		p.apply(m)
	}
	w.states++
	if w.states%64 == 0 {
		w.duringReplay(m, 3)
	}
	if err := w.s.check(m); err != nil {
		w.failed(": %w", err)
	}
}

// duringReplay opens m, and cuts that off too: after each event nothing, all, or half
// of the last of what was not flushed is there. From one of these states it goes on
// in the same way.
func (w *crashWalk) duringReplay(m *Memory, depth int) {
	d := &crashDisk{Memory: m.Snapshot(), durable: m.Snapshot()}
	var cuts []*Memory
	d.onEvent = func(d *crashDisk) {
		if len(d.since) == 0 {
			cuts = append(cuts, d.durable.Snapshot())
			return
		}
		last := d.since[len(d.since)-1]
		half := d.durable.Snapshot()
		if len(last.data) > 512 {
			(&pendingWrite{off: last.off, data: last.data[:len(last.data)/1024*512]}).apply(half)
		} else {
			last.apply(half)
		}
		cuts = append(cuts, d.durable.Snapshot(), d.Memory.Snapshot(), half)
	}
	if _, err := w.s.open(d, false); err != nil {
		w.failed(": %w", err)
	}
	for i, c := range cuts {
		w.states++
		w.deep++
		if depth > 1 && i == w.states%len(cuts) {
			w.duringReplay(c, depth-1)
		}
		if err := w.s.check(c); err != nil {
			w.failed(" and then in a replay, state %d of %d, %d more to come: %w", i, len(cuts), depth-1, err)
		}
	}
}

// shortCrashes visits the crash states of one run, or answers none if the run can
// not be.
func shortCrashes(t *testing.T, setup crashSetup, prefix, run []int) (states, deep int) {
	t.Helper()
	s, d := newShortRun(t, setup)
	s.collapsed = func() {}
	im, err := s.open(d, false)
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	w := &crashWalk{s: s, d: d, seen: -1, what: func() string {
		return fmt.Sprintf("%s: %v after %v, during %q", setup.name, run, prefix, name)
	}}
	inside := false
	d.inFlight = func(d *crashDisk, off int64) {
		im.commit.mu.Lock()
		busy := im.commit.running
		im.commit.mu.Unlock()
		if !s.split || inside || busy || off < headerSectionSize {
			return
		}
		inside = true
		if err := s.settled(im.Flush()); err != nil {
			t.Fatal(err)
		}
		inside = false
	}
	for _, o := range prefix {
		switch err := shortOps[o].run(im, s); err {
		case nil:
		case errSkip:
			return 0, 0
		default:
			t.Fatal(err)
		}
	}
	s.collapsed = func() { w.seen = -1 }
	d.onEvent = func(d *crashDisk) { w.event() }
	for _, o := range run {
		name = shortOps[o].name
		switch err := shortOps[o].run(im, s); err {
		case nil:
		case errSkip:
			if w.err != nil {
				t.Fatal(w.err)
			}
			return w.states, w.deep
		default:
			t.Fatalf("%s: %v", w.what(), err)
		}
	}
	name = "close"
	if err := im.Close(); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	name = "after close"
	w.event()
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.states, w.deep
}

// At every event of every run of a few operations, every subset of what was not
// flushed is on the medium; crashes during the replay after it come on top.
func TestEveryCrashOfShortRuns(t *testing.T) {
	t.Parallel()
	states, deep, runs := 0, 0, 0
	for _, setup := range crashSetups {
		mine := 0
		for _, prefix := range shortPrefixes {
			run := make([]int, *crashOperations)
			for i := 0; i < len(run); {
				if runs++; runs%*crashSample == 0 {
					n, k := shortCrashes(t, setup, prefix, run)
					mine += n
					deep += k
				}
				for i = 0; i < len(run); i++ {
					if run[i]++; run[i] < len(shortOps) {
						break
					}
					run[i] = 0
				}
			}
		}
		t.Logf("%s: %d states", setup.name, mine)
		states += mine
	}
	t.Logf("%d crash states opened and compared, %d of them in the midst of replays", states, deep)
	if states < 10000 {
		t.Errorf("only %d crash states were visited", states)
	}
}
