package vdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// readable is what a reader gets of a disk, 4 KiB at a time; nil where it gets an
// error.
func readable(m *Memory, o Options) [][]byte {
	parts := make([][]byte, (patientSize+4095)/4096)
	o.ReadOnly = true
	im, err := Open(m.Snapshot(), o)
	if err != nil {
		return parts
	}
	defer im.Close()
	for i := range parts {
		p := make([]byte, min(4096, patientSize-i*4096))
		if _, err := im.ReadAt(p, int64(i)*4096); err == nil {
			parts[i] = p
		}
	}
	return parts
}

func TestRepairKeepsWhatWasReadable(t *testing.T) {
	t.Parallel()
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			p := newPatient(t, d.child)
			d.harm(t, p)
			before := readable(p.Memory, p.o)
			untouched := p.Snapshot()
			plan, planErr := Repair(p.Memory, RepairOptions{DryRun: true})
			if !sameBytes(untouched, p.Memory) {
				t.Fatal("a dry run changed the image")
			}
			guid := p.header().DataWriteGUID
			fixes, err := Repair(p.Memory, RepairOptions{})
			if (err == nil) != (planErr == nil) || !reflect.DeepEqual(fixes, plan) {
				t.Errorf("the plan was %v, %v, but %v, %v was done", plan, planErr, fixes, err)
			}
			if !d.mends {
				if d.want != ErrParentMissing && d.want != flawReserved && err == nil {
					t.Errorf("said to be repaired: %v", fixes)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(fixes, func(f Fix) bool { return f.Name == d.want }) {
				t.Errorf("did not say that it mended %s: %v", d.want, fixes)
			}
			if p.header().DataWriteGUID != guid {
				t.Error("children of the image would not know it any more")
			}
			p.isMended(t, before, d.lost)
			if again, err := Repair(p.Memory, RepairOptions{}); err != nil || len(again) > 0 {
				t.Errorf("a second repair did %v, %v", again, err)
			}
		})
	}
}

// isMended compares with what was readable before, and with what was written but for
// lost blocks, and looks for damage.
func (p *patient) isMended(t *testing.T, before [][]byte, lost []int) {
	t.Helper()
	after := readable(p.Memory, p.o)
	for i, b := range before {
		if b != nil && !bytes.Equal(b, after[i]) {
			t.Fatalf("%#x was readable, and differs now", i*4096)
		}
		if n := i * 4096 / mib; n != 2 && !slices.Contains(lost, n) && !bytes.Equal(after[i], p.want[i*4096:][:len(after[i])]) {
			t.Fatalf("%#x does not read as it was written", i*4096)
		}
	}
	fs, err := Check(p.Snapshot(), p.o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Severity != Noted || f.Name != flawLeak && f.Name != flawBitmapEmpty {
			t.Errorf("after the repair: %v", f)
		}
	}
	im, err := Open(p.Memory.Snapshot(), p.o)
	if err != nil {
		t.Fatalf("after the repair it can not be written: %v", err)
	}
	// Writing one block must not change another.
	q := bytes.Repeat([]byte{0xee}, mib)
	if _, err := im.WriteAt(q, 2*mib); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, patientSize)
	if _, err := im.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for i, b := range after {
		if i*4096/mib != 2 && !bytes.Equal(got[i*4096:][:len(b)], b) {
			t.Fatalf("%#x changed with another block", i*4096)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

// A power cut at any moment of a repair leaves an image that the next one mends, and
// in which everything that was readable still is.
func TestRepairSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	states := 0
	for k, d := range damages {
		if !d.mends {
			continue
		}
		p := newPatient(t, d.child)
		d.harm(t, p)
		before := readable(p.Memory, p.o)
		rng := rand.New(rand.NewPCG(uint64(k), 31))
		disk := &crashDisk{Memory: p.Memory, durable: p.Memory.Snapshot()}
		disk.onEvent = func(c *crashDisk) {
			if rng.IntN(3) > 0 {
				return
			}
			// Once more at an event of the second repair.
			again := &crashDisk{Memory: c.cut(rng)}
			again.durable = again.Memory.Snapshot()
			at := rng.IntN(12)
			var last *Memory
			again.onEvent = func(c *crashDisk) {
				if c.events == at {
					last = c.cut(rng)
				}
			}
			for _, b := range []Backing{again, nil} {
				if b == nil {
					if last == nil {
						return
					}
					again.Memory = last
					b = last
				}
				states++
				if _, err := Repair(b, RepairOptions{}); err != nil {
					t.Fatalf("%s, event %d: %v", d.name, c.events, err)
				}
				after := readable(again.Memory, p.o)
				for i, b := range before {
					if b != nil && !bytes.Equal(b, after[i]) {
						t.Fatalf("%s, event %d: %#x was readable, and differs now", d.name, c.events, i*4096)
					}
				}
				if im, err := Open(again.Memory.Snapshot(), p.o); err != nil {
					t.Fatalf("%s, event %d: %v", d.name, c.events, err)
				} else {
					im.Close()
				}
			}
		}
		if _, err := Repair(disk, RepairOptions{}); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
	}
	t.Logf("%d states", states)
	if states < 200 {
		t.Errorf("only %d states were visited", states)
	}
}

// A block that lies in the BAT stays as it is when more pages of entries change than
// one entry of the log holds, and the power goes between these.
func TestRepairKeepsABlockThatLiesInTheBAT(t *testing.T) {
	t.Parallel()
	const blocks, perPage = 60000, logSector / 8
	m := NewMemory()
	if err := Create(m, CreateOptions{Size: blocks * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	im, err := Open(m, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	put := func(n int, e uint64) {
		var b [8]byte
		le.PutUint64(b[:], e)
		m.WriteAt(b[:], im.batOff+8*int64(im.g.batIndex(uint64(n))))
	}
	pages := 0
	for n := 7; n < blocks; n += perPage {
		put(n, uint64(entry(zeroed, 0))|1<<9) // a reserved bit
		pages++
	}
	if pages <= 84 {
		t.Fatalf("%d pages fit one entry", pages)
	}
	put(blocks-1, uint64(entry(present, im.batOff)))
	want := make([]byte, mib)
	m.ReadAt(want, im.batOff)
	holds := func(m *Memory) {
		t.Helper()
		im, err := Open(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, mib)
		if _, err := im.ReadAt(got, (blocks-1)*mib); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the block has changed; %v", err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 41))
	d := &crashDisk{Memory: m, durable: m.Snapshot()}
	d.onEvent = func(d *crashDisk) {
		if rng.IntN(5) > 0 {
			return
		}
		c := d.cut(rng)
		if _, err := Repair(c, RepairOptions{}); err != nil {
			t.Fatalf("event %d: %v", d.events, err)
		}
		holds(c)
	}
	if _, err := Repair(d, RepairOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(d.Memory)
	if d.events < 20 {
		t.Errorf("only %d events", d.events)
	}
}

// On a partition the copies must find room in what the image does not use.
func TestRepairOnAPartition(t *testing.T) {
	for _, room := range []int64{0, 4 * mib} {
		p := newPatient(t, false)
		p.put(p.batAt(2), p.word(p.batAt(0)))
		before := readable(p.Memory, p.o)
		dev := NewMemory()
		dev.Truncate(p.end + 32*mib)
		b := make([]byte, p.end)
		p.ReadAt(b, 0)
		dev.WriteAt(b, 8*mib)
		s, err := NewSection(dev, 8*mib, p.end+room)
		if err != nil {
			t.Fatal(err)
		}
		fixes, err := Repair(s, RepairOptions{})
		if room == 0 {
			if !errors.Is(err, ErrNoSpace) {
				t.Errorf("without room: %v, %v", fixes, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		p.Truncate(0)
		b = make([]byte, p.end+room)
		s.ReadAt(b, 0)
		p.WriteAt(b, 0)
		after := readable(p.Memory, p.o)
		for i := range before {
			if !bytes.Equal(before[i], after[i]) {
				t.Fatalf("room for %d bytes: %#x differs", room, i*4096)
			}
		}
		fs, err := Check(s, Options{})
		if err != nil || hasFlaw(fs, flawLeak) || hasFlaw(fs, ErrOverlap) != (room == 0) {
			t.Errorf("room for %d bytes: check says %v, %v", room, fs, err)
		}
	}
}

// What no file can reach costs repair no memory, and where only the log is there the
// rest is saved.
func TestALogFarAwayIsGivenUpAndMovesNear(t *testing.T) {
	p := newPatient(t, false)
	p.changeHeaders(func(h *header) { h.LogOffset, h.LogGUID = 1<<52, NewGUID() })
	fixes, err := Repair(p.Memory, RepairOptions{})
	has := func(f Flaw) bool { return slices.ContainsFunc(fixes, func(x Fix) bool { return x.Name == f }) }
	if err != nil || !has(ErrLog) || !has(ErrLogPlace) {
		t.Errorf("done: %v, %v", fixes, err)
	}
	im, err := Open(p.Memory, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, patientSize)
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, p.want) {
		t.Errorf("the disk is not what it was (%v)", err)
	}

	p = newPatient(t, false)
	p.Truncate(1 << 60)
	if _, err := Repair(p.Memory, RepairOptions{}); !errors.Is(err, ErrAbsurdSize) {
		t.Errorf("a file of 2^60 bytes: %v", err)
	}
}
