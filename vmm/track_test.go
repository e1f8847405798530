package vmm

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

// TestTrackingComesAndGoesUnderWriters has two processors write all over memory
// while tracking begins, harvests and ends again and again: every page that a
// fault opened is harvested, and the tables give back what they took.
func TestTrackingComesAndGoesUnderWriters(t *testing.T) {
	var faults atomic.Uint64
	var vm *VM
	r := newRig(func(v *fakecpu.VCPU, e *vcpu.Exit) error {
		gpa := rand.Uint64N(16<<20) &^ 7
		e.Reason = vcpu.ExitHost
		if m, ok := vm.tables.Lookup(gpa); !ok || !m.Writable {
			e.Reason, e.GPA, e.Access, e.Mapped = vcpu.ExitMemory, gpa, vcpu.Write, ok
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
