package vdisk

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

var (
	crashOperations = flag.Int("crash-operations", 2, "visit the crash states of runs of so many operations; from 3 on every recent write is torn, not only the last")
	crashSample     = flag.Int("crash-sample", 5, "of one in so many of these runs, and all with snapshots")
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
	{"write block 1, FUA", func(im *Image, s *shortRun) error { return s.hardened(1, 1, s.write(im, WriteFUA, 1, 1)) }},
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
		if im.Size() == 2*mib {
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
	{"shrink to block 0, and back", func(im *Image, s *shortRun) error {
		if im.Size() != 2*mib {
			return errSkip
		}
		for _, size := range []int64{mib, 2 * mib} {
			s.sizes = append(s.sizes, size)
			if err := s.resized(im.ResizeAndDiscard(context.Background(), size)); err != nil {
				return err
			}
			for i := range s.may[1] {
				s.may[1][i] = []byte{0}
			}
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
	{"move the log", func(im *Image, s *shortRun) error { return s.displace(im, im.j.length, im.moveLog) }},
	{"move the metadata", func(im *Image, s *shortRun) error {
		md, _ := findRegion(im.regions, regionMetadata)
		return s.displace(im, int64(md.Length), im.moveMetadata)
	}},
}

// displace gives something another place.
func (s *shortRun) displace(im *Image, n int64, move func(off int64) error) error {
	return im.step(func() error {
		off, _, err := im.space.alloc(n)
		if errors.Is(err, ErrNoSpace) {
			return errSkip
		}
		if err != nil {
			return err
		}
		if err := im.begin(false); err != nil {
			return err
		}
		return move(off)
	})
}

// shortPrefixes are what happens before the runs.
var shortPrefixes = [][]int{nil, {0, 2, 5, 3, 5}, {9, 8, 0, 5, 3}, {0, 2, 13, 5, 3}, {0, 2, 15, 16, 5, 3}}

var errSkip = errors.New("not here")

const (
	shortBlocks  = 3
	shortWindow  = 16 * kib // of each block is what runs write to
	shortParts   = 3        // places of 4 KiB in it, a little apart
	sectionBytes = 12*mib + 8*kib
)

// shortMay says what a disk may hold: which sizes it may have, and which stamps each
// 512 bytes may bear. The last of each is the newest.
type shortMay struct {
	sizes []int64
	may   [shortBlocks][shortWindow / 512][]byte
}

// A shortRun knows what its disk may hold after a crash.
type shortRun struct {
	crashSetup
	parentDisk *Memory
	stamp      byte
	shortMay
	// Of the files that a run makes, each the child of the one before it, top
	// is the disk; what the others hold is known, if it is to be looked at.
	top       int
	frozen    []shortMay
	split     bool
	flying    [2]int     // block and part of the write in flight, when split
	collapsed func()     // the lists became shorter
	got       shortBytes // for check, which runs in the midst of a write
	data      [4096]byte
	checks    *int // over all runs
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

func (s *shortRun) write(d Disk, kind Kind, block, part int) error {
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
	return run(d, &Request{Kind: kind, Offset: int64(block)*mib + off, Buffers: bufs})
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

// hardened drops all but the newest of what a write with FUA wrote.
func (s *shortRun) hardened(block, part int, err error) error {
	from := s.place(part) / 512
	for i := from; i < from+8; i++ {
		l := s.may[block][i]
		s.may[block][i] = append([]byte(nil), l[len(l)-1])
	}
	s.collapsed()
	return err
}

func (s *shortRun) resized(err error) error {
	s.sizes = s.sizes[len(s.sizes)-1:]
	s.collapsed()
	return err
}

// open opens file i of those in bs.
func (s *shortRun) open(bs []Backing, i int, ro bool) (*Image, error) {
	b, o := bs[i], s.options(bs)
	o.ReadOnly = ro
	if s.section {
		var err error
		if b, err = NewSection(b, 0, sectionBytes); err != nil {
			return nil, err
		}
	}
	return Open(b, o)
}

// options find parents by their place in bs; who names none is the child of parentDisk.
func (s *shortRun) options(bs []Backing) Options {
	return Options{Parent: func(paths []ParentPath) (Backing, error) {
		if len(paths) == 0 {
			return s.parentDisk, nil
		}
		i, err := strconv.Atoi(paths[0].Path)
		return bs[i], err
	}}
}

func backings(ms []*Memory) []Backing {
	bs := make([]Backing, len(ms))
	for i, m := range ms {
		bs[i] = m
	}
	return bs
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
func (s *shortRun) check(ms []*Memory) error {
	*s.checks++
	im, err := s.open(backings(ms), s.top, *s.checks%2 == 0)
	if err != nil {
		return err
	}
	if err := s.compare(im, &s.shortMay); err != nil {
		return err
	}
	for i := range s.frozen {
		if *s.checks/2%4 != 0 {
			continue
		}
		below, err := s.open(backings(ms), i, true)
		if err == nil {
			err = s.compare(below, &s.frozen[i])
		}
		if err != nil {
			return fmt.Errorf("file %d of %d: %w", i, len(ms), err)
		}
	}
	if *s.checks/2%4 == 1 && s.top+1 < len(ms) {
		// A child that is not the disk yet: none, or empty.
		child, err := s.open(backings(ms), s.top+1, true)
		if err == nil {
			err = s.compare(child, &s.shortMay)
		} else if errors.Is(err, ErrNotVHDX) || errors.Is(err, ErrTruncated) || errors.Is(err, ErrHeaders) || errors.Is(err, ErrParentChanged) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("a child that is not noted yet: %w", err)
		}
	}
	if *s.checks%128 == 0 {
		return s.secondLife(ms)
	}
	return nil
}

// compare looks at every sector that runs write to, and some beside them.
func (s *shortRun) compare(im *Image, want *shortMay) error {
	if !slices.Contains(want.sizes, im.Size()) {
		return fmt.Errorf("the disk has %d bytes; it may have %v", im.Size(), want.sizes)
	}
	if err := s.read(im); err != nil {
		return err
	}
	for b := range im.Size() / mib {
		for i, may := range want.may[b] {
			p := s.got[b][i*512:][:512]
			if !bytes.Equal(p[1:], p[:511]) {
				return fmt.Errorf("512 bytes at %d of block %d are torn", i*512, b)
			}
			if bytes.IndexByte(may, p[0]) < 0 {
				return fmt.Errorf("512 bytes at %d of block %d bear %d; they may bear %d", i*512, b, p[0], may)
			}
		}
		end := byte(0)
		if s.parent && b < 2 {
			end = s.got[b][shortWindow]
			if l := want.may[b][shortWindow/512-1]; bytes.IndexByte(l, end) < 0 { // nobody writes there
				return fmt.Errorf("the end of block %d bears %d; it may bear %d", b, end, l)
			}
		}
		if p := s.got[b][shortWindow:]; p[0] != end || !bytes.Equal(p[1:], p[:len(p)-1]) {
			return fmt.Errorf("the end of block %d bears %d and more, not %d", b, p[0], end)
		}
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
func (s *shortRun) secondLife(ms []*Memory) error {
	im, err := s.open(backings(ms), s.top, false)
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
	bs := backings(ms)
	bs[s.top] = ms[s.top].Snapshot()
	if im, err = s.open(bs, s.top, true); err != nil { // once more as after a crash
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
	for i := range s.top + 1 {
		b := bs[i]
		if s.section {
			if b, err = NewSection(b, 0, sectionBytes); err != nil {
				return err
			}
		}
		list, err := Check(b, s.options(bs))
		if err != nil {
			return err
		}
		for _, f := range list {
			if f.Damage {
				return fmt.Errorf("after the crash, in file %d: %v", i, f)
			}
		}
	}
	return nil
}

// A shortGround is what all runs of a setup begin with.
type shortGround struct {
	crashSetup
	disk, parentDisk *Memory
	may              [shortBlocks]byte
	checks, ticks    int
}

// run makes one ready to begin.
func (g *shortGround) run() (*shortRun, *crashDisk) {
	s := &shortRun{crashSetup: g.crashSetup, parentDisk: g.parentDisk, checks: &g.checks, shortMay: shortMay{sizes: []int64{2 * mib}}}
	for b := range s.may {
		for i := range s.may[b] {
			s.may[b][i] = []byte{g.may[b]}
		}
	}
	return s, &crashDisk{Memory: g.disk.Snapshot(), durable: g.disk.Snapshot()}
}

func newShortGround(t *testing.T, setup crashSetup) *shortGround {
	t.Helper()
	s := &shortGround{crashSetup: setup}
	create := CreateOptions{Size: 2 * mib, BlockSize: mib, LogicalSector: int(setup.sector)}
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
			s.may[b] = byte(200 + b)
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
	s.disk = m
	return s
}

// shortCrashes visits the crash states of one run, or answers none if the run can
// not be. Those of the first operations, known of them, are left to another run.
func shortCrashes(t *testing.T, ground *shortGround, prefix, run []int, known int) (states, deep int) {
	t.Helper()
	s, d := ground.run()
	s.collapsed = func() {}
	im, err := s.open([]Backing{d}, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	w := &crashWalk{
		disks: []*crashDisk{d}, visited: map[uint64]bool{}, ticks: &ground.ticks, every: 64, depth: 3,
		look: s.check,
		goOn: func(bs []Backing) error { _, err := s.open(bs, 0, false); return err },
		what: func() string { return fmt.Sprintf("%s: %v after %v, during %q", s.name, run, prefix, name) },
	}
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
	s.collapsed = w.expect
	d.onEvent = func(d *crashDisk) { w.event() }
	for i, o := range run {
		name, w.known = shortOps[o].name, i < known
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
	name, w.known = "close", false
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

// crashRuns calls f for one in sample of all runs of n of so many operations. Another
// run began with the first known of them.
func crashRuns(rng *rand.Rand, sample, ops, n int, f func(run []int, known int)) {
	run, seen := make([]int, n), map[string]bool{}
	for i := 0; i < n; {
		if rng.IntN(sample) == 0 {
			known := 0
			for k := range n {
				if key := fmt.Sprint(run[:k+1]); seen[key] {
					known = k + 1
				} else {
					seen[key] = true
				}
			}
			f(run, known)
		}
		for i = 0; i < n; i++ {
			if run[i]++; run[i] < ops {
				break
			}
			run[i] = 0
		}
	}
}

// At every event of every run of a few operations, every subset of what was not
// flushed is on the medium; crashes during the replay after it come on top.
func TestEveryCrashOfShortRuns(t *testing.T) {
	t.Parallel()
	states, deep, runs := 0, 0, 0
	rng := rand.New(rand.NewPCG(1, 2))
	for _, setup := range crashSetups {
		mine, ground := 0, newShortGround(t, setup)
		for _, prefix := range shortPrefixes {
			crashRuns(rng, *crashSample, len(shortOps), *crashOperations, func(run []int, known int) {
				n, k := shortCrashes(t, ground, prefix, run, known)
				runs++
				mine += n
				deep += k
			})
		}
		t.Logf("%s: %d states", setup.name, mine)
		states += mine
	}
	crashStates.Add(int64(states))
	t.Logf("%d crash states of %d runs opened and compared, %d of them in the midst of replays", states, runs, deep)
	if states < 10000 {
		t.Errorf("only %d crash states were visited", states)
	}
}
