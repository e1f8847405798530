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

// A guest that resets itself in a loop makes events as fast as it boots. All of them
// would wash out the host's log and keep its serial line busy, which is how the host
// is managed: eventBurst are told at once, later ones no faster than one in eventPace.
const (
	eventBurst = 50
	eventPace  = 5 * time.Second
)

type events struct {
	mu     sync.Mutex
	list   []Event
	told   map[uint64]bool // messages that are given once, by a number of their kind
	spent  int             // of eventBurst
	since  time.Time       // when spent was last made less
	untold int             // in a row
}

// event notes something and tells the operator.
func (vm *VM) event(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	now := vm.host.WallClock()
	e := &vm.events
	e.mu.Lock()
	if len(e.list) == keepEvents {
		e.list = slices.Delete(e.list, 0, 1)
	}
	e.list = append(e.list, Event{now, text})
	tell := e.mayTell(now)
	if tell && e.untold > 0 {
		text += fmt.Sprintf(" (%d events before it were not told; `vm show %s` has the last %d)", e.untold, vm.cfg.Name, keepEvents)
		e.untold = 0
	}
	e.mu.Unlock()
	if tell && vm.host.Log != nil {
		vm.host.Log(fmt.Sprintf("vm %s: %s", vm.cfg.Name, text))
	}
}

// mayTell tells whether the operator can bear another event. mu is held.
func (e *events) mayTell(now time.Time) bool {
	if d := now.Sub(e.since); d < 0 || e.spent == 0 {
		e.since = now // the clock was set, or there is nothing to give back
	} else if n := int(d / eventPace); n > 0 {
		e.spent -= min(n, e.spent)
		e.since = e.since.Add(time.Duration(n) * eventPace)
	}
	if e.spent == eventBurst {
		e.untold++
		return false
	}
	e.spent++
	return true
}

// Kinds of messages that are given once.
const (
	tellHalt  = 1 << 40
	tellMSR   = 2 << 40 // and the register's number
	tellWMSR  = 3 << 40
	tellPanic = 4 << 40
	tellHang  = 5 << 40

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
		vm.event("CPU 0 halted with interrupts off: the guest has stopped without powering off")
	}
}
