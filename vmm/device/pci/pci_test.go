package pci

import (
	"bytes"
	"encoding/binary"
	"testing"

	"godwit/vmm/device"
	"godwit/vmm/device/devicetest"
)

type message struct {
	address uint64
	data    uint32
}

type msis []message

func (m *msis) Message(address uint64, data uint32) { *m = append(*m, message{address, data}) }

// scratch is memory behind a BAR.
type scratch [4096]byte

func (s *scratch) ReadMMIO(off uint64, b []byte)  { copy(b, s[off:]) }
func (s *scratch) WriteMMIO(off uint64, b []byte) { copy(s[off:], b) }

type latch struct{ port, v uint32 }

func (l *latch) In(port uint16, size int) uint32     { return l.v }
func (l *latch) Out(port uint16, size int, v uint32) { l.port, l.v = uint32(port), v }

// board is a bus with one network card in slot 3.
type board struct {
	*Host
	f      *Function
	mem    scratch
	io     latch
	sent   msis
	lines  [4]devicetest.Line
	resets int
}

var (
	window   = Window{0xc0000000, 0x3ec00000}
	window64 = Window{1 << 38, 1 << 34}
)

func newBoard() *board {
	b := &board{}
	b.Host = NewHost(Config{
		IO:       Window{0xc000, 0x4000},
		Memory32: window,
		Memory64: window64,
		MSI:      &b.sent,
		Lines:    []device.Line{&b.lines[0], &b.lines[1], &b.lines[2], &b.lines[3]},
		Reset:    func() { b.resets++ },
	})
	b.f = NewFunction("pci/03.0", Identity{Vendor: 0x1af4, Device: 0x1041, Class: 0x020000, Revision: 1, SubsystemVendor: 0x1af4, Subsystem: 7})
	b.f.AddBAR(0, BAR{Kind: IO, Size: 32, Ports: &b.io})
	b.f.AddBAR(2, BAR{Kind: Memory64, Size: 4096, Prefetch: true, MMIO: &b.mem})
	b.f.AddPin(1)
	b.f.AddMSIX(1, 3)
	b.f.AddMSI(2)
	b.Add(3, 0, b.f)
	b.Host.Reset()
	return b
}

func (b *board) cfg(slot, reg uint32, size int) uint32 {
	b.Out(portAddress, 4, addressValid|slot<<11|reg&0xfc)
	return b.In(portData+uint16(reg&3), size)
}

func (b *board) setCfg(slot, reg uint32, size int, v uint32) {
	b.Out(portAddress, 4, addressValid|slot<<11|reg&0xfc)
	b.Out(portData+uint16(reg&3), size, v)
}

// capability finds a capability as a driver does.
func (b *board) capability(id uint32) uint32 {
	for at := b.cfg(3, regCapabilities, 1); at != 0; at = b.cfg(3, at+1, 1) {
		if b.cfg(3, at, 1) == id {
			return at
		}
	}
	return 0
}

func TestEnumeration(t *testing.T) {
	b := newBoard()
	// Linux's pci_check_type1 and its check for a host bridge.
	b.Out(0xcfb, 1, 1)
	b.Out(portAddress, 4, addressValid)
	if b.In(portAddress, 4) != addressValid {
		t.Error("the address latch does not hold")
	}
	for slot := range uint32(32) {
		want := uint32(0xffffffff)
		switch slot {
		case 0:
			want = 0x00081b36
		case 3:
			want = 0x10411af4
		}
		if v := b.cfg(slot, 0, 4); v != want {
			t.Errorf("slot %d identifies as %#x", slot, v)
		}
	}
	if v := b.cfg(0, regClass+1, 2); v != 0x0600 {
		t.Errorf("the bridge's class is %#x", v)
	}
	if v := b.cfg(3, regRevision, 4); v != 0x02000001 {
		t.Errorf("class and revision are %#x", v)
	}
	if v := b.cfg(3, regSubVendor, 4); v != 0x00071af4 {
		t.Errorf("subsystem is %#x", v)
	}
	b.Out(portAddress, 4, addressValid|1<<16)
	if v := b.In(portData, 4); v != 0xffffffff {
		t.Errorf("bus 1 answers %#x", v)
	}
	b.Out(portAddress, 4, 0)
	if v := b.In(portData, 2); v != 0xffff {
		t.Errorf("a latch without enable answers %#x", v)
	}
	b.setCfg(3, 0, 4, 0)
	if v := b.cfg(3, 0, 4); v != 0x10411af4 {
		t.Errorf("the ID can be written: %#x", v)
	}
}

func TestSizingAndMovingWindows(t *testing.T) {
	b := newBoard()
	for bar, want := range map[uint32]uint32{0: 0xffffffe1, 1: 0xfffff000, 2: 0xfffff00c, 3: 0xffffffff, 4: 0} {
		old := b.cfg(3, regBAR+4*bar, 4)
		b.setCfg(3, regBAR+4*bar, 4, 0xffffffff)
		if v := b.cfg(3, regBAR+4*bar, 4); v != want {
			t.Errorf("BAR %d sizes as %#x, want %#x", bar, v, want)
		}
		b.setCfg(3, regBAR+4*bar, 4, old)
	}
	mem, mem64, io := b.Memory(window), b.Memory(window64), b.IO()
	if v := b.cfg(3, regBAR+12, 4); v != 1<<6 {
		t.Fatalf("BAR 2's upper half is %#x", v)
	}
	base := uint64(b.cfg(3, regBAR+8, 4) &^ 15)
	mem64.WriteMMIO(base+0x10, []byte{1, 2, 3, 4})
	if !bytes.Equal(b.mem[0x10:0x14], []byte{1, 2, 3, 4}) {
		t.Error("a store did not reach the device")
	}
	// Move it below 4 GiB.
	b.setCfg(3, regBAR+12, 4, 0)
	b.setCfg(3, regBAR+8, 4, 0xd0000000)
	var r [4]byte
	mem.ReadMMIO(0x10000010, r[:])
	if r != [4]byte{1, 2, 3, 4} {
		t.Errorf("after the move it reads % x", r)
	}
	mem64.ReadMMIO(base+0x10, r[:])
	if r != [4]byte{0xff, 0xff, 0xff, 0xff} {
		t.Errorf("where it was it reads % x", r)
	}
	port := uint16(b.cfg(3, regBAR, 4) &^ 3)
	io.Out(port+5, 1, 0x99)
	if b.io != (latch{5, 0x99}) {
		t.Errorf("ports: %+v", b.io)
	}
	b.setCfg(3, regCommand, 2, cmdMaster)
	if io.In(port, 4) != 0xffffffff {
		t.Error("decodes ports while switched off")
	}
	mem.ReadMMIO(0x10000010, r[:])
	if r[0] != 0xff {
		t.Error("decodes memory while switched off")
	}
	b.setCfg(3, regCommand, 2, cmdMemory)
	b.setCfg(3, regBAR+8, 4, 0x1000) // over guest memory: not in a window
	mem.ReadMMIO(0x10000010, r[:])
	if r[0] != 0xff {
		t.Error("decodes where it is not")
	}
	last := []byte{0, 0, 0, 0, 0, 0, 0, 0}
	b.setCfg(3, regBAR+8, 4, 0xd0000000)
	mem.ReadMMIO(0x10000ffc, last) // across the end
	if last[0] != 0xff {
		t.Error("an access across the window's end reaches the device")
	}
}

func TestConfigurationAccessWidths(t *testing.T) {
	b := newBoard()
	if v := b.cfg(3, regDevice, 2); v != 0x1041 {
		t.Errorf("a word is %#x", v)
	}
	if v := b.cfg(3, regVendor+1, 1); v != 0x1a {
		t.Errorf("a byte is %#x", v)
	}
	if v := b.cfg(3, regLine, 1); v != noLine {
		t.Errorf("the interrupt line is %#x before anyone set it", v)
	}
	b.setCfg(3, regLine, 1, 11)
	if v := b.cfg(3, regLine, 4); v != 0x010b {
		t.Errorf("line and pin are %#x", v)
	}
	b.Out(portAddress, 4, addressValid|3<<11)
	if v := b.In(portData+3, 4); v != 0xffffffff {
		t.Errorf("an access across the register reads %#x", v)
	}
}

func TestECAM(t *testing.T) {
	b := newBoard()
	e := b.ECAM()
	read := func(off uint64, n int) []byte {
		r := make([]byte, n)
		e.ReadMMIO(off, r)
		return r
	}
	if v := binary.LittleEndian.Uint32(read(3<<15, 4)); v != 0x10411af4 {
		t.Errorf("slot 3 identifies as %#x", v)
	}
	if v := read(4<<15, 2); !bytes.Equal(v, []byte{0xff, 0xff}) {
		t.Errorf("slot 4 reads % x", v)
	}
	if v := read(3<<15|0x100, 4); !bytes.Equal(v, make([]byte, 4)) {
		t.Errorf("extended space reads % x", v)
	}
	e.WriteMMIO(3<<15|regLine, []byte{9})
	if v := b.cfg(3, regLine, 1); v != 9 {
		t.Errorf("line is %d", v)
	}
	if v := read(3<<15, 8); v[0] != 0xff {
		t.Errorf("eight bytes read % x", v)
	}
}

func TestPinDrivesItsLine(t *testing.T) {
	b := newBoard()
	line := &b.lines[Line(3, 1, 4)]
	b.f.SetINTx(true)
	if !line.Level || b.cfg(3, regStatus, 2)&statusINTx == 0 {
		t.Error("the line is down")
	}
	b.setCfg(3, regCommand, 2, cmdINTxDisable)
	if line.Level || b.cfg(3, regStatus, 2)&statusINTx == 0 {
		t.Error("INTx disable")
	}
	b.setCfg(3, regCommand, 2, 0)
	b.f.SetINTx(false)
	if line.Level || line.Edges != 2 {
		t.Errorf("%+v", line)
	}
	if b.f.Notify(0) || len(b.sent) != 0 {
		t.Error("a message though none is enabled")
	}
}

func TestMSIX(t *testing.T) {
	b := newBoard()
	at := b.capability(CapMSIX)
	if v := b.cfg(3, at+msixControl, 2); v != 2 {
		t.Errorf("control is %#x", v)
	}
	if table, pba := b.cfg(3, at+msixTable, 4), b.cfg(3, at+msixPBA, 4); table != 1 || pba != msixPBAStart|1 {
		t.Errorf("table %#x, pending bits %#x", table, pba)
	}
	bar := uint64(b.cfg(3, regBAR+4, 4)) - window.Base
	mem := b.Memory(window)
	put := func(off uint64, v uint32) { mem.WriteMMIO(bar+off, binary.LittleEndian.AppendUint32(nil, v)) }
	get := func(off uint64) uint32 {
		var r [4]byte
		mem.ReadMMIO(bar+off, r[:])
		return binary.LittleEndian.Uint32(r[:])
	}
	if get(entrySize+12) != entryMasked {
		t.Error("entries do not start masked")
	}
	b.setCfg(3, regCommand, 2, cmdMemory|cmdMaster)
	b.setCfg(3, at+msixControl, 2, msixEnable|msixMaskAll)
	mem.WriteMMIO(bar+entrySize, []byte{3, 0x10, 0xe0, 0xfe, 0, 0, 0, 0}) // low bits are reserved
	put(entrySize+8, 0x4041)
	put(entrySize+12, 0)
	b.f.Notify(1)
	if len(b.sent) != 0 || get(msixPBAStart) != 2 {
		t.Error("sent while all are masked, or not remembered")
	}
	b.setCfg(3, at+msixControl, 2, msixEnable)
	if len(b.sent) != 1 || b.sent[0] != (message{0xfee01000, 0x4041}) || get(msixPBAStart) != 0 {
		t.Errorf("sent %+v when unmasked", b.sent)
	}
	put(entrySize+12, 1)
	b.f.Notify(1)
	put(entrySize+12, 0)
	if len(b.sent) != 2 {
		t.Error("not sent when the entry is unmasked")
	}
	b.f.Notify(-1)
	b.f.Notify(3)
	b.f.SetINTx(true)
	if len(b.sent) != 2 || b.lines[Line(3, 1, 4)].Level {
		t.Error("an interrupt that can not be")
	}
}

func TestMSI(t *testing.T) {
	b := newBoard()
	at := b.capability(CapMSI)
	b.setCfg(3, regCommand, 2, cmdMaster)
	b.setCfg(3, at+msiAddress, 4, 0xfee02000)
	b.setCfg(3, at+msiData, 2, 0x4063)
	b.setCfg(3, at+msiControl, 2, 5<<4|msiEnable) // asks for 32, there are 4
	b.f.Notify(2)
	if len(b.sent) != 1 || b.sent[0] != (message{0xfee02000, 0x4062}) {
		t.Errorf("sent %+v", b.sent)
	}
	b.setCfg(3, at+msiMask, 4, 4)
	b.f.Notify(2)
	if v := b.cfg(3, at+msiPending, 4); v != 4 || len(b.sent) != 1 {
		t.Errorf("pending bits %#x while masked", v)
	}
	b.setCfg(3, at+msiMask, 4, 0)
	if len(b.sent) != 2 || b.cfg(3, at+msiPending, 4) != 0 {
		t.Error("not sent when unmasked")
	}
}

type hook struct{ off int }

func (h *hook) ReadConfig(off int, b []byte)  { b[0] = byte(off) }
func (h *hook) WriteConfig(off int, b []byte) { h.off = off }

func TestCapabilityHook(t *testing.T) {
	b := newBoard()
	h := &hook{}
	at := b.f.AddCapability(CapVendor, make([]byte, 18), nil, h)
	if v := b.cfg(3, uint32(at), 1); v != CapVendor || b.capability(CapVendor) != uint32(at) {
		t.Errorf("the capability's ID is %#x", v)
	}
	if v := b.cfg(3, uint32(at+4), 1); v != 4 {
		t.Errorf("byte 4 reads %#x", v)
	}
	b.setCfg(3, uint32(at+16), 4, 0)
	if h.off != 16 {
		t.Errorf("a write went to %d", h.off)
	}
}

func TestResetControlRegister(t *testing.T) {
	b := newBoard()
	b.Out(portReset, 1, 2)
	b.Out(portReset, 1, 6)
	b.Out(portReset, 1, 6)
	if b.resets != 1 || b.In(portReset, 1) != 6 {
		t.Errorf("%d resets", b.resets)
	}
}

func TestResetGivesAddressesAgain(t *testing.T) {
	b := newBoard()
	before := b.cfg(3, regBAR+4, 4)
	b.setCfg(3, regBAR+4, 4, 0xd0000000)
	b.setCfg(3, b.capability(CapMSIX)+msixControl, 2, msixEnable)
	b.f.SetINTx(true)
	b.Host.Reset()
	if v := b.cfg(3, regBAR+4, 4); v != before {
		t.Errorf("BAR 1 is at %#x, was at %#x", v, before)
	}
	if b.f.messages() || b.f.intx || b.cfg(3, regCommand, 2) != cmdIO|cmdMemory {
		t.Error("state survived")
	}
}

func TestImpossibleFunctionsPanic(t *testing.T) {
	for name, build := range map[string]func(*Function){
		"odd size":        func(f *Function) { f.AddBAR(0, BAR{Kind: Memory32, Size: 48, MMIO: &scratch{}}) },
		"too small":       func(f *Function) { f.AddBAR(0, BAR{Kind: Memory32, Size: 8, MMIO: &scratch{}}) },
		"64 bits at last": func(f *Function) { f.AddBAR(5, BAR{Kind: Memory64, Size: 4096, MMIO: &scratch{}}) },
		"no handler":      func(f *Function) { f.AddBAR(0, BAR{Kind: IO, Size: 4}) },
		"too many MSI-X":  func(f *Function) { f.AddMSIX(0, MaxMSIX+1) },
		"full": func(f *Function) {
			for range 10 {
				f.AddCapability(CapVendor, make([]byte, 30), nil, nil)
			}
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			build(NewFunction("x", Identity{}))
		}()
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, z := newBoard(), newBoard()
	at := a.capability(CapMSIX)
	a.setCfg(3, regCommand, 2, cmdMemory|cmdMaster)
	a.setCfg(3, regBAR+4, 4, 0xd0000000)
	a.setCfg(3, at+msixControl, 2, msixEnable|msixMaskAll)
	a.f.Notify(2)
	a.f.SetINTx(true)
	devicetest.RoundTrip(t, a.Host, z.Host)
	devicetest.RoundTrip(t, a.f, z.f)
	var r [4]byte
	z.Memory(window).ReadMMIO(0x10000000+msixPBAStart, r[:])
	if r[0] != 4 {
		t.Errorf("pending bits at the window's new place: % x", r)
	}
	for _, l := range z.lines {
		if l.Edges != 0 {
			t.Error("loading made an edge")
		}
	}
	good := devicetest.Save(a.f)
	devicetest.Refused(t, z.f, good, 4, 0, "another vendor")
	devicetest.Refused(t, z.f, good, 4+regStatus, statusCapabilities, "the pin without its status")
	devicetest.Refused(t, z.f, good, 4+regBAR+4, 1, "a BAR's low bits")
	devicetest.Refused(t, z.f, good, 4+256+2, 4, "four vectors")
	devicetest.Refused(t, z.f, good, 4+256+4, 1, "reserved bits of an address")
	devicetest.Refused(t, z.f, good, len(good)-16, 8, "a vector that does not exist")
	devicetest.Refused(t, z.Host, devicetest.Save(a.Host), 4, 1, "reset control")
}

func BenchmarkMSIX(b *testing.B) {
	m := newBoard()
	m.setCfg(3, regCommand, 2, cmdMemory|cmdMaster)
	m.setCfg(3, m.capability(CapMSIX)+msixControl, 2, msixEnable)
	m.f.msix.entries[0] = msixEntry{address: 0xfee00000, data: 0x4041}
	b.ReportAllocs()
	for b.Loop() {
		m.f.Notify(0)
		m.sent = m.sent[:0]
	}
}
