package vmm

import (
	"context"
	"errors"
	"fmt"

	"godwit/vmm/loader"
	"godwit/vmm/slat"
)

// What a migration needs of a machine. Package migrate says when each is called.

// Regions are the machine's RAM.
func (vm *VM) Regions() []loader.Region { return ramRegions(vm.cfg.Memory) }

// BeginTracking takes the machine for a migration: from its return on every write
// to memory is recorded, and operators' commands are refused until EndTracking or
// Release. A write fault opens group pages.
func (vm *VM) BeginTracking(group int) error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	if vm.Status() != Running {
		return vm.wrong("migrated", "only a running machine can")
	}
	vm.group.Store(uint32(group))
	if err := vm.tables.StartTracking(slat.WriteFaults); err != nil {
		return fmt.Errorf("vm %s: %w", vm.cfg.Name, err)
	}
	vm.space.Sync()
	vm.taken = true
	return nil
}

// SetGroup changes how many pages the write faults to come open.
func (vm *VM) SetGroup(pages int) { vm.group.Store(uint32(pages)) }

// EndTracking gives the machine back to its operator.
func (vm *VM) EndTracking() {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if !vm.taken {
		return
	}
	vm.taken = false
	vm.tables.StopTracking()
	vm.space.Sync()
	// At rest, because a processor that is opening a page for a write fault may be
	// looking at a table that is out of use. The rest takes a tenth of a second for
	// sixteen gigabytes; the guest runs meanwhile.
	var free func()
	vm.atRest(func() { free = vm.tables.Retired() })
	free()
	vm.restartIfOverdue()
}

// Harvest adds the pages written since the last call to dirty and protects them
// again. On its return no processor can write one of them unrecorded, so they can
// be read.
func (vm *VM) Harvest(dirty []uint64) int {
	n := vm.tables.CollectDirty(slat.Bitmap(dirty))
	vm.space.Sync()
	return n
}

// Written tells whether a page has been written since.
func (vm *VM) Written(page uint64) bool { return vm.tables.Dirty(page * pageSize) }

// TrackingStats are slat's counters since the machine was made.
func (vm *VM) TrackingStats() slat.Stats { return vm.tables.Stats() }

// ReadPages copies whole pages from page number first on. The guest's processors may be
// writing them, and the host for it (a reset loads its kernel): what is torn is harvested.
func (vm *VM) ReadPages(first uint64, dst []byte) error {
	gpa, n := first*pageSize, uint64(len(dst))
	for off := uint64(0); off < n; off += pageSize {
		p := vm.ram.page(gpa + off)
		if p == nil {
			return notRAM(gpa, n)
		}
		tornPage(dst[off:off+pageSize], p)
	}
	return nil
}

// WritePages fills a machine that is being built.
func (vm *VM) WritePages(first uint64, src []byte) error {
	return vm.ram.WriteAt(src, first*pageSize)
}

// ZeroPages clears n pages.
func (vm *VM) ZeroPages(first, n uint64) error {
	if n > vm.cfg.Memory/pageSize {
		return notRAM(first*pageSize, n)
	}
	return vm.ram.Zero(first*pageSize, n*pageSize)
}

// ErrEnded is in the error of PauseTaken when the guest ended by itself.
var ErrEnded = errors.New("the guest has ended")

// PauseTaken stops the machine for the migration that has it.
func (vm *VM) PauseTaken(context.Context) error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() != Running {
		return fmt.Errorf("vm %s is %v: %w", vm.cfg.Name, vm.Status(), ErrEnded)
	}
	if err := vm.pause(); err != nil {
		return fmt.Errorf("%w: %w", err, ErrEnded)
	}
	return nil
}

// ResumeTaken undoes PauseTaken.
func (vm *VM) ResumeTaken() {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() == Paused && vm.become(Running) == nil {
		vm.run()
	}
}

// Release frees the machine: another host runs its guest now.
func (vm *VM) Release() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	vm.taken = false
	if vm.Status() == Running {
		vm.halt()
		vm.become(Stopped)
	}
	return vm.delete()
}

// StartLoaded runs a machine that arrived: its guest is this host's from here on.
func (vm *VM) StartLoaded() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() != Arriving || !vm.loaded {
		return vm.wrong("started with a state that came", "only one that has just arrived can")
	}
	vm.become(Running)
	vm.run()
	go vm.tellTSC() // the guest need not wait for a slow console
	return nil
}

// Abandon frees a machine that did not arrive.
func (vm *VM) Abandon() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() != Arriving {
		return vm.wrong("abandoned", "only one that arrives can")
	}
	vm.become(Deleted)
	return vm.free()
}

// DirtyPages is how many pages have been written since the last Harvest.
func (vm *VM) DirtyPages() uint64 { return vm.tables.DirtyPages() }
