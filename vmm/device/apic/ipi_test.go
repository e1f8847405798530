package apic

import "testing"

// taken is the set of processors on which vector is requested, which it ends.
func (b *board) taken(vector uint8) (set int) {
	for i, l := range b.lapics {
		if l.irr.clear(vector) {
			set |= 1 << i
		}
	}
	return set
}

func (l *LAPIC) enterX2(t *testing.T) {
	t.Helper()
	if !l.WriteMSR(MSRBase, l.base|baseX2) {
		t.Fatal("no x2APIC mode")
	}
}

func TestXAPICDestinations(t *testing.T) {
	b := newBoard(4)
	for i, l := range b.lapics {
		l.mmio(regLDR, 1<<i<<24)
	}
	src := b.lapics[1]
	send := func(dest, low uint32) int {
		src.mmio(regICR2, dest<<24)
		src.mmio(regICR, low|0x4055)
		return b.taken(0x55)
	}
	const logical = 1 << 11
	for _, c := range []struct {
		what      string
		dest, low uint32
		want      int
	}{
		{"physical", 2, 0, 0b0100},
		{"physical to itself", 1, 0, 0b0010},
		{"physical, nobody", 9, 0, 0},
		{"physical broadcast", 0xff, 0, 0b1111},
		{"flat", 0b1010, logical, 0b1010},
		{"flat broadcast", 0xff, logical, 0b1111},
		{"self", 0, 1 << 18, 0b0010},
		{"all", 0, 2 << 18, 0b1111},
		{"all but self", 0, 3 << 18, 0b1101},
	} {
		if got := send(c.dest, c.low); got != c.want {
			t.Errorf("%s: delivered to %04b, want %04b", c.what, got, c.want)
		}
	}
	for i, l := range b.lapics { // clusters 0 and 1 with two members each
		l.mmio(regDFR, 0x0fffffff)
		l.mmio(regLDR, uint32(i/2<<4|1<<(i%2))<<24)
	}
	for dest, want := range map[uint32]int{0x01: 0b0001, 0x13: 0b1100, 0x12: 0b1000, 0x23: 0, 0xff: 0b1111, 0xf1: 0b0101} {
		if got := send(dest, logical); got != want {
			t.Errorf("cluster destination %#x: delivered to %04b, want %04b", dest, got, want)
		}
	}
}

func TestX2APICDestinations(t *testing.T) {
	b := newBoard(40)
	for _, l := range b.lapics {
		l.enterX2(t)
	}
	src := b.lapics[3]
	send := func(dest uint64, low uint64) int {
		if !src.WriteMSR(0x830, dest<<32|low|0x4055) {
			t.Fatalf("ICR %#x is refused", dest<<32|low)
		}
		return b.taken(0x55)
	}
	if got := send(33, 0); got != 1<<33 {
		t.Errorf("physical 33: %#x", got)
	}
	if got := send(0xffffffff, 0); got != 1<<40-1 {
		t.Errorf("broadcast: %#x", got)
	}
	// Logical: cluster 2 holds IDs 32 to 47.
	if got := send(2<<16|0b110, 1<<11); got != 0b110<<32 {
		t.Errorf("logical: %#x", got)
	}
	if v, ok := b.lapics[33].ReadMSR(0x80d); !ok || v != 2<<16|1<<1 {
		t.Errorf("LDR of 33 is %#x", v)
	}
	if !src.WriteMSR(0x83f, 0x55) || b.taken(0x55) != 1<<3 {
		t.Error("self IPI did not arrive")
	}
}

func TestLowestPriorityPrefersTheIdleProcessor(t *testing.T) {
	b := newBoard(3)
	b.lapics[0].mmio(regTPR, 0x40)
	b.lapics[1].mmio(regTPR, 0x20)
	b.lapics[2].mmio(regTPR, 0x40)
	m := Message{Dest: Broadcast, Vector: 0x61, Mode: LowestPriority}
	for range 5 {
		b.Send(m)
		if got := b.taken(0x61); got != 0b010 {
			t.Fatalf("delivered to %03b", got)
		}
	}
	b.lapics[1].mmio(regTPR, 0x40)
	seen := 0
	for range 6 {
		b.Send(m)
		seen |= b.taken(0x61)
	}
	if seen != 0b111 {
		t.Errorf("equals do not take turns: %03b", seen)
	}
}

func TestINITAndSIPIStartAProcessor(t *testing.T) {
	b := newBoard(2)
	bsp, ap := b.lapics[0], b.lapics[1]
	ap.mmio(regTPR, 0x30)
	bsp.mmio(regICR2, 1<<24)
	bsp.mmio(regICR, 0xc500) // INIT, assert, level
	bsp.mmio(regICR, 0x8500) // de-assert: nothing
	bsp.mmio(regICR, 0x4608) // SIPI twice
	bsp.mmio(regICR, 0x4609)
	if ap.Events() != EventINIT|EventSIPI || b.wakes[1] == 0 {
		t.Fatalf("events %#x, woken %d times", ap.Events(), b.wakes[1])
	}
	if !ap.TakeINIT() {
		t.Fatal("no INIT")
	}
	ap.ResetINIT()
	if v, ok := ap.TakeSIPI(); !ok || v != 8 {
		t.Errorf("SIPI vector %#x, %v", v, ok)
	}
	if _, ok := ap.TakeSIPI(); ok {
		t.Error("a second SIPI")
	}
	if ap.get(regTPR) != 0 || ap.get(regSVR) != 0xff {
		t.Error("INIT left the registers")
	}
	bsp.mmio(regICR, 0x460a)
	bsp.mmio(regICR, 0xc500) // an INIT takes an earlier SIPI back
	if ap.Events() != EventINIT {
		t.Errorf("events %#x after SIPI, INIT", ap.Events())
	}
	ap.TakeINIT()
	bsp.mmio(regICR, 0x0500) // an edge is one whatever its level
	if !ap.TakeINIT() {
		t.Error("no INIT by an edge")
	}
}

func TestNMIReachesADisabledAPICsProcessorToo(t *testing.T) {
	b := newBoard(2)
	b.lapics[1].mmio(regSVR, 0xff) // software-disabled
	src := b.lapics[0]
	src.mmio(regICR, 3<<18|0x4400)
	if b.lapics[0].Events() != 0 || !b.lapics[1].TakeNMI() || b.lapics[1].TakeNMI() {
		t.Error("NMI to all but self")
	}
	src.mmio(regICR, 3<<18|0x4055)
	if b.taken(0x55) != 0 {
		t.Error("a software-disabled APIC took a fixed interrupt")
	}
}

func TestMSIAddressesAndData(t *testing.T) {
	b := newBoard(4)
	b.lapics[2].mmio(regLDR, 0x04<<24)
	for _, c := range []struct {
		what    string
		address uint64
		want    int
	}{
		{"physical", 0xfee02000, 0b0100},
		{"logical", 0xfee04004, 0b0100},
		{"logical, redirected", 0xfee0400c, 0b0100},
		{"broadcast", 0xfeeff000, 0b1111},
		{"nobody", 0xfee09000, 0},
		{"not an interrupt", 0xfed02000, 0},
		{"above 4 GiB", 0x1fee02000, 0},
	} {
		b.Message(c.address, 0x4055)
		if got := b.taken(0x55); got != c.want {
			t.Errorf("%s: delivered to %04b, want %04b", c.what, got, c.want)
		}
	}
	b.Message(0xfee01000, 0x0400)
	if !b.lapics[1].TakeNMI() {
		t.Error("no NMI by MSI")
	}
}

func TestIllegalVectorsAreReported(t *testing.T) {
	b := newBoard(2)
	src, dst := b.lapics[0], b.lapics[1]
	src.mmio(0x37, 0xfe) // LVT error
	src.mmio(regICR2, 1<<24)
	src.mmio(regICR, 0x400f)
	if b.taken(0xfe) != 1 {
		t.Error("no error interrupt")
	}
	if src.get(regESR) != 0 {
		t.Error("ESR changed before it was written")
	}
	src.mmio(regESR, 0)
	if src.get(regESR) != errSendVector {
		t.Errorf("ESR is %#x", src.get(regESR))
	}
	b.Message(0xfee01000, 0x0003)
	dst.mmio(regESR, 0)
	if dst.get(regESR) != errReceiveVector {
		t.Errorf("receiver's ESR is %#x", dst.get(regESR))
	}
	dst.get(0x3d)
	dst.mmio(regESR, 0)
	if dst.get(regESR) != errRegister {
		t.Errorf("ESR after an illegal register is %#x", dst.get(regESR))
	}
	dst.mmio(regESR, 0)
	if dst.get(regESR) != 0 {
		t.Error("ESR does not clear")
	}
}
