package vmm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A Registry is the machines of a host, by name.
type Registry struct {
	host *Host

	mu  sync.Mutex
	vms map[string]*VM // nil: being created
}

// NewRegistry makes an empty one.
func NewRegistry(h *Host) *Registry { return &Registry{host: h, vms: map[string]*VM{}} }

// Host is the host the machines run on.
func (r *Registry) Host() *Host { return r.host }

// reserve keeps a name while its machine is made.
func (r *Registry) reserve(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.vms[name]; taken {
		return fmt.Errorf("vm %s exists already: vm delete %s, or use another name", name, name)
	}
	r.vms[name] = nil
	return nil
}

// settle ends a reservation: vm nil gives the name free.
func (r *Registry) settle(name string, vm *VM) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if vm == nil {
		delete(r.vms, name)
	} else {
		r.vms[name] = vm
	}
}

// Create makes a machine and reserves its memory.
func (r *Registry) Create(cfg Config, files Files) (*VM, error) {
	if err := r.reserve(cfg.Name); err != nil {
		return nil, err
	}
	vm, err := New(r.host, cfg, files)
	r.settle(cfg.Name, vm)
	return vm, err
}

// Receive makes the empty machine that another host describes.
func (r *Registry) Receive(name string, spec []byte) (*VM, error) {
	if err := r.reserve(name); err != nil {
		return nil, err
	}
	vm, err := NewFromSpec(r.host, spec)
	if err == nil && vm.Name() != name {
		vm.Abandon()
		vm, err = nil, fmt.Errorf("vm %s: its specification calls it %q", name, vm.Name())
	}
	r.settle(name, vm)
	return vm, err
}

// Get finds a machine.
func (r *Registry) Get(name string) (*VM, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if vm := r.vms[name]; vm != nil {
		return vm, nil
	}
	if _, ok := r.vms[name]; ok {
		return nil, fmt.Errorf("vm %s is being created", name)
	}
	if len(r.vms) == 0 {
		return nil, fmt.Errorf("no vm is called %q: there are none; vm create makes one", name)
	}
	return nil, fmt.Errorf("no vm is called %q; those here: %s", name, strings.Join(r.names(), ", "))
}

func (r *Registry) names() []string {
	var n []string
	for name := range r.vms {
		n = append(n, name)
	}
	slices.Sort(n)
	return n
}

// List is all machines, by name.
func (r *Registry) List() []*VM {
	r.mu.Lock()
	defer r.mu.Unlock()
	var l []*VM
	for _, n := range r.names() {
		if vm := r.vms[n]; vm != nil {
			l = append(l, vm)
		}
	}
	return l
}

// Delete ends a machine that does not run.
func (r *Registry) Delete(name string) error {
	vm, err := r.Get(name)
	if err != nil {
		return err
	}
	if err := vm.Delete(); err != nil && vm.Status() != Deleted {
		return err
	}
	r.Forget(vm)
	return nil
}

// Adopt takes a machine of another registry on this host, as it is.
func (r *Registry) Adopt(vm *VM, from *Registry) error {
	if err := r.reserve(vm.Name()); err != nil {
		return err
	}
	from.Forget(vm)
	r.settle(vm.Name(), vm)
	return nil
}

// Forget gives a deleted or released machine's name free.
func (r *Registry) Forget(vm *VM) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vms[vm.Name()] == vm {
		delete(r.vms, vm.Name())
	}
}

// Close switches all machines off and deletes them.
func (r *Registry) Close() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for _, vm := range r.List() {
		vm.Stop(now)
		r.Delete(vm.Name())
	}
}
