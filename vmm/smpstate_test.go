package vmm

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

// seen is what the second processor does once it runs.
type seen struct {
	mu       sync.Mutex
	entries  int
	start    uint64 // CS.Base + RIP at the first entry
	injected []vcpu.Event
	nmiAsked bool
}

// observer executes until it is kicked; the second processor notes what it sees.
func observer(s *seen) fakecpu.Program {
	return func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		if v.Index == 1 {
			s.mu.Lock()
			if s.entries == 0 {
				s.start = v.Segment(vcpu.CS).Base + v.Regs().RIP
			}
			s.entries++
			s.injected = append(s.injected, v.Injected...)
			v.Injected = nil
			_, nmi := v.Wanted()
			s.nmiAsked = s.nmiAsked || nmi
			s.mu.Unlock()
		}
		e.Reason = vcpu.ExitHost
		switch class, _ := v.Wanted(); {
		case class != 0 && v.CanInterrupt():
			v.WantInterrupt(0)
			e.Reason = vcpu.ExitInterruptWindow
		case v.Block(time.Millisecond):
			e.Reason = vcpu.ExitKicked
		}
		return nil
	}
}

// Every state that the second of two processors can be in, with what may be on its way
// to it, moves: the other machine saves the same, and goes on as the first would have.
func TestEveryStateOfASecondProcessorMoves(t *testing.T) {
	const interruptible = 1 << 9
	icr := func(v uint64) func(t *testing.T, vm *VM) {
		return func(t *testing.T, vm *VM) {
			if !vm.cpus[0].writeMSR(x2ICR, 1<<32|v) {
				t.Fatal("ICR refused")
			}
		}
	}
	set := func(a vcpu.Activity, flags uint64) func(*testing.T, *VM) {
		return func(t *testing.T, vm *VM) {
			vm.cpus[1].activity = a
			vm.cpus[1].regs.RFLAGS = 2 | flags
		}
	}
	state := func(change func(s *vcpu.State)) func(*testing.T, *VM) {
		return func(t *testing.T, vm *VM) {
			var s vcpu.State
			vm.cpus[1].v.Save(&s)
			change(&s)
			if err := vm.cpus[1].v.Load(&s); err != nil {
				t.Fatal(err)
			}
		}
	}
	fixed := vcpu.Event{Valid: true, Vector: 0x55}
	nmi := vcpu.Event{Valid: true, Type: vcpu.EventNMI, Vector: 2}
	const never = ^uint64(0)
	for _, c := range []struct {
		name  string
		steps []func(*testing.T, *VM)
		start uint64 // never: it must not run
		want  []vcpu.Event
		asks  bool // for an NMI window
	}{
		{"waits for SIPI", nil, never, nil, false},
		{"waits for SIPI, an interrupt and an NMI are no SIPI", []func(*testing.T, *VM){icr(0x4055), icr(0x4400)}, never, nil, false},
		{"a SIPI is on its way", []func(*testing.T, *VM){icr(0x469a)}, 0x9a000, nil, false},
		{"an INIT is on its way to one that runs", []func(*testing.T, *VM){set(vcpu.Running, interruptible), icr(0x4500)}, never, nil, false},
		{"INIT and SIPI are on their way to one that runs", []func(*testing.T, *VM){set(vcpu.Running, interruptible), icr(0x4500), icr(0x4677)}, 0x77000, nil, false},
		{"halted", []func(*testing.T, *VM){set(vcpu.Halted, interruptible)}, never, nil, false},
		{"halted for good", []func(*testing.T, *VM){set(vcpu.Halted, 0), icr(0x4055)}, never, nil, false},
		{"halted, an interrupt is on its way", []func(*testing.T, *VM){set(vcpu.Halted, interruptible), icr(0x4055)}, 0xfffffff0, []vcpu.Event{fixed}, false},
		{"halted for good, an NMI is on its way", []func(*testing.T, *VM){set(vcpu.Halted, 0), icr(0x4400)}, 0xfffffff0, []vcpu.Event{nmi}, false},
		{"runs, two interrupts are on their way", []func(*testing.T, *VM){set(vcpu.Running, interruptible), icr(0x4045), icr(0x4055)}, 0xfffffff0,
			[]vcpu.Event{fixed}, false}, // the other waits for its EOI
		{"runs with interrupts off", []func(*testing.T, *VM){set(vcpu.Running, 0), icr(0x4055)}, 0xfffffff0, nil, false},
		{"runs in an NMI handler, another is on its way", []func(*testing.T, *VM){set(vcpu.Running, 0), state(func(s *vcpu.State) { s.NMIBlock = true }), icr(0x4400)},
			0xfffffff0, nil, true},
		{"an event is queued, another on its way", []func(*testing.T, *VM){set(vcpu.Running, interruptible), icr(0x4055), state(func(s *vcpu.State) {
			s.Regs.RFLAGS |= interruptible
			s.Pending = vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, Error: 4, CR2: 0x1234}
		})}, 0xfffffff0, []vcpu.Event{{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecPF, HasError: true, Error: 4, CR2: 0x1234}, fixed}, false},
		{"in the shadow of STI", []func(*testing.T, *VM){set(vcpu.Running, interruptible), icr(0x4055), state(func(s *vcpu.State) {
			s.Regs.RFLAGS |= interruptible
			s.STI = true
		})}, 0xfffffff0, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first, second seen
			r := newRig(observer(&first))
			from := r.vm(t, 2)
			from.Start()
			if err := from.Pause(); err != nil {
				t.Fatal(err)
			}
			for _, x := range from.cpus {
				if !x.writeMSR(apicBase, x2On|uint64(1-min(x.index, 1))<<8) || !x.writeMSR(x2SVR, 0x1ff) {
					t.Fatal("no x2APIC")
				}
			}
			for _, f := range c.steps {
				f(t, from)
			}
			var saved, again bytes.Buffer
			if err := from.SaveState(&saved); err != nil {
				t.Fatal(err)
			}
			q := newRig(observer(&second))
			to, err := NewFromSpec(q.Host, from.Spec())
			if err != nil {
				t.Fatal(err)
			}
			if err := to.LoadState(bytes.NewReader(saved.Bytes())); err != nil {
				t.Fatal(err)
			}
			if err := to.SaveState(&again); err != nil || !bytes.Equal(saved.Bytes(), again.Bytes()) {
				t.Errorf("saved again it differs (%v)", err)
			}
			if err := to.StartLoaded(); err != nil {
				t.Fatal(err)
			}
			look := func(f func(s *seen) bool) bool {
				second.mu.Lock()
				defer second.mu.Unlock()
				return f(&second)
			}
			if c.start == never {
				time.Sleep(20 * time.Millisecond)
				if look(func(s *seen) bool { return s.entries != 0 }) {
					t.Errorf("it runs, at %#x", second.start)
				}
			} else {
				eventually(t, "it runs", func() bool { return look(func(s *seen) bool { return s.entries > 3 }) })
				if second.start != c.start {
					t.Errorf("it goes on at %#x, want %#x", second.start, c.start)
				}
				if c.asks && !look(func(s *seen) bool { return s.nmiAsked }) {
					t.Error("nobody waits for the NMI's window")
				}
				for i, want := range c.want {
					eventually(t, "an event", func() bool { return look(func(s *seen) bool { return len(s.injected) > i }) })
					if got := second.injected[i]; got != want {
						t.Errorf("event %d is %+v, want %+v", i, got, want)
					}
				}
				if look(func(s *seen) bool { return len(s.injected) > len(c.want) }) {
					t.Errorf("more events: %+v", second.injected)
				}
			}
			from.Stop(gone)
			from.Delete()
			to.Stop(gone)
			to.Delete()
			r.leaks(t)
			q.leaks(t)
		})
	}
}
