package pci

import (
	"encoding/binary"
	"errors"
	"testing"
)

// fakePorts is a chipset's mechanism #1 in front of a fakeConfig.
type fakePorts struct {
	cfg   *fakeConfig
	index uint32
}

func (p *fakePorts) in(port uint16, size int) uint32 {
	if port == configAddress && size == 4 {
		return p.index
	}
	if p.index&configEnable == 0 || port < configData || port+uint16(size) > configData+4 {
		return allOnes(size)
	}
	return p.cfg.Read(p.target(), int(p.index&0xfc)+int(port-configData), size)
}

func (p *fakePorts) out(port uint16, size int, v uint32) {
	if port == configAddress && size == 4 {
		p.index = v &^ 0x7f00_0003
		return
	}
	if p.index&configEnable != 0 && port >= configData {
		p.cfg.Write(p.target(), int(p.index&0xfc)+int(port-configData), size, v)
	}
}

func (p *fakePorts) target() Address {
	return Address{Bus: uint8(p.index >> 16), Device: uint8(p.index >> 11 & 31), Function: uint8(p.index >> 8 & 7)}
}

func (p *fakePorts) In8(port uint16) uint8       { return uint8(p.in(port, 1)) }
func (p *fakePorts) In16(port uint16) uint16     { return uint16(p.in(port, 2)) }
func (p *fakePorts) In32(port uint16) uint32     { return p.in(port, 4) }
func (p *fakePorts) Out8(port uint16, v uint8)   { p.out(port, 1, uint32(v)) }
func (p *fakePorts) Out16(port uint16, v uint16) { p.out(port, 2, uint32(v)) }
func (p *fakePorts) Out32(port uint16, v uint32) { p.out(port, 4, v) }

type noPorts struct{ *fakePorts }

func (noPorts) In32(uint16) uint32 { return 0xffff_ffff }

func exercise(t *testing.T, c Config) {
	t.Helper()
	f := find(t, c, 0x8086100e)
	if f.SubVendor != 0x1af4 || f.Revision != 3 || f.Config8(regIntLine) != 11 {
		t.Errorf("%v: sub-vendor %#x revision %d line %d", f, f.SubVendor, f.Revision, f.Config8(regIntLine))
	}
	f.SetBusMaster(true)
	if f.Config16(regCommand)&commandMaster == 0 {
		t.Error("16-bit write was lost")
	}
	if r, err := f.Region(0); err != nil || r.Size != 0x20000 {
		t.Errorf("Region: %+v, %v", r, err)
	}
	c.Write(f.Address, regIntLine, 1, 9)
	if irq, _ := f.Line(); irq != 9 {
		t.Errorf("8-bit write: line %d", irq)
	}
}

func TestMechanism1(t *testing.T) {
	c, err := Mechanism1(&fakePorts{cfg: laptop(legacySize)})
	if err != nil {
		t.Fatal(err)
	}
	exercise(t, c)
	if v := c.Read(Address{Bus: 5, Device: 3}, 0x100, 4); v != 0xffff_ffff {
		t.Errorf("beyond the space: %#x", v)
	}
	if v := c.Read(Address{Segment: 1}, 0, 2); v != 0xffff {
		t.Errorf("another segment: %#x", v)
	}
	if _, err := Mechanism1(noPorts{&fakePorts{}}); err == nil {
		t.Error("a machine without PCI was accepted")
	}
}

// mcfg builds a table with entries of base, segment, first and last bus.
func mcfg(entries ...[4]uint64) []byte {
	t := make([]byte, mcfgHeader)
	for _, e := range entries {
		t = binary.LittleEndian.AppendUint64(t, e[0])
		t = binary.LittleEndian.AppendUint16(t, uint16(e[1]))
		t = append(t, byte(e[2]), byte(e[3]), 0, 0, 0, 0)
	}
	return t
}

func TestECAM(t *testing.T) {
	machine := laptop(extendedSize)
	const base = 0xb000_0000
	mapped := 0
	mapper := func(phys, size uint64) ([]byte, error) {
		mapped++
		if phys < base || size != 1<<20 || phys&(1<<20-1) != 0 {
			t.Fatalf("mapped %#x, %#x", phys, size)
		}
		bus := uint8((phys - base) >> 20)
		if bus == 6 {
			return nil, errors.New("no")
		}
		w := make([]byte, size)
		for i := range w {
			w[i] = 0xff
		}
		for a, f := range machine.fns {
			if a.Bus == bus {
				copy(w[int(a.Device)<<15|int(a.Function)<<12:], f.mem[:])
			}
		}
		return w, nil
	}
	c, err := ECAM(mcfg([4]uint64{base, 0, 0, 7}), mapper)
	if err != nil {
		t.Fatal(err)
	}
	f := find(t, c, 0x8086100e)
	f.SetBusMaster(true)
	c.Write(f.Address, regIntLine, 1, 9)
	c.Write(f.Address, 0x104, 4, 0x1234_5678)
	if irq, _ := f.Line(); irq != 9 || f.Config16(regCommand)&commandMaster == 0 || f.Config32(0x104) != 0x1234_5678 {
		t.Error("a write was lost")
	}
	if mapped != 2 {
		t.Errorf("%d buses mapped, want the two that are used", mapped)
	}
	for _, a := range []Address{{Bus: 6}, {Bus: 8}, {Segment: 1}} {
		if v := c.Read(a, 0, 4); v != 0xffff_ffff || c.Size(a) != 0 {
			t.Errorf("%v: read %#x, size %d", a, v, c.Size(a))
		}
		c.Write(a, 0, 4, 0)
	}
}

func TestMalformedMCFG(t *testing.T) {
	for name, table := range map[string][]byte{
		"short":     make([]byte, 20),
		"ragged":    make([]byte, mcfgHeader+7),
		"no base":   mcfg([4]uint64{0, 0, 0, 255}),
		"unaligned": mcfg([4]uint64{0xb0001000, 0, 0, 255}),
		"backwards": mcfg([4]uint64{0xb0000000, 0, 9, 3}),
	} {
		if _, err := ECAM(table, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
