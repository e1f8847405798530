package vdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// randomHarm changes some words of an image's tables: wherever they lie, and often
// to something that could stand there. Checksums are made right again half the time.
func (p *patient) randomHarm(t testing.TB, rng *rand.Rand) {
	t.Helper()
	if rng.IntN(3) == 0 {
		p.dirty(t)
	}
	end := uint64(p.end)
	for range 1 + rng.IntN(4) {
		v := rng.Uint64()
		switch rng.IntN(4) {
		case 0:
			v = v % (end / mib) * mib // a place in the file
			v |= rng.Uint64N(8)
		case 1:
			v = 1 << rng.IntN(64)
		case 2:
			v = rng.Uint64N(9)
		}
		switch rng.IntN(7) {
		case 0, 1:
			p.put(p.batAt(rng.Uint64N(patientBlocks+1)), v)
		case 2:
			if p.im.HasParent() {
				p.put(p.bitmapAt(), v)
			}
		case 3:
			if off := batEntry(p.word(p.bitmapAt())).offset(); off >= headerSectionSize && off < p.end {
				p.put(off+rng.Int64N(9*256)&^7, v)
			}
		case 4:
			off := []int64{headerOffset1, headerOffset2}[rng.IntN(2)]
			p.put(off+rng.Int64N(80)&^7, v)
			if rng.IntN(2) == 0 {
				p.seal(off, headerSize)
			}
		case 5:
			off := []int64{regionOffset1, regionOffset2}[rng.IntN(2)]
			p.put(off+rng.Int64N(80)&^7, v)
			if rng.IntN(2) == 0 {
				p.seal(off, regionTableSize)
			}
		case 6:
			p.put(p.md+rng.Int64N(32*8)&^7, v)
		}
	}
	if rng.IntN(6) == 0 {
		p.Truncate(rng.Int64N(p.end))
	}
}

// Whatever was done to an image: what could be read can be read after a repair, alike;
// if the repair says that it is done, the image can be written and has no damage.
func FuzzRepair(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(seed)
	}
	f.Fuzz(repairSeed)
}

func repairSeed(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	p := newPatient(t, seed%2 == 1)
	p.randomHarm(t, rng)
	before := readable(p.Memory, p.o)
	fs, err := Check(p.Snapshot(), p.o)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	fixes, err := Repair(p.Memory, RepairOptions{})
	after := readable(p.Memory, p.o)
	for i, b := range before {
		if b != nil && !bytes.Equal(b, after[i]) {
			t.Fatalf("%#x was readable, and differs now; check said %v, and done was %v, %v", i*4096, fs, fixes, err)
		}
	}
	if err != nil {
		named(t, err)
		return
	}
	left, err := Check(p.Snapshot(), p.o)
	if err != nil {
		t.Fatalf("check after the repair: %v", err)
	}
	for _, l := range left {
		if l.Damage && l.Name != ErrParentChanged && l.Name != ErrLocator && l.Name != ErrParentSectors {
			t.Errorf("check said %v, done was %v, and left is %v", fs, fixes, l)
		}
	}
	if again, err := Repair(p.Memory, RepairOptions{}); err != nil || len(again) > 0 {
		t.Errorf("a second repair did %v, %v, after %v", again, err, fixes)
	}
	im, err := Open(p.Memory, p.o)
	if err != nil {
		if !errors.Is(err, ErrParentChanged) && !errors.Is(err, ErrParentSectors) {
			t.Errorf("after the repair: %v", err)
		}
		return
	}
	im.Close()
}
