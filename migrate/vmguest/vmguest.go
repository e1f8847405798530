// Package vmguest lets package migrate move the machines of package vmm, so that
// neither knows the other.
package vmguest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"godwit/migrate"
	"godwit/vmm"
)

// Find is migrate.Config.Find for the machines of r.
func Find(r *vmm.Registry) func(name string) (migrate.Guest, error) {
	return func(name string) (migrate.Guest, error) {
		vm, err := r.Get(name)
		if err != nil {
			return nil, err
		}
		return &guest{r: r, vm: vm}, nil
	}
}

// guest is a machine that leaves.
type guest struct {
	r  *vmm.Registry
	vm *vmm.VM
	// What vmm has counted before this migration.
	faults, opened uint64
}

func (g *guest) Machine() migrate.Machine {
	return migrate.Machine{Name: g.vm.Name(), Regions: regions(g.vm), Config: g.vm.Spec()}
}

func regions(vm *vmm.VM) (rs []migrate.Region) {
	for _, r := range vm.Regions() {
		rs = append(rs, migrate.Region{Start: r.Start, Size: r.Size})
	}
	return rs
}

func (g *guest) BeginTracking(group int) error {
	s := g.vm.TrackingStats()
	g.faults, g.opened = s.Faults, s.Opened
	return g.vm.BeginTracking(group)
}

func (g *guest) SetGroup(pages int)               { g.vm.SetGroup(pages) }
func (g *guest) EndTracking()                     { g.vm.EndTracking() }
func (g *guest) Harvest(dirty migrate.Bitmap) int { return g.vm.Harvest(dirty) }
func (g *guest) Written(page uint64) bool         { return g.vm.Written(page) }
func (g *guest) Resume()                          { g.vm.ResumeTaken() }
func (g *guest) SaveState(w io.Writer) error      { return g.vm.SaveState(w) }

func (g *guest) Counters() migrate.Counters {
	s := g.vm.TrackingStats()
	return migrate.Counters{Dirty: g.vm.DirtyPages(), Faults: s.Faults - g.faults, Opened: s.Opened - g.opened}
}

// ReadPages reads pages that Machine named; that they are not there is a defect.
func (g *guest) ReadPages(first uint64, dst []byte) { mustRead(g.vm, first, dst) }

func mustRead(vm *vmm.VM, first uint64, dst []byte) {
	if err := vm.ReadPages(first, dst); err != nil {
		panic(fmt.Sprintf("vmguest: page %#x of vm %s: %v", first, vm.Name(), err))
	}
}

func (g *guest) Pause(ctx context.Context) error {
	err := g.vm.PauseTaken(ctx)
	if errors.Is(err, vmm.ErrEnded) {
		return fmt.Errorf("%w: %w", migrate.ErrGuestGone, err)
	}
	return err
}

func (g *guest) Release() {
	g.vm.Release()
	g.r.Forget(g.vm)
}

// Target is migrate.Config.Target for the machines of a Registry.
type Target struct{ Registry *vmm.Registry }

// Prepare builds the empty machine.
func (t *Target) Prepare(_ context.Context, m migrate.Machine) (migrate.Incoming, error) {
	vm, err := t.Registry.Receive(m.Name, m.Config)
	if err != nil {
		return nil, err
	}
	in := &incoming{t: t, vm: vm}
	have := regions(vm)
	same := len(have) == len(m.Regions)
	for i := 0; same && i < len(have); i++ {
		same = have[i] == m.Regions[i]
	}
	if !same {
		in.Abort()
		return nil, fmt.Errorf("vm %s: its memory is said to be at %#x, but its configuration puts it at %#x", m.Name, m.Regions, have)
	}
	return in, nil
}

// incoming is a machine that arrives.
type incoming struct {
	t  *Target
	vm *vmm.VM
}

func (i *incoming) WritePages(first uint64, data []byte) error { return i.vm.WritePages(first, data) }
func (i *incoming) ZeroPages(first, n uint64) error            { return i.vm.ZeroPages(first, n) }
func (i *incoming) ReadPages(first uint64, dst []byte)         { mustRead(i.vm, first, dst) }

func (i *incoming) LoadState(_ context.Context, r io.Reader) error { return i.vm.LoadState(r) }

func (i *incoming) Start() error { return i.vm.StartLoaded() }

func (i *incoming) Abort() {
	i.vm.Abandon()
	i.t.Registry.Forget(i.vm)
}
