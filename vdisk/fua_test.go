package vdisk

import (
	"bytes"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// flushCounter counts what makes a file durable.
type flushCounter struct {
	*File
	flushes, alone atomic.Int32
}

func (c *flushCounter) Flush() error {
	c.flushes.Add(1)
	return c.File.Flush()
}

func (c *flushCounter) writeDurably(bufs [][]byte, off int64) (bool, error) {
	ok, err := c.File.writeDurably(bufs, off)
	if ok {
		c.alone.Add(1)
	}
	return ok, err
}

// A write with FUA to a block that has its place makes only itself durable, in one
// call; one that changes the BAT needs a flush.
func TestFUAFlushesOnlyWhatItMust(t *testing.T) {
	for _, direct := range []bool{false, true} {
		f, err := OpenFile(filepath.Join(t.TempDir(), "a.vhdx"), FileOptions{Create: true, Direct: direct})
		if err != nil && direct {
			t.Logf("no direct I/O here: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := Create(f, CreateOptions{Size: 8 * mib, BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		c := &flushCounter{File: f}
		im, err := Open(c, Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 8*mib)
		fua := func(off int64, bufs ...[]byte) (flushes, alone int32) {
			t.Helper()
			c.flushes.Store(0)
			c.alone.Store(0)
			if err := run(im, &Request{Kind: WriteFUA, Offset: off, Buffers: bufs}); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], bytes.Join(bufs, nil))
			return c.flushes.Load(), c.alone.Load()
		}
		page := func(b byte) []byte { return bytes.Repeat([]byte{b}, 4096) }
		if flushes, alone := fua(0, page(1)); flushes == 0 || alone != 0 {
			t.Errorf("a FUA write that allocates: %d flushes, %d writes durable alone", flushes, alone)
		}
		if flushes, alone := fua(4096, page(2), page(3)); c.noDsync.Load() {
			t.Logf("no RWF_DSYNC here (direct %v)", direct)
		} else if flushes != 0 || alone != 1 {
			t.Errorf("a FUA write in place: %d flushes, %d writes durable alone", flushes, alone)
		}
		if _, err := im.WriteAt(page(4), mib); err != nil { // another entry of the same page waits
			t.Fatal(err)
		}
		copy(want[mib:], page(4))
		if flushes, alone := fua(8192, page(5)); flushes == 0 || alone != 0 {
			t.Errorf("a FUA write while the BAT waits for the log: %d flushes, %d writes durable alone", flushes, alone)
		}
		if flushes, alone := fua(mib-4096, page(6), page(7)); flushes == 0 || alone != 0 {
			t.Errorf("a FUA write over two blocks: %d flushes, %d writes durable alone", flushes, alone)
		}
		got := make([]byte, len(want))
		if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("what was written is not there (%v)", err)
		}
		r := &Request{Kind: WriteFUA, Buffers: [][]byte{page(8)}}
		if n := testing.AllocsPerRun(20, func() { run(im, r) }); n != 0 {
			t.Errorf("a FUA write in place allocates %v times", n)
		}
		for _, bad := range []*Request{
			{Kind: WriteFUA, Offset: 8 * mib, Buffers: [][]byte{page(1)}},
			{Kind: WriteFUA, Offset: -4096, Buffers: [][]byte{page(1)}},
			{Kind: WriteFUA, Buffers: [][]byte{page(1)[:100], page(1)[:412]}},
		} {
			if err := run(im, bad); err == nil {
				t.Errorf("a FUA write of %d bytes at %d was done", len(bad.Buffers[0]), bad.Offset)
			}
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	}
}
