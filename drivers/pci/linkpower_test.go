package pci

import "testing"

func TestDisableASPMAtBothEndsOfTheLink(t *testing.T) {
	c := laptop(extendedSize)
	port := c.fns[Address{Device: 2}]
	nic := c.fns[Address{Bus: 5, Device: 3}]
	other := c.add(Address{Device: 3}, 0x1b36, 0x0001, 0x060400, headerBridge)
	other.mem[regSecondary] = 6
	for _, f := range []*fakeFunction{port, nic, other} {
		f.mem[regCapPointer] = 0x60
		f.capability(0x60, CapExpress, 0)
		f.set16(0x60+expressLinkControl, 0x43) // L0s, L1, common clock
	}
	find(t, c, 0x8086_100e).DisableASPM()
	for _, e := range []struct {
		name string
		f    *fakeFunction
		want uint32
	}{{"the device", nic, 0x40}, {"the port above it", port, 0x40}, {"another port", other, 0x43}} {
		if got := e.f.get32(0x60+expressLinkControl) & 0xffff; got != e.want {
			t.Errorf("link control of %s is %#x, want %#x", e.name, got, e.want)
		}
	}
}

// A device that is part of the chipset has no port above it, and one on a conventional
// bus no link.
func TestDisableASPMWhereThereIsNoLink(t *testing.T) {
	c := laptop(legacySize)
	for _, f := range Scan(c, 0).Functions() {
		f.DisableASPM()
	}
	bridge := c.fns[Address{Device: 1}]
	bridge.mem[regCapPointer] = 0xf4
	bridge.capability(0xf4, CapExpress, 0) // runs past the space
	find(t, c, 0x8086_7000).DisableASPM()
}
