package vmm

import (
	"bytes"
	"testing"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

type echo struct{ base byte }

func (e echo) ReadMMIO(off uint64, b []byte) {
	for i := range b {
		b[i] = e.base + byte(off) + byte(i)
	}
}
func (e echo) WriteMMIO(uint64, []byte) {}

func TestAccessesThatOneWindowDoesNotHoldAreTakenApart(t *testing.T) {
	b := newBus()
	if err := b.AddMMIO(0x1000, 0x10, echo{0x10}); err != nil {
		t.Fatal(err)
	}
	if err := b.AddMMIO(0x1010, 0x10, echo{0x40}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   uint64
		want []byte
		lost uint64
	}{
		{0x1004, []byte{0x14, 0x15, 0x16, 0x17}, 0},
		{0x100e, []byte{0x1e, 0x1f, 0x40, 0x41}, 0},
		{0x101e, []byte{0x4e, 0x4f, 0xff, 0xff}, 2},
		{0x0fff, []byte{0xff, 0x10, 0x11, 0x12}, 1},
		{0x2000, []byte{0xff, 0xff, 0xff, 0xff}, 1},
	} {
		before := b.lostMMIO.Load()
		p := make([]byte, 4)
		b.ReadMMIO(c.at, p)
		if !bytes.Equal(p, c.want) || b.lostMMIO.Load()-before != c.lost {
			t.Errorf("at %#x: % x, %d lost", c.at, p, b.lostMMIO.Load()-before)
		}
	}
}

func TestWideAccessesOfByteDevicesGoToOnePortAfterTheOther(t *testing.T) {
	r := newRig(func(*fakecpu.VCPU, *vcpu.Exit) error { return nil })
	vm := r.vm(t, 1)
	defer vm.Delete()
	vm.bus.Out(0x70, 2, 0x5a40) // the RTC's index, then its data
	if v := vm.bus.In(0x71, 1); v != 0x5a {
		t.Errorf("CMOS byte 40h holds %#x", v)
	}
	if v := vm.bus.In(0x70, 2); v != 0x5aff {
		t.Errorf("ports 70h and 71h read %#x", v)
	}
	if v := vm.bus.In(0x71, 4); v != 0xffffff5a {
		t.Errorf("what lies behind port 71h reads %#x", v)
	}
	if n := testing.AllocsPerRun(10, func() { vm.bus.Out(0x70, 1, 0x40); vm.bus.In(0x71, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
