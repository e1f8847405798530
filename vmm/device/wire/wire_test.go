package wire

import (
	"testing"

	"godwit/vmm/device/devicetest"
)

func TestOrIsUpWhileAnyDriverIs(t *testing.T) {
	var out devicetest.Line
	o := NewOr("irq9", &out)
	a, b := o.Input(), o.Input()
	a.Set(true)
	b.Set(true)
	a.Set(false)
	if !out.Level || out.Edges != 1 {
		t.Errorf("%+v with one driver left", out)
	}
	b.Set(false)
	if out.Level {
		t.Error("up with no driver")
	}
}

func TestFanDrivesAll(t *testing.T) {
	var a, b devicetest.Line
	f := Fan{&a, &b}
	f.Set(true)
	if !a.Level || !b.Level {
		t.Error("not all are up")
	}
}

func TestStateRoundTrip(t *testing.T) {
	var out devicetest.Line
	a, z := NewOr("irq9", &devicetest.Line{}), NewOr("irq9", &out)
	a.Input().Set(true)
	in := z.Input()
	devicetest.RoundTrip(t, a, z)
	if out.Edges != 0 {
		t.Error("loading made an edge")
	}
	out.Level = true // the controller loads this itself
	in.Set(false)
	if out.Level {
		t.Error("the moved line stays up")
	}
	devicetest.Refused(t, z, devicetest.Save(a), 0, 2, "a driver that does not exist")
}
