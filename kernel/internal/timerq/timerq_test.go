package timerq

import (
	"math/rand/v2"
	"testing"
)

func TestEarliestComesFirstWhateverHappened(t *testing.T) {
	const n = 64
	var q Queue
	q.Init(make([]Entry, n), make([]int32, n))
	model := map[uint32]int64{}
	r := rand.New(rand.NewPCG(5, 6))
	for step := range 50000 {
		id := uint32(r.IntN(n))
		if r.IntN(3) == 0 {
			_, had := model[id]
			if q.Remove(id) != had {
				t.Fatalf("step %d: Remove(%d) = %v", step, id, !had)
			}
			delete(model, id)
		} else {
			d := r.Int64N(1000)
			q.Set(id, d)
			model[id] = d
		}
		e, ok := q.First()
		if ok != (len(model) > 0) || q.Len() != len(model) {
			t.Fatalf("step %d: %d queued, want %d", step, q.Len(), len(model))
		}
		for id, d := range model {
			if d < e.Deadline {
				t.Fatalf("step %d: first is %v, but %d is due at %d", step, e, id, d)
			}
		}
		if ok && model[e.ID] != e.Deadline {
			t.Fatalf("step %d: first is %v, want %d", step, e, model[e.ID])
		}
	}
}
