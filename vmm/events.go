package vmm

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// An Event is something the operator should know about a machine.
type Event struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// keepEvents is how many a machine remembers.
const keepEvents = 32

type events struct {
	mu   sync.Mutex
	list []Event
	told map[uint64]bool // messages that are given once, by a number of their kind
}

// event notes something and tells the operator.
func (vm *VM) event(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	vm.events.mu.Lock()
	if len(vm.events.list) == keepEvents {
		vm.events.list = slices.Delete(vm.events.list, 0, 1)
	}
	vm.events.list = append(vm.events.list, Event{vm.host.WallClock(), text})
	vm.events.mu.Unlock()
	if vm.host.Log != nil {
		vm.host.Log(fmt.Sprintf("vm %s: %s", vm.cfg.Name, text))
	}
}

// Kinds of messages that are given once.
const (
	tellHalt  = 1 << 40
	tellMSR   = 2 << 40 // and the register's number
	tellWMSR  = 3 << 40
	tellPanic = 4 << 40

	tellCrashKernel = 6 << 40
)

// maxTold bounds how many registers a guest can make us remember.
const maxTold = 256

// first tells whether a message that a guest could repeat for ever is new.
func (vm *VM) first(key uint64) bool {
	vm.events.mu.Lock()
	defer vm.events.mu.Unlock()
	kind := key &^ 0xffffffff
	if vm.events.told[key] || len(vm.events.told) >= maxTold && (kind == tellMSR || kind == tellWMSR) {
		return false
	}
	vm.events.told[key] = true
	return true
}

// Events are the last ones.
func (vm *VM) Events() []Event {
	vm.events.mu.Lock()
	defer vm.events.mu.Unlock()
	return slices.Clone(vm.events.list)
}

// unknownMSR counts an access of a register that does not exist and notes the
// first of each.
func (vm *VM) unknownMSR(c *cpu, msr uint32, write bool) {
	c.stats.badMSR.Add(1)
	key, verb := uint64(tellMSR), "reads"
	if write {
		key, verb = tellWMSR, "writes"
	}
	if !vm.host.Quiet && vm.first(key|uint64(msr)) {
		vm.event("the guest %s MSR %#x, which this CPU model does not have: it got #GP", verb, msr)
	}
}

// haltedForGood: a processor that halted with interrupts off goes on only for an
// NMI or INIT; for the boot processor that is the guest's end.
func (vm *VM) haltedForGood(c *cpu) {
	if c.index == 0 && vm.first(tellHalt) {
		vm.event("CPU 0 halted with interrupts off: the guest has stopped without powering off; `vm reset %s` starts it again", vm.cfg.Name)
	}
}
