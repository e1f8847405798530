package vmm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"godwit/vmm/cpuid"
	"godwit/vmm/device/apic"
	"godwit/vmm/emulate"
	"godwit/vmm/mem"
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A Host is what machines need of the host they run on.
type Host struct {
	Backend   vcpu.Backend
	Memory    mem.Allocator
	CPU       *cpuid.HostCPU
	TSC       func() uint64
	TSCHz     uint64
	WallClock func() time.Time
	Log       func(line string) // tells the operator; nil: no one
	Quiet     bool              // do not tell of unknown MSRs
	// File opens a file by the name a Config has for it; it serves machines
	// that came by migration and boot anew. It may be nil.
	File Opener
	// After is time.AfterFunc, and returns its timer's Stop; nil: that.
	After func(d time.Duration, f func()) (stop func() bool)
}

// A VM is one virtual machine.
type VM struct {
	host  *Host
	cfg   Config
	files Files     // Kernel nil: elsewhere, see files.go
	sums  []fileSum // of files; nil: not computed yet
	model *cpuid.Model

	controls         x86.Controls // of the model, as what follows
	archCapabilities uint64

	pace   atomic.Pointer[pace] // of the counter: see tsc.go
	tsc    atomic.Pointer[TSCInfo]
	cpuid  *cpuid.Table
	ram    *ram
	tables *slat.Tables
	space  vcpu.Space
	bus    *bus
	cpus   []*cpu
	platform

	sumOnce sync.Once

	status atomic.Uint32 // a Status
	asked  atomic.Uint32 // a request of the guest's own, see ask
	group  atomic.Uint32 // pages that a write fault opens
	events events
	health health

	// ctl is held by whoever changes what the machine does. It guards the rest.
	ctl       sync.Mutex
	loops     sync.WaitGroup // processors that run
	base      timeBase       // of the last resume; the processors read it
	offset    int64          // machine's clock less vm.now, while it runs
	stoppedAt uint64         // counter at which the guest's counters stand
	wall      atomic.Uint32  // version of the wall clock page
	taken     bool           // by a migration that leaves
	loaded    bool           // LoadState has been there
	started   time.Time
	restart   restart
	fetch     *fetch // while Booting
}

// New makes a machine and reserves all that it needs. It does not run.
func New(h *Host, cfg Config, files Files) (*VM, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	model, err := h.CPU.Find(cfg.Model)
	if err != nil {
		return nil, fmt.Errorf("vm %s: %w", cfg.Name, err)
	}
	vm, err := build(h, cfg, files, model)
	if err != nil {
		return nil, fmt.Errorf("vm %s: %w", cfg.Name, err)
	}
	return vm, nil
}

func build(h *Host, cfg Config, files Files, model *cpuid.Model) (_ *VM, err error) {
	cfg.Model = model.Name
	vm := &VM{host: h, cfg: cfg, files: files, model: model, bus: newBus()}
	vm.events.told = map[uint64]bool{}
	vm.group.Store(1)
	defer func() {
		if err != nil {
			vm.free()
		}
	}()
	caps := h.Backend.Capabilities()
	if end := ramEnd(cfg.Memory); end > 1<<model.PhysBits || end > pciMemory64.Base {
		return nil, fmt.Errorf("%d GiB of memory are more than CPU model %s addresses", cfg.Memory>>30, model.Name)
	}
	vm.cpuid = h.CPU.New(model, cfg.CPUs)
	if vm.tables, err = slat.For(h.Backend, h.Memory, ramEnd(cfg.Memory)); err != nil {
		return nil, err
	}
	if vm.ram, err = newRAM(h.Memory, cfg.Memory, caps.Page1G); err != nil {
		return nil, err
	}
	vm.ram.tables = vm.tables
	policy := model.Policy()
	vm.controls, vm.archCapabilities = policy.Controls, model.ArchCapabilities()
	if vm.space, err = h.Backend.NewSpace(vcpu.SpaceConfig{Name: cfg.Name, Tables: vm.tables, CPUID: policy}); err != nil {
		return nil, err
	}
	if err = vm.newPlatform(); err != nil {
		return nil, err
	}
	for i := range cfg.CPUs {
		c := &cpu{vm: vm, index: i}
		if c.v, err = vm.space.NewVCPU(i); err != nil {
			return nil, fmt.Errorf("CPU %d: %w", i, err)
		}
		vm.cpus = append(vm.cpus, c)
		c.regs = c.v.Regs()
		c.em = emulate.New(c.v, cpuBus{c})
		c.msrs.reset()
		c.lapic = vm.apics.Add(apic.Config{
			BSP: i == 0, Clock: vm.clock, PhysBits: uint(model.PhysBits), PollTimer: true,
			Wake: func() { c.notify(reqLook) },
		})
		vm.devices = append(vm.devices, c.lapic)
	}
	if err = vm.setTSC(h.TSCHz); err != nil {
		return nil, err
	}
	return vm, nil
}

// free gives everything back. No processor runs.
func (vm *VM) free() error {
	var errs []error
	if vm.clock != nil {
		vm.clock.Close()
	}
	for _, c := range vm.cpus {
		errs = append(errs, c.v.Close())
	}
	if vm.space != nil {
		errs = append(errs, vm.space.Close())
	}
	if vm.tables != nil {
		errs = append(errs, vm.tables.Close())
	}
	if vm.ram != nil {
		vm.ram.free()
	}
	return errors.Join(errs...)
}

// Name is the machine's.
func (vm *VM) Name() string { return vm.cfg.Name }

// Config is what the machine was made of.
func (vm *VM) Config() Config { return vm.cfg }
