package sysport

import (
	"testing"

	"godwit/vmm/device/devicetest"
)

func TestA20IsAlwaysOn(t *testing.T) {
	p := New(func() { t.Error("reset") })
	for _, v := range []uint32{0, 2} {
		p.Out(Port92, 1, v)
		if p.In(Port92, 1)&p92A20 == 0 {
			t.Errorf("off after %#x", v)
		}
	}
}

func TestFastResetOnARisingEdge(t *testing.T) {
	n := 0
	p := New(func() { n++ })
	p.Out(Port92, 1, 3)
	p.Out(Port92, 1, 3)
	p.Out(Port92, 1, 2)
	p.Out(Port92, 1, 3)
	if n != 2 {
		t.Errorf("%d resets, want 2", n)
	}
}

func TestProgressCodeIsKept(t *testing.T) {
	p := New(func() {})
	p.Out(Port80, 1, 0x1a5)
	p.Reset()
	if p.Progress() != 0xa5 || p.In(Port80, 1) != 0xa5 {
		t.Errorf("code %#x", p.Progress())
	}
}

func TestStateRoundTrip(t *testing.T) {
	a := New(func() {})
	a.Out(Port92, 1, 0xc8)
	a.Out(Port80, 1, 0x42)
	z := New(func() { t.Error("loading resets") })
	devicetest.RoundTrip(t, a, z)
	devicetest.Refused(t, z, devicetest.Save(a), 0, 0x02, "A20 is no state")
}
