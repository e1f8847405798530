package device_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"godwit/vmm/device/apic"
	"godwit/vmm/device/devicetest"
	"godwit/vmm/device/vclock"
	"godwit/vmm/state"
)

// script turns bytes into what a hostile guest, and a hostile state, can do.
type script []byte

func (s *script) u8() (v uint8) {
	if len(*s) > 0 {
		v, *s = (*s)[0], (*s)[1:]
	}
	return v
}

func (s *script) u16() uint16 { return uint16(s.u8()) | uint16(s.u8())<<8 }
func (s *script) u32() uint32 { return uint32(s.u16()) | uint32(s.u16())<<16 }
func (s *script) u64() uint64 { return uint64(s.u32()) | uint64(s.u32())<<32 }

func (s *script) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = s.u8()
	}
	return b
}

// msrs that reach a local APIC.
func (s *script) msr() uint32 {
	switch v := s.u8(); v {
	case 0:
		return apic.MSRBase
	case 1:
		return apic.MSRTSCDeadline
	default:
		return apic.MSRX2First + uint32(v)
	}
}

// step does one thing. advance moves time.
func (b *board) step(s *script, advance func(int64)) {
	op := s.u8()
	switch op % 12 {
	case 0, 1:
		p := b.ports[int(s.u8())%len(b.ports)]
		size := 1 << (s.u8() % 3)
		port := p.base + s.u16()%p.n
		if op%12 == 0 {
			p.dev.Out(port, size, s.u32())
		} else if v := p.dev.In(port, size); size < 4 && v>>(8*size) != 0 {
			panic("a port read returns more than was asked for")
		}
	case 2, 3:
		w := b.windows[int(s.u8())%len(b.windows)]
		n := 1 << (s.u8() % 4)
		off := s.u64() % (w.size - uint64(n) + 1)
		if op%12 == 2 {
			w.dev.WriteMMIO(off, s.bytes(n))
		} else {
			w.dev.ReadMMIO(off, make([]byte, n))
		}
	case 4, 5:
		l := b.bus.LAPICs()[int(s.u8())%len(b.bus.LAPICs())]
		if msr := s.msr(); op%12 == 4 {
			l.WriteMSR(msr, s.u64())
		} else {
			l.ReadMSR(msr)
		}
	case 6:
		advance(int64(s.u32() % 20e6))
	case 7:
		b.lines[int(s.u8())%len(b.lines)].Set(s.u8()&1 != 0)
	case 8:
		b.uart.Input(s.bytes(int(s.u8())))
		b.nic.Notify(int(s.u8()))
		b.nic.SetINTx(s.u8()&1 != 0)
		b.bus.Message(uint64(0xfee00000|s.u32()&0xfffff), s.u32())
	case 9: // what a VCPU's loop does
		l := b.bus.LAPICs()[int(s.u8())%len(b.bus.LAPICs())]
		if l.TakeINIT() {
			l.ResetINIT()
		}
		l.TakeSIPI()
		l.TakeNMI()
		if l.Class() != 0 && l.Deliverable() {
			l.Acknowledge()
		}
		l.SetCR8(l.CR8() ^ uint64(s.u8()&15))
	case 10:
		d := b.devices[int(s.u8())%len(b.devices)]
		switch s.u8() % 4 {
		case 0:
			d.Reset()
		case 1:
			devicetest.Load(d, s.bytes(int(s.u8())))
		default: // a good state with some bytes changed
			p := devicetest.Save(d)
			for range s.u8() % 8 {
				if len(p) > 0 {
					p[int(s.u16())%len(p)] = s.u8()
				}
			}
			if devicetest.Load(d, p) != nil {
				// Only fit for Reset now.
				d.Reset()
			}
		}
	case 11:
		b.pm.PressPower()
		b.bus.NMI()
	}
}

// FuzzDevices: no guest and no state makes a device panic or hang, and whatever a
// device has become, another instance takes its state and has the same one then.
func FuzzDevices(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		seed := make([]byte, 400)
		for i := range seed {
			seed[i] = byte(rng.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		clock := &vclock.Fake{}
		b := newBoard(clock, 3)
		s := script(input[:min(len(input), 4096)])
		for len(s) > 0 {
			b.step(&s, clock.Advance)
		}
		var later vclock.Fake
		later.Advance(clock.Now())
		z := newBoard(&later, 3)
		for i, d := range b.devices {
			p := devicetest.Save(d)
			if len(p) > state.MaxSection {
				t.Errorf("%s: a state of %d bytes", d.StateName(), len(p))
			}
			if err := devicetest.Load(z.devices[i], p); err != nil {
				t.Errorf("its own state is refused: %v", err)
			} else if got := devicetest.Save(z.devices[i]); !bytes.Equal(got, p) {
				t.Errorf("%s: saved\n% x\nafter loading that\n% x", d.StateName(), p, got)
			}
		}
		later.Advance(1e6)
	})
}

// Several processors' and timers' goroutines at once: neither deadlock nor, under
// the race detector, a race. A local APIC is its own processor's.
func TestDevicesAreSafeToShare(t *testing.T) {
	clock := vclock.New(nil)
	b := newBoard(clock, 2)
	lapics := b.windows[:2]
	b.windows = b.windows[2:]
	clock.Resume()
	var wg sync.WaitGroup
	stop := time.Now().Add(100 * time.Millisecond)
	for cpu := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(cpu)))
			l := b.bus.LAPICs()[cpu]
			var buf [64]byte
			for time.Now().Before(stop) {
				for i := 0; i < len(buf); i += 8 {
					binary.LittleEndian.PutUint64(buf[i:], rng.Uint64())
				}
				s := script(buf[1:])
				if buf[0]&1 != 0 {
					lapics[cpu].dev.WriteMMIO(uint64(buf[1])<<4, buf[4:8])
					l.WriteMSR(s.msr(), s.u64())
					l.SetCR8(0)
					if l.Class() != 0 && l.Deliverable() {
						l.Acknowledge()
					}
					continue
				}
				if op := buf[1] % 12; op == 4 || op == 5 || op == 9 || op == 10 {
					continue // those are one processor's, or need a machine at rest
				}
				b.step(&s, func(int64) {})
			}
		})
	}
	for time.Now().Before(stop) {
		clock.Pause()
		clock.Resume()
		time.Sleep(5 * time.Millisecond)
	}
	wg.Wait()
	clock.Close()
}
