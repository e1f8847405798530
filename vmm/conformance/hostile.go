package conformance

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"godwit/kernel"
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// Guests that mean harm, or work hard. The host must go on.
var hostileTests = []test{
	{"random code", everyMode, func(m *machine) {
		rnd := rand.New(rand.NewPCG(uint64(m.mode), 1))
		for range 100 {
			m.startWith(gHLT, func(s *vcpu.State) {
				for i := range 256 {
					m.ram[codeAt+i] = byte(rnd.Uint32())
				}
				for i := range s.Regs.GPR {
					s.Regs.GPR[i] = uint64(rnd.Uint32N(ramSize))
				}
				s.Regs.RFLAGS = uint64(rnd.Uint32())&0x254dd5&^(1<<17) | 2 // not VM86; bit 1 is always set
			})
			m.survive(20)
		}
	}},
	{"random page tables", everyMode, func(m *machine) {
		if m.mode <= flat32 {
			return // there are none
		}
		rnd := rand.New(rand.NewPCG(uint64(m.mode), 2))
		for range 100 {
			m.startWith(gTouchAll, func(s *vcpu.State) {
				end := uint64(pdptPAE + 32)
				if m.mode == pae32 {
					end = pdptPAE // its entries are part of the state, which would be refused
				}
				for at := uint64(pml4At); at < end; at += 8 {
					switch rnd.IntN(8) {
					case 0:
						m.put64(at, rnd.Uint64())
					case 1: // itself, and what is beside it
						m.put64(at, pml4At+uint64(rnd.IntN(5))<<12|uint64(rnd.IntN(256)))
					}
				}
				s.Regs.GPR[vcpu.RBX], s.Regs.GPR[vcpu.RCX] = uint64(rnd.Uint32()), 50
			})
			m.survive(20)
		}
	}},
	{"a triple fault in every mode leaves the machine usable", everyMode, func(m *machine) {
		for range 50 {
			m.startWith(gUD2, func(s *vcpu.State) { s.Reg[vcpu.IDTLimit] = 0 })
			m.want(vcpu.ExitShutdown)
			m.start(gHLT)
			m.hlt()
		}
	}},
	{"a storm of kicks", long64, func(m *machine) {
		m.start(gLoopCPUID)
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				m.cpu.Kick()
				time.Sleep(time.Microsecond)
			}
		})
		kicked, cpuid := 0, 0
		m.cpu.SetDeadline(soon(patience))
		for kicked < 200 || cpuid < 2000 {
			m.must(m.cpu.Run(&m.exit))
			switch m.exit.Reason {
			case vcpu.ExitKicked:
				kicked++
			case vcpu.ExitCPUID:
				cpuid++
				check(m, "RIP", m.ip(), 0)
				m.skip(2)
			case vcpu.ExitHost:
			default:
				stop.Store(true)
				m.fail("exit %v after %d kicks, %d CPUIDs", m.exit.Reason, kicked, cpuid)
			}
		}
		stop.Store(true)
		wg.Wait()
	}},
	{"two processors write while their memory is copied", long64, func(m *machine) {
		if kernel.NumCPU() < 2 {
			panic(skip{"needs two CPUs"})
		}
		copyWhileWriting(m, slat.WriteFaults)
		if m.b.Capabilities().AccessedDirty {
			copyWhileWriting(m, slat.DirtyBits)
		}
	}},
	{"two processors, and one changes the other's code", long64, func(m *machine) {
		if kernel.NumCPU() < 2 {
			panic(skip{"needs two CPUs"})
		}
		changeCode(m)
	}},
}

// survive runs whatever is in guest memory for a bounded time, and plays a VMM that
// knows nothing. Every way a Run can end is right but one: to hang.
func (m *machine) survive(exits int) {
	m.cpu.SetDeadline(soon(3))
	for range exits {
		if m.cpu.Run(&m.exit) != nil {
			return // an entry check failed: this guest is stopped
		}
		switch m.exit.Reason {
		case vcpu.ExitHost, vcpu.ExitInterruptWindow:
		case vcpu.ExitCPUID, vcpu.ExitWBINVD, vcpu.ExitPause, vcpu.ExitIO, vcpu.ExitHypercall:
			m.cpu.Skip(max(m.exit.Len, 1))
		case vcpu.ExitRDMSR, vcpu.ExitWRMSR, vcpu.ExitXSETBV:
			if !m.cpu.Pending().Valid {
				m.inject(vcpu.GP())
			}
		case vcpu.ExitMonitor, vcpu.ExitOther:
			if !m.cpu.Pending().Valid {
				m.inject(vcpu.UD())
			}
		case vcpu.ExitInternal:
			m.fail("exit %v: code %#x", m.exit.Reason, m.exit.Value)
		default: // halted, shut down, at a device, out of time
			return
		}
	}
}

// changeCode has one VCPU put an INT3 into the loop of another and take it away again,
// as Linux does when it changes its code: the other must always come past it.
func changeCode(m *machine) {
	const (
		codeOf2 = codeAt + 0x800
		stop    = dataAt + 0x1000
	)
	other, err := m.newCPU(1)
	m.must(err)
	defer func() { m.must(other.Close()) }()
	s := m.prepare(gPatch)
	copy(m.ram[codeOf2:], gPatched.bytes())
	m.handler(vcpu.VecBP, gRetry64)
	m.put64(dataAt, 0)
	m.put64(stop, 0)
	s.Regs.GPR[vcpu.RBX], s.Regs.GPR[vcpu.RSI], s.Regs.GPR[vcpu.RDI] = dataAt, codeOf2, stop
	m.must(m.cpu.Load(s))
	s.Regs.RIP = codeOf2
	m.must(other.Load(s))

	time.AfterFunc(500*time.Millisecond, func() { m.put64(stop, 1) })
	var wg sync.WaitGroup
	errs := make([]error, 2)
	last := make([]vcpu.Reason, 2)
	for i, cpu := range []vcpu.VCPU{m.cpu, other} {
		cpu.SetDeadline(soon(patience))
		wg.Go(func() {
			var e vcpu.Exit
			for errs[i] == nil && last[i] <= vcpu.ExitHost {
				errs[i] = cpu.Run(&e)
				last[i] = e.Reason
			}
		})
	}
	wg.Wait()
	for i := range errs {
		m.must(errs[i])
	}
	if last[0] != vcpu.ExitHLT || last[1] != vcpu.ExitHLT {
		m.fail("after %d changes, %d rounds and %d INT3 the exits are %v at RIP %#x, and %v at %#x", m.reg(vcpu.RCX), m.get64(dataAt),
			other.Regs().GPR[vcpu.RBP], last[0], m.cpu.Regs().RIP, last[1], other.Regs().RIP)
	}
}

// copyWhileWriting is a migration's memory phase without the network: two VCPUs
// count, their memory is copied in rounds, and in the end the copy is the memory.
func copyWhileWriting(m *machine, mode slat.Mode) {
	const (
		size  = 1 << 20
		loops = 20000
	)
	other, err := m.newCPU(1)
	m.must(err)
	defer func() { m.must(other.Close()) }()
	clear(m.ram[dataAt : dataAt+size])
	s := m.prepare(gLockInc)
	s.Regs.GPR[vcpu.RBX], s.Regs.GPR[vcpu.RSI], s.Regs.GPR[vcpu.RDX] = dataAt, dataAt, size-1
	s.Regs.GPR[vcpu.RCX] = loops
	m.must(m.cpu.Load(s))
	m.must(other.Load(s))

	m.must(m.tables.StartTracking(mode))
	m.space.Sync()
	var running atomic.Int32
	running.Store(2)
	errs := make([]error, 2)
	last := make([]vcpu.Reason, 2)
	for i, cpu := range []vcpu.VCPU{m.cpu, other} {
		cpu.SetDeadline(soon(patience))
		go func() {
			defer running.Add(-1)
			var e vcpu.Exit
			for errs[i] == nil {
				errs[i] = cpu.Run(&e)
				last[i] = e.Reason
				switch e.Reason {
				case vcpu.ExitHost:
				case vcpu.ExitMemory:
					m.tables.WriteFault(e.GPA, 4)
				default:
					return
				}
			}
		}()
	}
	copied := make([]byte, size)
	dirty := slat.NewBitmap(m.tables.Limit())
	round := func() {
		clear(dirty)
		m.tables.CollectDirty(dirty)
		m.space.Sync()
		for gfn, ok := dirty.Next(dataAt / 4096); ok && gfn < (dataAt+size)/4096; gfn, ok = dirty.Next(gfn + 1) {
			copy(copied[gfn*4096-dataAt:][:4096], m.ram[gfn*4096:][:4096])
		}
	}
	for running.Load() > 0 {
		round()
		time.Sleep(200 * time.Microsecond)
	}
	round()
	m.tables.StopTracking()
	m.space.Sync()
	for i := range errs {
		m.must(errs[i])
		check(m, "exit", last[i], vcpu.ExitHLT)
	}
	if !bytes.Equal(copied, m.ram[dataAt:][:size]) {
		for at := uint64(0); at < size; at += 4 {
			if x := binary.LittleEndian.Uint32(copied[at:]); x != m.get32(dataAt+at) {
				m.fail("mode %d: at %#x the copy has %d, the guest %d", mode, at, x, m.get32(dataAt+at))
			}
		}
	}
	sum := uint64(0)
	for at := uint64(0); at < size; at += 4096 {
		sum += uint64(m.get32(dataAt + at))
	}
	check(m, "increments", sum, 2*2*loops)
}
