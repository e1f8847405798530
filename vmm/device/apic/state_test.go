package apic

import (
	"testing"

	"godwit/vmm/device/devicetest"
)

func TestStateRoundTrip(t *testing.T) {
	for _, mode := range []string{"xAPIC", "x2APIC", "TSC deadline", "off"} {
		a, z := newBoard(2), newBoard(2)
		l := a.lapics[1]
		l.mmio(0x35, 0x700)
		l.mmio(regLDR, 0x02<<24)
		l.mmio(regTPR, 0x20)
		a.SetINTR(true)
		switch mode {
		case "off":
			l.WriteMSR(MSRBase, DefaultBase)
		case "x2APIC":
			l.enterX2(t)
		}
		if mode == "TSC deadline" {
			l.mmio(0x32, 2<<17|0xec)
			l.setTSCDeadline(1 << 33)
		} else {
			l.writeLVT(lvtTimer, 1<<17|0xec)
			l.write(regInitial, 5000)
		}
		a.Send(Message{Dest: 1, Vector: 0x71, Level: true})
		l.Acknowledge()
		a.Send(Message{Dest: 1, Vector: 0x31})
		l.postSIPI(9)
		devicetest.RoundTrip(t, l, z.lapics[1])

		m := z.lapics[1]
		if m.Class() != l.Class() || m.CR8() != l.CR8() || m.Events() != l.Events() {
			t.Errorf("%s: behaves otherwise after the move", mode)
		}
		at, on := l.Deadline()
		if at2, on2 := m.Deadline(); at != at2 || on != on2 || on != (z.clock.Armed() == 1) {
			t.Errorf("%s: the timer fires at %d, %v; before the move at %d, %v", mode, at2, on2, at, on)
		}
		if mode != "off" {
			var log eoiLog
			z.AddEOIHandler(&log)
			m.eoi()
			if len(log) != 1 || !z.Send(Message{Dest: 1, Vector: 0x91}) {
				t.Errorf("%s: the moved APIC is not on the bus", mode)
			}
		}
	}
}

func TestHostileStates(t *testing.T) {
	b := newBoard(1)
	l := b.lapics[0]
	good := devicetest.Save(l)
	lvt := 8 + 3*32 + 8*4 + 8
	for _, c := range []struct {
		at  int
		v   byte
		why string
	}{
		{0, 1, "reserved bit in IA32_APIC_BASE"},
		{1, 0x05, "x2APIC mode without enable"},
		{8, 1, "vector 0 requested"},
		{9, 0x80, "vector 15 requested"},
		{8 + 64, 1, "vector 0 in service"},
		{8 + 96, 0x10, "unknown event"},
		{8 + 96 + 4, 4, "third pin"},
		{8 + 96 + 17, 1, "TPR of nine bits"},
		{lvt + 1, 1, "delivery mode in the timer's entry"},
		{len(good) - 1, 0x80, "timer before time began"},
	} {
		devicetest.Refused(t, l, good, c.at, c.v, c.why)
	}
	if err := devicetest.Load(l, good); err != nil {
		t.Error(err)
	}
}
