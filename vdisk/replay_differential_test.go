package vdisk

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"godwit/vdisk/internal/replaymodel"
)

// Replay is held against package replaymodel, which was written from the
// specification alone: over random files both must change the same bytes, or refuse
// for the same reason.

var replayCases = flag.Int("replay-cases", 12000, "random logs to compare with the model of replay")

// refusals is what an opening may say for each reason the model has.
var refusals = map[error][]error{
	replaymodel.ErrIdentifier: {ErrNotVHDX},
	replaymodel.ErrHeader:     {ErrHeaders},
	replaymodel.ErrVersion:    {ErrVersion},
	replaymodel.ErrLogRegion:  {ErrLogPlace, ErrTruncated},
	replaymodel.ErrSequence:   {ErrLog},
	replaymodel.ErrTruncated:  {ErrTruncated},
	// A log may be wrong in both ways; either is an answer.
	replaymodel.ErrTarget: {ErrLogTarget, ErrAbsurdSize},
	replaymodel.ErrSize:   {ErrLogTarget, ErrAbsurdSize},
}

// A replayTest compares one file after another; it keeps its buffers.
type replayTest struct {
	model []byte       // the file as the model leaves it, in a buffer of zeroes
	pages map[int]bool // of memPage bytes, that may not be zero on either side
	ends  map[string]int
}

func newReplayTest() *replayTest {
	return &replayTest{make([]byte, 0, rlLimit), map[int]bool{}, map[string]int{}}
}

// note marks the pages of n bytes at off.
func (r *replayTest) note(off, n int) {
	for i := off / memPage; i*memPage < off+n; i++ {
		r.pages[i] = true
	}
}

func readHeaders(b io.ReaderAt) (header, int, error) {
	var h [2][headerSize]byte
	b.ReadAt(h[0][:], headerOffset1)
	b.ReadAt(h[1][:], headerOffset2)
	return currentHeader(h[0][:], h[1][:])
}

// openLog is Open as far as the log: the choice of a header, and replay.
func openLog(b Backing, ro bool) (*Image, error) { return openLogBy(b, ro, 0) }

// openLogBy holds no more than so many ranges of zeroes at a time.
func openLogBy(b Backing, ro bool, most int) (*Image, error) {
	size, _ := b.Size()
	if size < headerSectionSize {
		return nil, ErrTruncated.at(size, "the file ends within its headers")
	}
	im := &Image{b: b, ro: ro, zeroMost: most}
	var err error
	if im.hdr, im.which, err = readHeaders(b); err != nil {
		return nil, err
	}
	if im.hdr.LogGUID.IsZero() {
		return im, nil
	}
	return im, im.replay(size)
}

// compare returns how the implementation and the model differ on l's file.
func (r *replayTest) compare(l *randomLog) error {
	for p := range r.pages {
		r.model = r.model[:rlLimit]
		clear(r.model[p*memPage:][:memPage])
	}
	clear(r.pages)
	file := l.file
	plan, want := replaymodel.Find(file)
	if len(file) < headerSectionSize {
		return refusedShort(file)
	}
	if want == nil && plan.End() > rlLimit && plan.End() <= uint64(len(file))+maxGrowth {
		return nil // more than fits here
	}
	base := NewMemory()
	base.Truncate(int64(len(file)))
	r.model = r.model[:len(file)]
	for _, t := range l.touched {
		if b := file[min(t[0], len(file)):min(t[0]+t[1], len(file))]; len(b) > 0 {
			base.WriteAt(b, int64(t[0]))
			copy(r.model[t[0]:], b)
			r.note(t[0], len(b))
		}
	}
	if want == nil {
		var model []byte
		if model, want = plan.Apply(r.model, rlLimit); want == nil {
			r.model = model
			for _, w := range plan.Writes {
				r.note(int(w.Offset), int(w.Length))
			}
		}
	}
	for i, how := range []string{"read-only", "for writing", "for writing, three ranges at a time"} {
		ro, most := i == 0, i/2*3
		b := base.Snapshot()
		changed := false
		im, err := openLogBy(&Faulty{b, func(op Op, _, _ int64) error {
			changed = changed || op == OpWrite || op == OpTruncate || op == OpTrim
			return nil
		}}, ro, most)
		if changed && (ro || want != nil || !plan.Dirty) {
			return fmt.Errorf("opened %s, the file was changed; the model says %v", how, want)
		}
		if want != nil {
			if !slices.ContainsFunc(refusals[want], func(e error) bool { return errors.Is(err, e) }) {
				return fmt.Errorf("opened %s: %v; the model says %v", how, err, want)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("opened %s: %v; the model replays numbers %d to %d", how, err, plan.First, plan.Last)
		}
		if err := r.same(im, b, ro, plan.Dirty); err != nil {
			return fmt.Errorf("opened %s, after numbers %d to %d: %v", how, plan.First, plan.Last, err)
		}
	}
	if want != nil {
		r.ends[want.Error()]++
	} else if plan.Dirty {
		r.ends["replayed"]++
	} else {
		r.ends["clean"]++
	}
	return nil
}

// same compares the file through im with the model's, all but the headers.
func (r *replayTest) same(im *Image, b *Memory, ro, dirty bool) error {
	size, err := im.b.Size()
	if err != nil || size != int64(len(r.model)) {
		return fmt.Errorf("the file is %d bytes long, the model's %d; %v", size, len(r.model), err)
	}
	for p := range b.pages {
		r.pages[int(p)] = true
	}
	if o, ok := im.b.(*overlay); ok {
		for at := range o.pages {
			r.note(int(at), logSector)
		}
	}
	var p [memPage]byte
	for page := range r.pages {
		off := page * memPage
		if off >= headerOffset1 && off < regionOffset1 {
			continue
		}
		want := r.model[min(off, len(r.model)):min(off+memPage, len(r.model))]
		if n, err := im.b.ReadAt(p[:len(want)], int64(off)); n != len(want) || err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(p[:len(want)], want) {
			for i := range want {
				if p[i] != want[i] {
					return fmt.Errorf("byte %#x is %#x, the model's %#x", off+i, p[i], want[i])
				}
			}
		}
	}
	if ro || !dirty {
		return nil
	}
	h, _, err := readHeaders(b)
	switch {
	case err != nil:
		return err
	case !h.LogGUID.IsZero(), h.FileWriteGUID == (GUID{3}), h.DataWriteGUID != (GUID{4}):
		return fmt.Errorf("the header became %+v", h)
	}
	return nil
}

// refusedShort: a file that ends within its headers holds no disk, whatever its log
// says.
func refusedShort(file []byte) error {
	m := NewMemory()
	m.WriteAt(file, 0)
	if _, err := openLog(m, true); !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("a file of %d bytes: %v", len(file), err)
	}
	return nil
}

func TestReplayAgreesWithTheModel(t *testing.T) {
	t.Parallel()
	r := newReplayTest()
	l := newRandomLog()
	bad := 0
	for seed := range uint64(*replayCases) {
		l.make(seeded{rand.New(rand.NewPCG(seed, 32))})
		if err := r.compare(l); err != nil {
			t.Errorf("seed %d: %v", seed, err)
			if bad++; bad == 20 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d logs: %s", *replayCases, counts(r.ends))
	t.Logf("made with: %s", counts(l.features))
	if *replayCases < 12000 {
		return
	}
	for err := range refusals {
		if r.ends[err.Error()] == 0 && err != replaymodel.ErrIdentifier {
			t.Errorf("no log was refused with %q", err)
		}
	}
	for _, m := range entryMutations {
		if l.features[m] == 0 {
			t.Errorf("no log had a wrong %s", m)
		}
	}
	if r.ends["replayed"] < *replayCases/4 {
		t.Error("too few logs were good")
	}
}

// FuzzReplay lets the fuzzer choose what the log is like.
func FuzzReplay(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 33))
	for n := 64; n <= 1024; n *= 2 {
		b := make([]byte, n)
		fill(rng, b)
		f.Add(b)
	}
	r, l := newReplayTest(), newRandomLog()
	f.Fuzz(func(t *testing.T, b []byte) {
		l.make(&scripted{b})
		if err := r.compare(l); err != nil {
			t.Error(err)
		}
	})
}

// FuzzReplayBytes gives the fuzzer the bytes of a log; the checksums of what begins
// like an entry are set right.
func FuzzReplayBytes(f *testing.F) {
	gen := newRandomLog()
	for seed := range uint64(12) {
		gen.make(seeded{rand.New(rand.NewPCG(seed, 34))})
		if log := gen.buf[rlLogOffset:]; len(gen.starts) > 0 {
			from := gen.starts[0]
			f.Add(uint16(from/logSector), append([]byte(nil), log[from:min(from+8*logSector, gen.length)]...))
		}
	}
	r, l := newReplayTest(), newRandomLog()
	f.Fuzz(func(t *testing.T, at uint16, b []byte) {
		l.plain()
		b = b[:min(len(b), 64*logSector)]
		l.put(b, int(at)*logSector%l.length)
		for o := 0; o < l.length; o += logSector {
			head := l.ring(o, logHeaderSize)
			if n := int64(le.Uint32(head[8:])); string(head[:4]) == "loge" && n%logSector == 0 && n > 0 && n <= int64(l.length) {
				l.put(replaymodel.Seal(l.ring(o, int(n)))[:8], o)
			}
		}
		if err := r.compare(l); err != nil {
			t.Error(err)
		}
	})
}

func counts(m map[string]int) string {
	var s []string
	for k, n := range m {
		s = append(s, fmt.Sprintf("%s %d", strings.TrimPrefix(k, "replaymodel: "), n))
	}
	sort.Strings(s)
	return strings.Join(s, ", ")
}
