package gcoff

import (
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func cycles() uint64 {
	m := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(m)
	return m[0].Value.Uint64()
}

var sink []byte

// litter makes more garbage than a heap as small as this test's may grow by.
func litter() {
	for range 1000 {
		sink = make([]byte, 64<<10)
	}
}

func TestNothingIsCollectedBeforeTheLastUserIsDone(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	begin := cycles()
	litter()
	if cycles() == begin {
		t.Fatal("nothing is collected in any case: this tests nothing")
	}
	first, second := Off(), Off()
	for _, on := range []func(){first, first, second} {
		begin = cycles()
		litter()
		if n := cycles() - begin; n != 0 {
			t.Errorf("%d collections", n)
		}
		on()
	}
	begin = cycles()
	litter()
	if cycles() == begin {
		t.Error("nothing is collected any more")
	}
	if p := debug.SetGCPercent(100); p != 50 {
		t.Errorf("afterwards %d %%", p)
	}
}
