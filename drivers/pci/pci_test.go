package pci

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// laptop is a machine with a bridge, a two-function device and an e1000.
func laptop(space int) *fakeConfig {
	c := newFake(space)
	c.add(Address{}, 0x8086, 0x1237, 0x060000, headerNormal)
	c.add(Address{Device: 1}, 0x8086, 0x7000, 0x060100, headerNormal|headerMulti)
	c.add(Address{Device: 1, Function: 3}, 0x8086, 0x7113, 0x068000, headerNormal)
	bridge := c.add(Address{Device: 2}, 0x1b36, 0x0001, 0x060400, headerBridge)
	bridge.mem[regSecondary] = 5
	nic := c.add(Address{Bus: 5, Device: 3}, 0x8086, 0x100e, 0x020000, headerNormal)
	nic.bar(0, 0xfebc0000, 0, 0x20000)
	nic.bar(1, 0xc000, barIO, 0x40)
	nic.mem[regIntLine], nic.mem[regIntPin] = 11, 1
	nic.set16(regSubVendor, 0x1af4)
	// Absent functions of a single-function device answer like function 0 on
	// some devices; they must not be listed.
	c.fns[Address{Bus: 5, Device: 3, Function: 1}] = nic
	return c
}

func find(t *testing.T, c Config, id uint32) *Function {
	t.Helper()
	fs := Scan(c, 0).Find(id)
	if len(fs) != 1 {
		t.Fatalf("found %d functions %08x, want 1", len(fs), id)
	}
	return fs[0]
}

func TestScanFindsWhatIsBehindBridges(t *testing.T) {
	var got []string
	for _, f := range Scan(laptop(legacySize), 0).Functions() {
		got = append(got, f.String())
	}
	want := []string{
		"00:00.0 8086:1237 host bridge",
		"00:01.0 8086:7000 ISA bridge",
		"00:01.3 8086:7113 bridge",
		"00:02.0 1b36:0001 PCI bridge",
		"05:03.0 8086:100e Ethernet controller",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A server's second root, as of another processor: no bridge leads there, and it need
// not have a device 0.
func TestScanFindsWhatOtherHostBridgesLeadTo(t *testing.T) {
	c := laptop(extendedSize)
	c.add(Address{Bus: 0x80, Device: 5}, 0x8086, 0x2024, 0x088000, headerNormal)
	port := c.add(Address{Bus: 0x80, Device: 6}, 0x8086, 0x2030, 0x060400, headerBridge)
	port.mem[regSecondary] = 0x81
	c.add(Address{Bus: 0x81}, 0x8086, 0x10d3, 0x020000, headerNormal)
	b := Scan(c, 0)
	if fs := b.Find(0x8086_10d3); len(fs) != 0 {
		t.Fatalf("bus 0 leads to %v", fs)
	}
	before := len(b.Functions())
	b.scanPeers(c)
	var got []string
	for _, f := range b.Functions()[before:] {
		got = append(got, f.Address.String())
	}
	if strings.Join(got, " ") != "80:05.0 80:06.0 81:00.0" {
		t.Errorf("found beside bus 0: %v", got)
	}
	b.scanPeers(c)
	if n := len(b.Functions()); n != before+3 {
		t.Errorf("a second look finds %d functions more", n-before-3)
	}
}

func TestScanEndsOnABridgeThatLeadsBack(t *testing.T) {
	c := laptop(legacySize)
	back := c.add(Address{Bus: 5, Device: 4}, 0x1b36, 0x0001, 0x060400, headerBridge)
	back.mem[regSecondary] = 5
	if n := len(Scan(c, 0).Functions()); n != 6 {
		t.Errorf("found %d functions, want 6", n)
	}
}

func TestRegionsAreSizedAndDecodingIsRestored(t *testing.T) {
	c := laptop(legacySize)
	f := find(t, c, 0x8086100e)
	before := f.Config32(regBAR0)
	r, err := f.Region(0)
	if err != nil || r != (Region{Address: 0xfebc0000, Size: 0x20000}) {
		t.Errorf("Region(0) = %+v, %v", r, err)
	}
	if f.Config32(regBAR0) != before {
		t.Error("sizing changed the register")
	}
	if f.Config16(regCommand)&(commandMemory|commandIO) != commandMemory {
		t.Errorf("command %#x: want memory decoding on, I/O as it was", f.Config16(regCommand))
	}
	r, err = f.Region(1)
	if err != nil || r != (Region{Address: 0xc000, Size: 0x40, IO: true}) {
		t.Errorf("Region(1) = %+v, %v", r, err)
	}
	if _, err := f.Region(2); err == nil || !strings.Contains(err.Error(), "does not implement") {
		t.Errorf("Region(2): %v", err)
	}
	if _, err := f.Region(6); err == nil {
		t.Error("Region(6) succeeded")
	}
}

func TestWideRegion(t *testing.T) {
	c := laptop(legacySize)
	n := c.add(Address{Device: 7}, 0x1b36, 0x0010, 0x010802, headerNormal)
	n.bar(0, 0x38_0000_0000, barType64, 1<<33)
	n.bar(5, 0x4000_0000, barType64, 0x1000) // nowhere for its upper half
	f := find(t, c, 0x1b360010)
	r, err := f.Region(0)
	if err != nil || r != (Region{Address: 0x38_0000_0000, Size: 1 << 33, Wide: true}) {
		t.Errorf("Region(0) = %+v, %v", r, err)
	}
	if _, err := f.Region(5); err == nil {
		t.Error("a 64-bit BAR in the last register was accepted")
	}
}

func TestRegionErrors(t *testing.T) {
	c := laptop(legacySize)
	x := c.add(Address{Device: 7}, 1, 2, 0, headerNormal)
	x.bar(0, 0, 0, 0x1000)              // unassigned
	x.bar(1, 0x1234_5000, 3<<1, 0x1000) // reserved type
	x.bar(2, 0xfebd0000, 0, 0x1000)     // inside the e1000's window
	x.set32(regBAR0+12, 0x0010_0000)    // read-only: not implemented
	x.mask[regBAR0+16] = 0xf0f0_f000    // a mask with holes
	x.set32(regBAR0+16, 0x1000_0000)    //
	if _, err := find(t, c, 0x8086100e).Region(0); err != nil {
		t.Fatal(err)
	}
	b := Scan(c, 0)
	nic, f := b.Find(0x8086100e)[0], b.Find(0x00010002)[0]
	if _, err := nic.Region(0); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"did not assign", "reserved type", "overlap", "", "cannot be"} {
		_, err := f.Region(i)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Region(%d): error %v, want one with %q", i, err, want)
		}
	}
	nic.Release()
	if _, err := f.Region(2); err != nil {
		t.Errorf("after the other function was released: %v", err)
	}
}

func TestOneDriverAFunction(t *testing.T) {
	f := find(t, laptop(legacySize), 0x8086100e)
	if err := f.Claim("e1000"); err != nil {
		t.Fatal(err)
	}
	if err := f.Claim("other"); err == nil || !strings.Contains(err.Error(), "e1000") {
		t.Errorf("second claim: %v", err)
	}
	f.SetBusMaster(true)
	f.Release()
	if c := f.Config16(regCommand); c&commandMaster != 0 || c&commandIntDisable == 0 {
		t.Errorf("command after Release %#x", c)
	}
	if err := f.Claim("other"); err != nil {
		t.Error(err)
	}
}

func TestLine(t *testing.T) {
	c := laptop(legacySize)
	f := find(t, c, 0x8086100e)
	if irq, ok := f.Line(); irq != 11 || !ok {
		t.Errorf("Line() = %d, %v", irq, ok)
	}
	for _, bad := range []struct{ line, pin uint8 }{{0xff, 1}, {11, 0}, {0, 1}, {11, 5}, {16, 1}} {
		n := c.fns[f.Address]
		n.mem[regIntLine], n.mem[regIntPin] = bad.line, bad.pin
		if irq, ok := f.Line(); ok {
			t.Errorf("line %d pin %d: Line() = %d", bad.line, bad.pin, irq)
		}
	}
}

func TestMSI(t *testing.T) {
	for _, wide := range []bool{false, true} {
		c := laptop(legacySize)
		f := find(t, c, 0x8086100e)
		n := c.fns[f.Address]
		control := uint16(3<<4 | 4<<1) // firmware left several messages on
		if wide {
			control |= msiWide | msiMaskable
		}
		n.mem[regCapPointer] = 0x50
		n.capability(0x50, CapPowerManagement, 0x60)
		n.capability(0x60, CapMSI, 0, byte(control), byte(control>>8))
		if wide {
			n.set32(0x60+0x10, 1) // masked
		}
		if err := f.EnableMSI(0xfee01000, 0x4041); err != nil {
			t.Fatal(err)
		}
		dataAt := 0x68
		if wide {
			dataAt = 0x6c
			if n.get32(0x70)&1 != 0 {
				t.Error("message still masked")
			}
		}
		if a, d, ctl := n.get32(0x64), f.Config16(dataAt), f.Config16(0x62); a != 0xfee01000 || d != 0x4041 ||
			ctl&(msiEnable|msiMultiple) != msiEnable {
			t.Errorf("wide=%v: address %#x data %#x control %#x", wide, a, d, ctl)
		}
		if f.Config16(regCommand)&commandIntDisable == 0 {
			t.Error("pin still enabled")
		}
		err := f.EnableMSI(1<<40|0xfee01000, 1)
		if wide == (err != nil) {
			t.Errorf("wide=%v: address above 4 GiB: %v", wide, err)
		}
		f.DisableMSI()
		if f.Config16(0x62)&msiEnable != 0 {
			t.Error("still enabled")
		}
	}
	f := find(t, laptop(legacySize), 0x8086100e)
	if err := f.EnableMSI(0xfee00000, 1); !errors.Is(err, ErrNoMSI) {
		t.Errorf("without the capability: %v", err)
	}
}

func TestMSIX(t *testing.T) {
	c := laptop(legacySize)
	f := find(t, c, 0x8086100e)
	n := c.fns[f.Address]
	n.bar(3, 0xfebe0000, 0, 0x4000)
	n.mem[regCapPointer] = 0xa0
	n.capability(0xa0, CapMSIX, 0, 4, 0, 3|0x20, 0, 0, 0) // five entries at 0x20 of BAR 3
	table := make([]byte, 0x4000)
	mapper := func(phys, size uint64) ([]byte, error) {
		if phys != 0xfebe0000 || size != 0x4000 {
			t.Errorf("mapped %#x, %#x", phys, size)
		}
		return table, nil
	}
	x, err := f.EnableMSIX(mapper)
	if err != nil {
		t.Fatal(err)
	}
	if x.Len() != 5 {
		t.Errorf("Len() = %d", x.Len())
	}
	x.Set(2, 0xfee00000, 0x55)
	entry := table[0x20+2*16:]
	if a, d, v := binary.LittleEndian.Uint64(entry), binary.LittleEndian.Uint32(entry[8:]), entry[12]; a != 0xfee00000 || d != 0x55 || v != 0 {
		t.Errorf("entry: address %#x data %#x control %#x", a, d, v)
	}
	if table[0x20+12] != msixMasked {
		t.Error("an entry that was not set is not masked")
	}
	if ctl := f.Config16(0xa2); ctl&(msixEnable|msixMaskAll) != msixEnable {
		t.Errorf("control %#x", ctl)
	}
	// A table that does not fit its BAR.
	n.capability(0xa0, CapMSIX, 0, 0xff, 0x07, 3|0x20, 0, 0, 0)
	if _, err := f.EnableMSIX(mapper); err == nil || !strings.Contains(err.Error(), "not inside BAR") {
		t.Errorf("table larger than its BAR: %v", err)
	}
}

func TestCapabilityWalkSurvivesBrokenLists(t *testing.T) {
	for name, tc := range map[string]struct {
		build func(n *fakeFunction)
		want  string
		found int
	}{
		"loop": {func(n *fakeFunction) {
			n.mem[regCapPointer] = 0x40
			n.capability(0x40, 1, 0x50)
			n.capability(0x50, 5, 0x40)
		}, "loops", 2},
		"self": {func(n *fakeFunction) {
			n.mem[regCapPointer] = 0x40
			n.capability(0x40, 1, 0x40)
		}, "loops", 1},
		"header": {func(n *fakeFunction) {
			n.mem[regCapPointer] = 0x40
			n.capability(0x40, 1, 0x10)
		}, "in the header", 1},
		"absent": {func(n *fakeFunction) {
			n.mem[regCapPointer] = 0xfc
			n.capability(0xfc, 0xff, 0xff)
		}, "nothing answers", 0},
		"extended loop": {func(n *fakeFunction) {
			n.set32(0x100, 0x150<<20|1<<16|3)
			n.set32(0x150, 0x100<<20|1<<16|4)
		}, "loops", 2},
		"extended low": {func(n *fakeFunction) {
			n.set32(0x100, 0x40<<20|1<<16|3)
		}, "below", 1},
	} {
		c := laptop(extendedSize)
		f := find(t, c, 0x8086100e)
		tc.build(c.fns[f.Address])
		caps, err := f.Capabilities()
		if err == nil || !strings.Contains(err.Error(), tc.want) || len(caps) != tc.found {
			t.Errorf("%s: %d found, error %v; want %d and %q", name, len(caps), err, tc.found, tc.want)
		}
	}
}

func FuzzMCFG(f *testing.F) {
	table := make([]byte, mcfgHeader+mcfgEntry)
	copy(table, "MCFG")
	binary.LittleEndian.PutUint64(table[mcfgHeader:], 0xb0000000)
	table[mcfgHeader+11] = 255
	f.Add(table)
	f.Add(table[:mcfgHeader])
	high := bytes.Clone(table)
	binary.LittleEndian.PutUint64(high[mcfgHeader:], 1<<52-1<<20)
	f.Add(high)
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := ECAM(b, func(phys, size uint64) ([]byte, error) {
			if phys+size < phys || phys>>52 != 0 || size != 1<<20 || phys&(size-1) != 0 {
				t.Errorf("a bus is mapped at %#x, %#x bytes", phys, size)
			}
			return nil, errors.New("not mapped")
		})
		if err != nil {
			return
		}
		for bus := range 256 {
			if v := cfg.Read(Address{Bus: uint8(bus)}, 0, 4); v != 0xffffffff {
				t.Errorf("bus %d reads %#x without a window", bus, v)
			}
		}
	})
}

func FuzzCapabilities(f *testing.F) {
	f.Add([]byte{0x40, 0x01, 0x50}, uint16(0x40), []byte{3, 0, 1, 0x15})
	f.Add([]byte{0xfe}, uint16(0xff), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{5, 0, 0x80, 1}, uint16(0xfc), []byte{})
	f.Add([]byte{0x11, 0, 0xff, 0x07, 7, 0, 0, 0}, uint16(0xf4), []byte{})
	f.Fuzz(func(t *testing.T, legacy []byte, at uint16, extended []byte) {
		c := laptop(extendedSize)
		n := c.fns[Address{Bus: 5, Device: 3}]
		n.set16(regStatus, statusCapabilities)
		n.mem[regCapPointer] = byte(at)
		copy(n.mem[0x40:legacySize], legacy)
		copy(n.mem[legacySize:], extended)
		for i := 0x40; i < extendedSize; i += 4 {
			n.mask[i] = 0xffff_ffff
		}
		fn := Scan(c, 0).Find(0x8086100e)[0]
		caps, _ := fn.Capabilities()
		if len(caps) > extendedSize/4 {
			t.Fatalf("%d capabilities", len(caps))
		}
		for _, c := range caps {
			if c.Offset < 0x40 || c.Offset >= extendedSize || c.Offset&3 != 0 {
				t.Fatalf("capability at %#x", c.Offset)
			}
		}
		_ = fn.EnableMSI(0xfee00000, 0x30)
		x, err := fn.EnableMSIX(func(_, size uint64) ([]byte, error) { return make([]byte, size), nil })
		if err == nil {
			x.Set(x.Len()-1, 0xfee00000, 0x30)
		}
		fn.Release()
	})
}
