package vdisk

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// A page is 4 KiB of the file's metadata (BAT or sector bitmap) in memory: the unit
// of the log. Its words are read without a lock and changed under metaCache.mu.
type page struct {
	off   int64
	words [logSector / 8]atomic.Uint64
	// Guarded by metaCache.mu:
	dirty bool // changed since the last commit took it
	busy  int  // commits that took it and have not written it in place yet
	used  atomic.Bool
}

// metaCache holds the pages in use, at most limit of them but for those that wait
// for the log.
type metaCache struct {
	read  func(b []byte, off int64) error
	limit int

	index sync.Map // int64 file offset -> *page
	// front finds most of them faster. A slot is set and cleared under mu,
	// and holds only what index holds.
	front [512]atomic.Pointer[page]

	mu    sync.Mutex
	ring  []*page // for the clock that evicts
	hand  int
	dirty []*page
	// barrier: some change in dirty refers to payload that must be durable
	// before the log entry is.
	barrier bool
	load    sync.Mutex // one miss at a time

	// What take hands out, used again by the next.
	taken  []*page
	writes []logWrite
	buf    []byte

	waiting atomic.Int32 // len(dirty), for those who do not hold mu
}

const defaultMetaPages = 4096 // 16 MiB: 2 million blocks

func (m *metaCache) page(off int64) (*page, error) {
	off &^= logSector - 1
	p := m.slot(off).Load()
	if p == nil || p.off != off {
		q, ok := m.index.Load(off)
		if !ok {
			return m.miss(off)
		}
		p = q.(*page)
		if m.mu.TryLock() {
			if q, ok := m.index.Load(off); ok && q == p {
				m.slot(off).Store(p)
			}
			m.mu.Unlock()
		}
	}
	if !p.used.Load() {
		p.used.Store(true)
	}
	return p, nil
}

func (m *metaCache) slot(off int64) *atomic.Pointer[page] {
	return &m.front[off/logSector%int64(len(m.front))]
}

func (m *metaCache) miss(off int64) (*page, error) {
	m.load.Lock()
	defer m.load.Unlock()
	if p, ok := m.index.Load(off); ok {
		return p.(*page), nil
	}
	p := &page{off: off}
	var b [logSector]byte
	if err := m.read(b[:], off); err == io.EOF {
		return nil, ErrTruncated.at(off, "the file's own tables reach beyond its end: restore it from a copy")
	} else if err != nil {
		return nil, fmt.Errorf("vdisk: metadata at %#x: %w", off, err)
	}
	for i := range p.words {
		p.words[i].Store(le.Uint64(b[8*i:]))
	}
	p.used.Store(true)
	m.mu.Lock()
	m.evict() // before p is there: whoever asked for it must come to use it
	m.index.Store(off, p)
	m.ring = append(m.ring, p)
	m.mu.Unlock()
	return p, nil
}

// evict drops pages that were not used since the clock's hand came by last.
func (m *metaCache) evict() {
	for tries := 2 * len(m.ring); len(m.ring) > m.limit && tries > 0; tries-- {
		m.hand %= len(m.ring)
		p := m.ring[m.hand]
		if p.dirty || p.busy > 0 || p.used.Swap(false) {
			m.hand++
			continue
		}
		m.index.Delete(p.off)
		m.slot(p.off).CompareAndSwap(p, nil)
		last := len(m.ring) - 1
		m.ring[m.hand] = m.ring[last]
		m.ring[last] = nil
		m.ring = m.ring[:last]
	}
}

// word reads the 64-bit word at a file offset.
func (m *metaCache) word(off int64) (uint64, error) {
	p, err := m.page(off)
	if err != nil {
		return 0, err
	}
	return p.words[off%logSector/8].Load(), nil
}

// change applies f to the page that holds off and queues it for the next commit.
// barrier says that what the change refers to must be durable first.
func (m *metaCache) change(off int64, barrier bool, f func(p *page)) error {
	for {
		p, err := m.page(off)
		if err != nil {
			return err
		}
		m.mu.Lock()
		if q, ok := m.index.Load(p.off); !ok || q != p {
			m.mu.Unlock() // evicted meanwhile
			continue
		}
		f(p)
		if !p.dirty {
			p.dirty = true
			m.dirty = append(m.dirty, p)
			m.waiting.Store(int32(len(m.dirty)))
		}
		m.barrier = m.barrier || barrier
		m.mu.Unlock()
		return nil
	}
}

func (m *metaCache) setWord(off int64, v uint64, barrier bool) error {
	return m.change(off, barrier, func(p *page) { p.words[off%logSector/8].Store(v) })
}

// take hands all dirty pages to a commit, as writes for the log, those that first
// names before the others, and each kind by offset. Their data lie one after the
// other in bytes. They are good until done.
func (m *metaCache) take(first func(off int64) bool) (pages []*page, writes []logWrite, bytes []byte, barrier bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pages, writes = m.taken[:0], m.writes[:0]
	if n := len(m.dirty) * logSector; cap(m.buf) < n {
		m.buf = make([]byte, n)
	}
	slices.SortFunc(m.dirty, func(a, b *page) int { return cmp.Compare(a.off, b.off) })
	for _, early := range [2]bool{true, false} {
		for _, p := range m.dirty {
			if first(p.off) != early {
				continue
			}
			b := m.buf[:cap(m.buf)][len(pages)*logSector:][:logSector:logSector]
			for j := range p.words {
				le.PutUint64(b[8*j:], p.words[j].Load())
			}
			p.dirty = false
			p.busy++
			pages = append(pages, p)
			writes = append(writes, logWrite{Offset: p.off, Data: b})
		}
	}
	clear(m.dirty)
	m.dirty = m.dirty[:0]
	m.waiting.Store(0)
	m.taken, m.writes = pages, writes
	barrier, m.barrier = m.barrier, false
	return pages, writes, m.buf[:cap(m.buf)], barrier
}

// done ends what take began.
func (m *metaCache) done(pages []*page) {
	m.mu.Lock()
	for _, p := range pages {
		p.busy--
	}
	clear(pages)
	if cap(m.buf) > mib {
		m.buf, m.taken, m.writes = nil, nil, nil // a burst; most commits are small
	}
	m.evict()
	m.mu.Unlock()
}

// full tells that so many changes wait that a commit should come first.
func (m *metaCache) full() bool { return int(m.waiting.Load()) >= max(m.limit/2, 64) }

func (m *metaCache) pending() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.dirty) > 0
}

// durable tells whether what the page at a file offset holds is: no change of it waits
// for the log or is on its way there.
func (m *metaCache) durable(off int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.index.Load(off &^ (logSector - 1))
	return ok && !p.(*page).dirty && p.(*page).busy == 0
}

// forget drops what is cached of a range that had another use before. No page of
// it is dirty.
func (m *metaCache) forget(off, n int64) {
	for o := off; o < off+n; o += logSector {
		if p, ok := m.index.LoadAndDelete(o); ok {
			m.mu.Lock()
			m.slot(o).CompareAndSwap(p.(*page), nil)
			for i, q := range m.ring {
				if q == p.(*page) {
					m.ring = append(m.ring[:i], m.ring[i+1:]...)
					break
				}
			}
			m.mu.Unlock()
		}
	}
}
