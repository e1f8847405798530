package vmm

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

// writeAnywhere is what comes of a guest's write to any of its 16 MiB: a fault, unless the page is open.
func writeAnywhere(vm *VM, e *vcpu.Exit) (fault bool) {
	gpa := rand.Uint64N(16<<20) &^ 7
	e.Reason = vcpu.ExitHost
	m, ok := vm.tables.Lookup(gpa)
	if fault = !ok || !m.Writable; fault {
		e.Reason, e.GPA, e.Access, e.Mapped = vcpu.ExitMemory, gpa, vcpu.Write, ok
	}
	return fault
}

// TestTrackingComesAndGoesUnderWriters has two processors write all over memory
// while tracking begins, harvests and ends again and again: every page that a
// fault opened is harvested, and the tables give back what they took.
func TestTrackingComesAndGoesUnderWriters(t *testing.T) {
	var faults atomic.Uint64
	var vm *VM
	r := newRig(func(_ *fakecpu.VCPU, e *vcpu.Exit) error {
		if writeAnywhere(vm, e) {
			faults.Add(1)
		}
		return nil
	})
	vm = r.vm(t, 2)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	for round := range 11 {
		seen := faults.Load() // before: eight faults open all of memory in groups of 512 pages
		if err := vm.BeginTracking(1 << (round % 10)); err != nil {
			t.Fatal(err)
		}
		dirty := make([]uint64, 16<<20/pageSize/64)
		eventually(t, "write faults", func() bool { return faults.Load() > seen+4 })
		vm.Harvest(dirty)
		for p := range uint64(16 << 20 / pageSize) {
			// A page that is open was opened since the harvest, and is
			// recorded, or is about to be: it is opened first.
			open := func() bool {
				m, ok := vm.tables.Lookup(p * pageSize)
				return ok && m.Writable && !vm.Written(p)
			}
			for try := 0; open(); try++ {
				if time.Sleep(time.Millisecond); try == 60000 {
					t.Fatalf("round %d: page %#x is open and not recorded", round, p)
				}
			}
		}
		vm.EndTracking()
		if vm.Status() != Running {
			t.Fatalf("round %d: it is %v", round, vm.Status())
		}
	}
	if err := vm.Stop(gone); err != nil {
		t.Fatal(err)
	}
	if n := vm.tables.Stats().Tables; n > 8 {
		t.Errorf("%d pages of table are left of 16 MiB in large pages", n)
	}
	vm.Delete()
	r.leaks(t)
}

// bystander is memory, and a space, that wait for the guest to do something before they go on.
type bystander struct {
	vcpu.Space
	mem.Allocator
	await func(what string)
}

func (b *bystander) Sync() { b.await("cached translations are flushed"); b.Space.Sync() }

func (b *bystander) Free(x mem.Block) {
	if len(x.Data) == pageSize {
		b.await("a table is freed")
	}
	b.Allocator.Free(x)
}

// What must be done for all of a large guest's memory when a move has failed, or was cancelled, takes a while. The guest goes
// on meanwhile.
func TestAGuestRunsWhileTheTablesOfItsTrackingAreTakenApart(t *testing.T) {
	var exits atomic.Uint64
	var vm *VM
	r := newRig(func(_ *fakecpu.VCPU, e *vcpu.Exit) error {
		writeAnywhere(vm, e)
		exits.Add(1)
		return nil
	})
	b := &bystander{Allocator: r.mem, await: func(string) {}}
	r.Memory = b
	vm = r.vm(t, 1)
	b.Space, vm.space = vm.space, b
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	if err := vm.BeginTracking(1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all of memory is in small pages", func() bool { return vm.tables.Stats().Splits >= 8 })
	met := map[string]bool{}
	b.await = func(what string) {
		met[what] = true
		seen := exits.Load() + 1 // the one under way may be the last
		eventually(t, "the guest goes on as "+what, func() bool { return exits.Load() > seen })
	}
	vm.EndTracking()
	b.await = func(string) {}
	if len(met) != 2 {
		t.Errorf("only %v", met)
	}
	if err := vm.Stop(gone); err != nil {
		t.Fatal(err)
	}
	vm.Delete()
	r.leaks(t)
}
