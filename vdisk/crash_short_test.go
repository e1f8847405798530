package vdisk

import (
	"flag"
	"fmt"
	"io"
	"testing"
)

var crashOperations = flag.Int("crash-operations", 2, "visit the crash states of all runs of so many operations; 4 are over a million states")

// shortOps are what a short run consists of.
var shortOps = []struct {
	name string
	run  func(im *Image, s *shortRun) error
}{
	{"write block 0", func(im *Image, s *shortRun) error { return s.write(im, 0, 512, 4096) }},
	{"write block 0 elsewhere", func(im *Image, s *shortRun) error { return s.write(im, 0, 3072, 2048) }},
	{"write block 1", func(im *Image, s *shortRun) error { return s.write(im, 1, 2048, 4096) }},
	{"trim block 0", func(im *Image, s *shortRun) error { s.zeroed(0); return im.Trim(0, mib) }},
	{"zero block 1", func(im *Image, s *shortRun) error { s.zeroed(1); return im.WriteZeroes(mib, mib) }},
	{"flush", func(im *Image, s *shortRun) error {
		err := im.Flush()
		for i := range s.may {
			for j := range s.may[i] {
				s.may[i][j] = s.may[i][j][len(s.may[i][j])-1:]
			}
		}
		return err
	}},
}

// shortWindow is the part of each block that short runs write to.
const shortWindow = 16 * kib

// A shortRun knows which stamps each sector may bear; the last is the newest.
type shortRun struct {
	stamp byte
	may   [2][shortWindow / 512][]byte
	buf   [shortWindow]byte // for check, which runs in the midst of a write
	data  [4096]byte
}

func (s *shortRun) write(im *Image, block, off, n int64) error {
	s.stamp++
	p := s.data[:n]
	for i := range p {
		p[i] = s.stamp
	}
	for i := off / 512; i < (off+n)/512; i++ {
		s.may[block][i] = append(s.may[block][i], s.stamp)
	}
	_, err := im.WriteAt(p, block*mib+off)
	return err
}

func (s *shortRun) zeroed(block int) {
	for i := range s.may[block] {
		s.may[block][i] = append(s.may[block][i], 0)
	}
}

func (s *shortRun) check(m *Memory) error {
	im, err := Open(m, Options{})
	if err != nil {
		return err
	}
	for block := range s.may {
		if _, err := im.ReadAt(s.buf[:], int64(block)*mib); err != nil {
			return err
		}
		for i, may := range s.may[block] {
			p := s.buf[i*512:][:512]
			for _, c := range p {
				if c != p[0] {
					return fmt.Errorf("sector %d of block %d is torn", i, block)
				}
			}
			if string(may) != "" && !containsByte(may, p[0]) {
				return fmt.Errorf("sector %d of block %d bears %d; it may bear %d", i, block, p[0], may)
			}
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

// At every event of every run of a few operations, every subset of what was not
// flushed is on the medium: in the order it was issued, in reverse, and with its
// last write torn at each sector.
func TestEveryCrashOfShortRuns(t *testing.T) {
	states := 0
	for _, prefix := range [][]int{nil, {0, 2, 5, 3, 5}} {
		run := make([]int, *crashOperations)
		for {
			states += shortCrashes(t, prefix, run)
			i := 0
			for ; i < len(run); i++ {
				if run[i]++; run[i] < len(shortOps) {
					break
				}
				run[i] = 0
			}
			if i == len(run) {
				break
			}
		}
	}
	t.Logf("%d crash states opened and compared", states)
	if states < 5000 {
		t.Errorf("only %d crash states were visited", states)
	}
}

func shortCrashes(t *testing.T, prefix, run []int) (states int) {
	t.Helper()
	base := NewMemory()
	if err := Create(base, CreateOptions{Size: 2 * mib, BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	s := &shortRun{}
	s.zeroed(0)
	s.zeroed(1)
	d := &crashDisk{Memory: base, durable: base.Snapshot()}
	im, err := Open(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range prefix {
		if err := shortOps[o].run(im, s); err != nil {
			t.Fatal(err)
		}
	}
	name := ""
	visit := func(ws []pendingWrite) {
		m := d.durable.Snapshot()
		for i := range ws {
			ws[i].apply(m)
		}
		states++
		if err := s.check(m); err != nil {
			t.Fatalf("%v after %v, cut at event %d during %q: %v", run, prefix, d.events, name, err)
		}
	}
	d.onEvent = func(d *crashDisk) {
		n := min(len(d.since), 6)
		recent := d.since[len(d.since)-n:] // what came before is there
		for set := range 1 << n {
			ws := append([]pendingWrite(nil), d.since[:len(d.since)-n]...)
			for i := range n {
				if set>>i&1 != 0 {
					ws = append(ws, recent[i])
				}
			}
			visit(ws)
			if set == 1<<n-1 && n > 0 {
				last := &ws[len(ws)-1]
				for k := 512; k < len(last.data); k += 512 {
					torn := append([]pendingWrite(nil), ws...)
					torn[len(ws)-1].data = last.data[:k]
					visit(torn)
				}
				for i, j := 0, len(ws)-1; i < j; i, j = i+1, j-1 {
					ws[i], ws[j] = ws[j], ws[i]
				}
				visit(ws)
			}
		}
	}
	for _, o := range run {
		name = shortOps[o].name
		if err := shortOps[o].run(im, s); err != nil {
			t.Fatal(err)
		}
	}
	name = "close"
	if err := im.Close(); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return states
}
