// Package timerq is a queue of deadlines: a binary heap in which every id occurs
// at most once and can be taken out again. Its memory is given at the start; no
// operation allocates or can fail. It has no lock.
package timerq

// An Entry is one deadline.
type Entry struct {
	Deadline int64
	ID       uint32
}

// A Queue is a heap of entries, earliest first.
type Queue struct {
	n    int
	heap []Entry
	pos  []int32 // by id: index in heap + 1, 0 if not queued
}

// Init gives the queue its memory. IDs are 0 to len(pos)-1; heap must be as long.
func (q *Queue) Init(heap []Entry, pos []int32) {
	*q = Queue{heap: heap[:len(pos)], pos: pos}
}

// Len is the number of entries.
func (q *Queue) Len() int { return q.n }

// First returns the earliest entry.
func (q *Queue) First() (Entry, bool) {
	if q.n == 0 {
		return Entry{}, false
	}
	return q.heap[0], true
}

// Set queues id for deadline, in place of its earlier deadline if it has one.
func (q *Queue) Set(id uint32, deadline int64) {
	i := int(q.pos[id]) - 1
	if i < 0 {
		i = q.n
		q.n++
	}
	q.heap[i] = Entry{deadline, id}
	q.pos[id] = int32(i + 1)
	q.fix(i)
}

// Remove takes id out, and reports whether it was queued.
func (q *Queue) Remove(id uint32) bool {
	i := int(q.pos[id]) - 1
	if i < 0 {
		return false
	}
	q.pos[id] = 0
	q.n--
	if i != q.n {
		q.heap[i] = q.heap[q.n]
		q.pos[q.heap[i].ID] = int32(i + 1)
		q.fix(i)
	}
	return true
}

// fix restores the heap's order around index i.
func (q *Queue) fix(i int) {
	for i > 0 && q.heap[i].Deadline < q.heap[(i-1)/2].Deadline {
		q.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		c := 2*i + 1
		if c >= q.n {
			return
		}
		if c+1 < q.n && q.heap[c+1].Deadline < q.heap[c].Deadline {
			c++
		}
		if q.heap[i].Deadline <= q.heap[c].Deadline {
			return
		}
		q.swap(i, c)
		i = c
	}
}

func (q *Queue) swap(i, j int) {
	q.heap[i], q.heap[j] = q.heap[j], q.heap[i]
	q.pos[q.heap[i].ID] = int32(i + 1)
	q.pos[q.heap[j].ID] = int32(j + 1)
}
