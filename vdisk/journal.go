package vdisk

import (
	"fmt"
	"sync"
)

// A journal is the log in use. One goroutine at a time commits; others that ask
// meanwhile are served together by the next commit.
//
// The order of one commit, with B the backing:
//
//	payload writes have completed
//	[B.Flush          only if a change refers to payload that a reader could
//	                  tell from what the block read as before]
//	log entry         carries the tail: the oldest entry whose in-place
//	                  writes are not yet durable
//	B.Flush           payload and entry are durable: so is the guest's flush
//	in-place writes   of the pages in the entry; the next B.Flush makes them
//	                  durable, and the entry after it leaves this one behind
//
// So there are no checkpoint writes: the tail in the newest entry is the checkpoint.
type journal struct {
	b      Backing
	off    int64 // of the log in the file
	length int64

	guid GUID // zero until the session's first entry
	// named: a header names guid. header was in force before the first entry.
	named  bool
	header uint64
	seq    uint64
	head   int64 // where the next entry goes

	// live are the entries from the newest one's tail to the newest, oldest
	// first: what a replay would read now, so nothing of it may be
	// overwritten. The in-place writes of the first applied of them are
	// durable; the next entry leaves those behind.
	live    []liveEntry
	applied int

	flushed int64 // the file is durably at least this long

	buf []byte // of the last entry, for the next
}

type liveEntry struct{ at, size int64 }

// maxPages is how many pages one entry may carry. While an entry is being written,
// the one before it and that one's tail, which is the entry before at the oldest,
// must stay whole: so no entry takes more than a third of the log.
func (j *journal) maxPages() int {
	n := int(j.length / logSector / 3)
	n -= descSectors(n)
	return max(1, min(n, 4096))
}

func (j *journal) used() (n int64) {
	for _, e := range j.live {
		n += e.size
	}
	return n
}

// flush makes everything issued durable, in-place writes of all live entries
// included, so the next entry will leave them behind. size is the file's length
// before the call.
func (j *journal) flush(size int64) error {
	if err := j.b.Flush(); err != nil {
		return err
	}
	j.applied = len(j.live)
	j.flushed = max(j.flushed, size)
	return nil
}

// append writes an entry and makes it durable. Everything issued before is durable
// then too. The caller writes the pages in place next.
func (j *journal) append(writes []logWrite, end int64) error {
	// FlushedFileOffset counts whole MiB (2.3.1.1), and a file that a crash cut
	// off may have had more.
	flushed := uint64(j.flushed) &^ (mib - 1)
	e := logEntry{Sequence: j.seq + 1, GUID: j.guid, Flushed: flushed, Last: uint64(end), Writes: writes}
	size := e.size()
	if size > j.length-j.used() {
		return fmt.Errorf("vdisk: a log of %d bytes, %d of them in use, can not hold an entry of %d", j.length, j.used(), size)
	}
	tail := j.head
	if j.applied < len(j.live) {
		tail = j.live[j.applied].at
	}
	e.Tail = uint32(tail)
	b := j.buf
	if int64(cap(b)) < size {
		b = make([]byte, size)
		if size <= mib {
			j.buf = b
		}
	}
	b = b[:size]
	e.encode(b)
	at := j.head
	for rest := b; len(rest) > 0; {
		n := min(int64(len(rest)), j.length-at)
		if _, err := j.b.WriteAt(rest[:n], j.off+at); err != nil {
			return err
		}
		rest, at = rest[n:], (at+n)%j.length
	}
	if err := j.b.Flush(); err != nil {
		return err
	}
	// What lies before the new tail is needed no more. That flush also made
	// the older entries' in-place writes durable, but only the next entry
	// says so.
	j.live = append(j.live[:0], j.live[j.applied:]...)
	j.applied = len(j.live)
	j.live = append(j.live, liveEntry{j.head, size})
	j.flushed = max(j.flushed, end)
	j.seq++
	j.head = at
	return nil
}

// A committer groups the callers of a slow operation: each call to Do is served by
// a run of f that began after the call.
type committer struct {
	mu      sync.Mutex
	cond    sync.Cond
	running bool
	started uint64 // runs begun
	ended   uint64
	err     error // of the last run
}

// alone runs f, which may do what a commit does and more, while no commit runs.
// It serves no other caller.
func (c *committer) alone(f func() error) error {
	c.mu.Lock()
	if c.cond.L == nil {
		c.cond.L = &c.mu
	}
	for c.running {
		c.cond.Wait()
	}
	c.running = true
	c.mu.Unlock()
	err := f()
	c.mu.Lock()
	c.running = false
	c.cond.Broadcast()
	c.mu.Unlock()
	return err
}

func (c *committer) do(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cond.L == nil {
		c.cond.L = &c.mu
	}
	want := c.started + 1 // the next run to begin
	for c.ended < want {
		if c.running {
			c.cond.Wait()
			continue
		}
		c.running = true
		c.started++
		c.mu.Unlock()
		err := f()
		c.mu.Lock()
		c.running = false
		c.ended = c.started
		c.err = err
		c.cond.Broadcast()
	}
	return c.err
}
