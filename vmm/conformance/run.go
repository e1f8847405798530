package conformance

import (
	"sync"
	"time"

	"godwit/kernel"
	"godwit/vmm/vcpu"
)

// How Run ends when the guest does not.
var runTests = []test{
	{"a deadline ends a guest that spins", everyMode, func(m *machine) {
		for _, flags := range []uint64{2, 0x202} { // IF does not matter
			m.start(gSpin)
			m.cpu.Regs().RFLAGS = flags
			d := soon(2)
			m.cpu.SetDeadline(d)
			m.until(vcpu.ExitDeadline)
			if now := kernel.TSC(); now < d {
				m.fail("%d ticks early", d-now)
			}
			check(m, "RIP", m.ip(), 0)
		}
		m.until(vcpu.ExitDeadline) // it has passed: at once
	}},
	{"a deadline ends a spin of PAUSE", long64, func(m *machine) {
		m.start(gPauseSpin)
		m.cpu.SetDeadline(soon(2))
		for {
			m.must(m.cpu.Run(&m.exit))
			switch m.exit.Reason {
			case vcpu.ExitPause:
				m.skip(2)
			case vcpu.ExitDeadline:
				return
			default:
				m.fail("exit %v", m.exit.Reason)
			}
		}
	}},
	{"a kick before Run is not lost", long64, func(m *machine) {
		m.start(gHLT)
		m.cpu.Kick()
		m.cpu.Kick()
		m.want(vcpu.ExitKicked)
		m.hlt()
	}},
	{"a kick ends a guest that spins", everyMode, func(m *machine) {
		for range 20 {
			m.start(gSpin)
			var wg sync.WaitGroup
			wg.Go(func() {
				time.Sleep(time.Millisecond)
				m.cpu.Kick()
			})
			m.cpu.SetDeadline(soon(patience))
			m.until(vcpu.ExitKicked)
			wg.Wait()
		}
	}},
	{"Sync drives stale translations out of a running guest", long64, func(m *machine) {
		if kernel.NumCPU() < 2 {
			panic(skip{"needs two CPUs"})
		}
		m.start(gStoreSpin)
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt
		done := make(chan vcpu.Exit)
		var err error
		m.cpu.SetDeadline(soon(patience))
		go func() {
			err = m.cpu.Run(&m.exit)
			done <- m.exit
		}()
		for m.get32(dataAt) == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		unmapped := m.tables.Unmap(dataAt, 4096)
		m.space.Sync()
		// From here on no write may arrive.
		before := m.get32(dataAt)
		time.Sleep(2 * time.Millisecond)
		after := m.get32(dataAt)
		e := <-done
		m.must(err)
		m.must(unmapped)
		check(m, "exit", e.Reason, vcpu.ExitMemory)
		check(m, "the counter after Sync", after, before)
	}},
	{"entries and exits are counted", long64, func(m *machine) {
		m.start(gHLT)
		m.hlt()
		m.hlt()
		s := m.cpu.Stats()
		check(m, "hlt exits", s.Exits[vcpu.ExitHLT], 2)
		if s.Entries < 2 {
			m.fail("%d entries", s.Entries)
		}
	}},
}

// until runs until an exit, host interrupts aside, without a deadline of its own.
func (m *machine) until(r vcpu.Reason) {
	for {
		m.must(m.cpu.Run(&m.exit))
		if m.exit.Reason != vcpu.ExitHost {
			break
		}
	}
	check(m, "exit", m.exit.Reason, r)
}
