package apic

import "testing"

// One fixed interrupt from the bus to its EOI.
func BenchmarkDeliverAcceptEOI(b *testing.B) {
	l := newBoard(4).lapics[1]
	b.ReportAllocs()
	for b.Loop() {
		l.bus.Send(Message{Dest: 1, Vector: 0x55})
		l.Acknowledge()
		l.mmio(regEOI, 0)
	}
}

func BenchmarkEOI(b *testing.B) {
	l := newBoard(1).lapics[0]
	b.ReportAllocs()
	for b.Loop() {
		l.Accept(0x55)
		l.WriteMMIO(0xb0, []byte{0, 0, 0, 0})
	}
}

func BenchmarkClassWhenIdle(b *testing.B) {
	l := newBoard(1).lapics[0]
	b.ReportAllocs()
	for b.Loop() {
		l.Class()
	}
}

func BenchmarkX2APICIPI(b *testing.B) {
	board := newBoard(64)
	for _, l := range board.lapics {
		l.WriteMSR(MSRBase, l.base|baseX2)
	}
	b.ReportAllocs()
	for b.Loop() {
		board.lapics[0].WriteMSR(0x830, 63<<32|0x4055)
		board.lapics[63].irr.clear(0x55)
	}
}

// All processors post to one another at once: there is no shared lock to wait for.
func BenchmarkParallelIPIs(b *testing.B) {
	board := newBoard(8)
	for _, l := range board.lapics {
		l.cfg.Wake = func() {}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for v := uint8(0); pb.Next(); v++ {
			board.Send(Message{Dest: uint32(v) & 7, Vector: 0x20 + v&0x7f})
		}
	})
}

func BenchmarkTSCDeadline(b *testing.B) {
	l := newBoard(1).lapics[0]
	l.mmio(0x32, 2<<17|0xec)
	b.ReportAllocs()
	for b.Loop() {
		l.WriteMSR(MSRTSCDeadline, 1<<50)
	}
}
