// Package vma records which ranges of the address space the Go runtime mapped:
// a sorted table of areas, neighbours with equal protection joined. The runtime
// makes few and large mappings, so that a table of fixed size, searched by
// halving, beats a tree and can never fail for want of memory in a fault handler.
// It has no lock; its owner serialises calls.
package vma

// Prot is an area's protection, with Linux's numbers.
type Prot uint8

const (
	None  Prot = 0
	Read  Prot = 1
	Write Prot = 2
	Exec  Prot = 4
)

// PageSize is the unit of all addresses here.
const PageSize = 4096

// Max is how many areas there can be.
const Max = 4096

// An Area is [Start, End).
type Area struct {
	Start, End uintptr
	Prot       Prot
}

// A Map is an address space's table of areas. Its zero value is empty.
type Map struct {
	n int
	a [Max]Area
}

// Len is the number of areas.
func (m *Map) Len() int { return m.n }

// At returns the i-th area in order of address.
func (m *Map) At(i int) Area { return m.a[i] }

// search returns the index of the first area that ends above addr.
func (m *Map) search(addr uintptr) int {
	lo, hi := 0, m.n
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if m.a[mid].End > addr {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// Find returns the area that holds addr.
func (m *Map) Find(addr uintptr) (Area, bool) {
	i := m.search(addr)
	if i == m.n || m.a[i].Start > addr {
		return Area{}, false
	}
	return m.a[i], true
}

// Free reports whether nothing is mapped in [start, end).
func (m *Map) Free(start, end uintptr) bool {
	i := m.search(start)
	return i == m.n || m.a[i].Start >= end
}

// Gap finds the lowest free range of size bytes in [from, limit).
func (m *Map) Gap(from, limit, size uintptr) (uintptr, bool) {
	for i := m.search(from); ; i++ {
		end := limit
		if i < m.n {
			end = min(end, m.a[i].Start)
		}
		if end > from && end-from >= size {
			return from, true
		}
		if i >= m.n || m.a[i].End >= limit {
			return 0, false
		}
		from = max(from, m.a[i].End)
	}
}

// Set maps [start, end) with prot in place of whatever was there. It reports
// false, and changes nothing, when the table could overflow.
func (m *Map) Set(start, end uintptr, prot Prot) bool {
	if start >= end || m.n > Max-2 {
		return false
	}
	m.Remove(start, end)
	i := m.search(start)
	if i > 0 && m.a[i-1].End == start && m.a[i-1].Prot == prot {
		i--
		m.a[i].End = end
	} else {
		m.insert(i, Area{start, end, prot})
	}
	if i+1 < m.n && m.a[i+1].Start == end && m.a[i+1].Prot == prot {
		m.a[i].End = m.a[i+1].End
		m.delete(i+1, i+2)
	}
	return true
}

// Remove unmaps [start, end). It reports false, and changes nothing, when
// splitting an area would overflow the table.
func (m *Map) Remove(start, end uintptr) bool {
	if start >= end {
		return true
	}
	i := m.search(start)
	if i < m.n && m.a[i].Start < start {
		if m.a[i].End > end { // a hole inside one area
			if m.n == Max {
				return false
			}
			m.insert(i+1, Area{end, m.a[i].End, m.a[i].Prot})
			m.a[i].End = start
			return true
		}
		m.a[i].End = start
		i++
	}
	j := i
	for j < m.n && m.a[j].End <= end {
		j++
	}
	m.delete(i, j)
	if i < m.n && m.a[i].Start < end {
		m.a[i].Start = end
	}
	return true
}

func (m *Map) insert(i int, a Area) {
	copy(m.a[i+1:m.n+1], m.a[i:m.n])
	m.a[i] = a
	m.n++
}

func (m *Map) delete(i, j int) {
	copy(m.a[i:], m.a[j:m.n])
	m.n -= j - i
}
