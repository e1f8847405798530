package vdisk

import (
	"fmt"
	"io"
	"sync"
)

// Memory is a Backing in memory; only what was written takes room.
type Memory struct {
	mu    sync.RWMutex
	size  int64
	pages map[int64]memSlot
}

// A memSlot's page belongs to one Memory, or is shared and copied before a change.
type memSlot struct {
	data   *[memPage]byte
	shared bool
}

const memPage = 16 * kib

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{pages: map[int64]memSlot{}} }

// Snapshot is an independent copy that shares the pages that neither changes.
func (m *Memory) Snapshot() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Memory{size: m.size, pages: make(map[int64]memSlot, len(m.pages))}
	for at, s := range m.pages {
		s.shared = true
		m.pages[at], c.pages[at] = s, s
	}
	return c
}

// own is the page at that index, to be changed.
func (m *Memory) own(at int64) *[memPage]byte {
	s := m.pages[at]
	if s.data == nil || s.shared {
		p := new([memPage]byte)
		if s.shared {
			*p = *s.data
		}
		s = memSlot{data: p}
		m.pages[at] = s
	}
	return s.data
}

func (m *Memory) Size() (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.size, nil
}

func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if off < 0 || off > maxFileEnd {
		return 0, fmt.Errorf("vdisk: offset %d", off)
	}
	n := int(max(0, min(int64(len(p)), m.size-off)))
	for i := 0; i < n; {
		at, in := (off+int64(i))/memPage, (off+int64(i))%memPage
		k := min(n-i, int(memPage-in))
		if pg := m.pages[at].data; pg != nil {
			copy(p[i:i+k], pg[in:])
		} else {
			clear(p[i : i+k])
		}
		i += k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off > maxFileEnd {
		return 0, fmt.Errorf("vdisk: offset %d", off)
	}
	m.size = max(m.size, off+int64(len(p)))
	for i := 0; i < len(p); {
		at, in := (off+int64(i))/memPage, (off+int64(i))%memPage
		q := p[i:min(len(p), i+int(memPage-in))]
		if i += len(q); m.pages[at].data != nil || !allZero(q) {
			copy(m.own(at)[in:], q)
		}
	}
	return len(p), nil
}

func (m *Memory) Flush() error { return nil }

func (m *Memory) Trim(off, n int64) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n = min(n, m.size-off)
	if first, end := (off+memPage-1)/memPage, (off+n)/memPage; end-first > int64(len(m.pages)) {
		for at := range m.pages {
			if at >= first && at < end {
				delete(m.pages, at)
			}
		}
		m.clear(off, min(n, first*memPage-off))
		off, n = end*memPage, off+n-end*memPage
	}
	m.clear(off, n)
	return true, nil
}

// clear does it page by page. mu is held.
func (m *Memory) clear(off, n int64) {
	for n > 0 {
		at, in := off/memPage, off%memPage
		k := min(n, memPage-in)
		if k == memPage {
			delete(m.pages, at)
		} else if m.pages[at].data != nil {
			clear(m.own(at)[in : in+k])
		}
		off, n = off+k, n-k
	}
}

func (m *Memory) Truncate(size int64) error {
	m.mu.Lock()
	old := m.size
	m.mu.Unlock()
	if size < old {
		m.Trim(size, old-size)
	}
	m.mu.Lock()
	m.size = size
	m.mu.Unlock()
	return nil
}

func (m *Memory) Close() error { return nil }
