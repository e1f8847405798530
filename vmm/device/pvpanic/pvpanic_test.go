package pvpanic

import (
	"slices"
	"testing"
)

func TestEventsAreTold(t *testing.T) {
	var told []bool
	p := New(func(crash bool) { told = append(told, crash) })
	if v := p.In(Base, 1); v != 3 {
		t.Errorf("reads %#x", v)
	}
	for _, v := range []uint32{0, 1, 2, 4, 3} {
		p.Out(Base, 1, v)
	}
	if !slices.Equal(told, []bool{false, true, false}) {
		t.Errorf("told %v", told)
	}
}
