package vdisk

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// RepairOptions of Repair.
type RepairOptions struct {
	DryRun   bool  // say what would be done, and change nothing
	Capacity int64 // as in Options
}

// A Fix is one thing that Repair did.
type Fix struct {
	Name   Flaw   `json:"name"`
	Offset int64  `json:"offset"` // in the file, of what was wrong
	Text   string `json:"text"`
	// Lost says that something which no reader could make out is given up for
	// good, or guessed.
	Lost bool `json:"lost"`
}

// A repairer works on one image. What was readable stays so, byte for byte, so
// DataWriteGuid stays as well, and children keep their parent.
type repairer struct {
	b     Backing
	dry   bool
	cap   int64
	fixes []Fix
	im    *Image
	size  int64  // of the file before anything changed
	used  *usage // what is claimed, by whoever came first
	// lost are the chunks whose sector bitmap is no more, by where that was said.
	lost map[uint64]int64
}

// Repair mends an image: it replays the log, or drops one that nothing can replay;
// renews copies of headers and region tables; gives blocks that share a place their
// own copies; drops BAT entries that lead nowhere; corrects sector bitmaps; and gives
// back space that belongs to nothing. Each step survives a power cut, and the whole
// may be repeated. It needs no parent. The error says what it can not mend; what it
// did until then is in the list.
func Repair(b Backing, o RepairOptions) (fixes []Fix, err error) {
	defer b.Close()
	r := repairer{b: &unclosed{b}, dry: o.DryRun, cap: o.Capacity, lost: map[uint64]int64{}}
	if c, ok := b.(interface{ Capacity() int64 }); ok && r.cap == 0 {
		r.cap = c.Capacity()
	}
	if o.DryRun {
		if r.b, err = newScratch(b); err != nil {
			return nil, err
		}
	}
	if err = r.run(); err != nil {
		err = fmt.Errorf("vdisk: this can not be repaired: %w", err)
	}
	return r.fixes, err
}

func (r *repairer) did(f Flaw, off int64, lost bool, format string, args ...any) {
	if len(r.fixes) < maxFindings {
		r.fixes = append(r.fixes, Fix{f, off, fmt.Sprintf(format, args...), lost})
	}
}

func (r *repairer) run() (err error) {
	if r.size, err = r.b.Size(); err != nil {
		return err
	}
	if err = r.copies(); err != nil {
		return err
	}
	if r.im, err = Open(r.b, Options{Capacity: r.cap, orphan: true, salvage: true}); err != nil {
		return err
	}
	before := len(r.fixes)
	if err = r.claim(); err == nil {
		err = r.entries()
	}
	if err == nil && r.im.p.HasParent {
		// What shared a place with a sector bitmap has its own, durably, before
		// bits change.
		if len(r.fixes) > before {
			err = r.im.Flush()
		}
		if err == nil {
			err = r.bitmapsOfAll()
		}
	}
	if err == nil && len(r.fixes) > before {
		err = r.im.Flush()
	}
	if err != nil {
		r.im.fail(err) // close without writing
	}
	if err = errors.Join(err, r.im.Close()); err != nil {
		return err
	}
	return r.leaks()
}

// copies settles what there are two of, and the log.
func (r *repairer) copies() error {
	head := make([]byte, headerSectionSize)
	if _, err := r.b.ReadAt(head, 0); err == io.EOF {
		return ErrTruncated.at(r.size, "the file ends within its headers")
	} else if err != nil {
		return err
	}
	if string(head[:8]) != "vhdxfile" {
		return ErrNotVHDX.at(0, "the file does not begin with \"vhdxfile\"")
	}
	im := &Image{b: r.b, salvage: true}
	h := [2][]byte{head[headerOffset1:][:headerSize], head[headerOffset2:][:headerSize]}
	var err error
	if im.hdr, im.which, err = currentHeader(h[0], h[1]); err != nil {
		return err
	}
	stale := false
	for i, off := range []int64{headerOffset1, headerOffset2} {
		if c, _, _, ok := decodeHeader(h[i]); !ok {
			r.did(flawHeaderCopy, off, false, "header %d was not valid; it was written anew from the other", i+1)
			stale = true
		} else if !allZero(h[i][80:]) {
			r.did(flawReserved, off+80, false, "reserved bytes of header %d were not zero; it was written anew", i+1)
			stale = true
		} else if c.LogOffset != im.hdr.LogOffset || c.LogLength != im.hdr.LogLength {
			r.did(flawHeaderCopy, off, false, "header %d had the log elsewhere; it was written anew from the newer", i+1)
			stale = true
		}
	}
	if stale {
		if err := im.begin(false); err != nil {
			return err
		}
	}
	if !im.hdr.LogGUID.IsZero() {
		if err := r.log(im); err != nil {
			return err
		}
	}
	return r.tables(im)
}

// log replays the log, or drops it if nothing in it can be replayed.
func (r *repairer) log(im *Image) error {
	l := logReader{im.b, int64(im.hdr.LogOffset), int64(im.hdr.LogLength)}
	var s sequence
	var err error
	if l.off > r.size-l.length {
		err = ErrLog.at(l.off, "the log (%#x+%#x) lies beyond the file's end %#x", l.off, l.length, r.size)
	} else {
		s, err = l.findSequence(im.hdr.LogGUID)
	}
	switch {
	case errors.Is(err, ErrLog):
		r.did(ErrLog, l.off, true, "the log was said to be in use, and held nothing that can be replayed; it was dropped, and the tables stay as they lie in the file")
		if err := im.begin(false); err != nil {
			return err
		}
		h := im.hdr
		h.LogGUID = GUID{}
		return im.writeHeaders(h, false)
	case err != nil:
		return err
	}
	newest := s.entries[len(s.entries)-1]
	var fs findings
	checkLog(im.b, &im.hdr, &fs)
	for _, f := range fs {
		switch f.Name {
		case ErrLogTarget: // no writer of logs does that
			return f.Name.at(f.Offset, "%s", f.Text)
		case flawLogTorn, flawLogGap:
			r.did(f.Name, f.Offset, f.Name == flawLogGap, "%s; it was ignored", f.Text)
		}
	}
	if uint64(r.size) < newest.flushed {
		r.did(ErrTruncated, r.size, true, "the file is %d bytes long, where its log says %d were durable; the rest is missing", r.size, newest.flushed)
	}
	if err := im.replay(r.size); err != nil {
		return err
	}
	r.did(flawLogInUse, l.off+s.entries[0].at, false, "the file had not been closed; the %d entries of its log were replayed", len(s.entries))
	if now, err := im.b.Size(); err != nil {
		return err
	} else if now > r.size && uint64(r.size) >= newest.flushed {
		r.size = now
	}
	return nil
}

// tables makes the two region tables one.
func (r *repairer) tables(im *Image) error {
	offs := [2]int64{regionOffset1, regionOffset2}
	var raw [2][]byte
	var rs [2][]region
	var errs [2]error
	for i, off := range offs {
		raw[i] = make([]byte, regionTableSize)
		if _, err := im.b.ReadAt(raw[i], off); err != nil {
			return err
		}
		rs[i], errs[i] = decodeRegions(raw[i], off)
	}
	from, to := 0, 1
	name := flawRegionCopy
	switch {
	case errs[0] != nil && errs[1] != nil:
		return errors.Join(errs[0], errs[1])
	case errs[0] != nil:
		from, to = 1, 0
	case errs[1] != nil:
	case slices.Equal(rs[0], rs[1]):
		return nil
	default:
		// Whoever reads takes the first, if that leads to an image at all.
		name = flawRegionsDiffer
		if r.leads(im, raw[0]) != nil {
			if err := r.leads(im, raw[1]); err != nil {
				return err
			}
			from, to = 1, 0
		}
	}
	r.did(name, offs[to], false, "region table %d was not valid, or not the same; it was written anew from table %d", to+1, from+1)
	if err := im.begin(false); err != nil {
		return err
	}
	if _, err := im.b.WriteAt(raw[from], offs[to]); err != nil {
		return err
	}
	return im.b.Flush()
}

// leads tells whether a region table leads to metadata and a BAT.
func (r *repairer) leads(im *Image, table []byte) error {
	s, err := newScratch(im.b)
	if err != nil {
		return err
	}
	s.WriteAt(table, regionOffset1)
	return (&Image{b: s, hdr: im.hdr, ro: true}).readRegions(r.size)
}

// leaks gives back what belongs to nothing.
func (r *repairer) leaks() error {
	im, err := Open(r.b, Options{Capacity: r.cap, orphan: true})
	if err != nil {
		return err
	}
	for at := int64(0); ; {
		m, k, c, any := im.space.free.next(at)
		if !any {
			return im.Close()
		}
		at = m + k
		f := freeRegion{m * mib, k * mib, c}
		size, err := r.b.Size()
		if err != nil {
			return errors.Join(err, im.Close())
		}
		n := min(f.n, size-f.off)
		last := r.cap == 0 && f.off+f.n == im.space.end
		if n <= 0 || !last && readsZero(r.b, f.off, n) {
			continue
		}
		if err := im.begin(false); err != nil {
			return errors.Join(err, im.Close())
		}
		if last {
			r.did(flawLeak, f.off, false, "%d bytes at the file's end belonged to nothing and were cut off", n)
			continue // Close does it
		}
		if zero, err := r.b.Trim(f.off, n); err == nil && (zero || r.dry) {
			r.did(flawLeak, f.off, false, "%d MiB belonged to nothing and were given back", f.n/mib)
		}
	}
}
