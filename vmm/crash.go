package vmm

import (
	"sync/atomic"
	"time"
)

// A guest that crashes is reset, if its configuration says so: the first time at once, so that it is back soon; one that
// crashes again and again after ever longer pauses, so that it takes neither a processor nor the host's log.
//
//	              first crash: reset at once
//	            +----+
//	            |    v      crash again                         time is up
//	running: restartNone -----------------> restartWaiting ---------------> running
//	                                        (Status Crashed)
//	                                              |  vm stop, vm reset, vm delete
//	                                              +-----------------------------> restartNone
//
// A machine that a migration has is not reset, since its memory is the migration's. restartOverdue is restartWaiting with
// its time up meanwhile: the migration ends, because a crashed guest can not move, and then the machine is reset.

// restartState is one of the picture.
type restartState uint8

const (
	restartNone restartState = iota
	restartWaiting
	restartOverdue
)

const (
	restartFirst = time.Second     // the pause after the second crash in a row; each later one is twice as long
	restartMost  = 5 * time.Minute // and no longer than this
	restartCalm  = 10 * time.Minute
	// A guest that has run for restartCalm since it booted is well: its next crash is a first one.
)

// restart is guarded by VM.ctl.
type restart struct {
	state    restartState
	crashes  int          // in a row
	bootedAt atomic.Int64 // the machine's clock then; read without ctl, too
	stop     func() bool
	serial   uint64       // of the wait: a timer that fires late has another's
	due      atomic.Int64 // Unix time in ns while waiting, else 0: for whoever only looks, without ctl

	resets int  // by the guest itself, in a row
	untold bool // the last of them was not told, so that what the guest does again is not either
}

// resetCalm is how long a guest must have run for its next reset to be a first one.
const resetCalm = time.Minute

// guestReset does what the guest asked for. One that does nothing but reset itself can do it hundreds of times a second,
// and must not fill the host's log: the 1st, 2nd, 4th, 8th ... in a row are told. ctl is held.
func (vm *VM) guestReset() {
	r := &vm.restart
	if time.Duration(vm.clock.Now()-r.bootedAt.Load()) >= resetCalm {
		r.resets = 0
	}
	r.resets++
	r.untold = r.resets&(r.resets-1) != 0
	switch {
	case r.resets == 1:
		vm.event("the guest reset itself after %v", vm.uptime())
	case !r.untold:
		vm.event("the guest has reset itself %d times in a row, this time after %v; `vm stop %s force` ends that", r.resets, vm.uptime(), vm.cfg.Name)
	}
	vm.reboot()
}

// booted notes that the guest begins anew.
func (vm *VM) booted() { vm.restart.bootedAt.Store(vm.clock.Now()) }

// pauseAfterCrash counts a crash and tells how long to wait.
func (r *restart) pauseAfterCrash(ran time.Duration) time.Duration {
	if ran >= restartCalm {
		r.crashes = 0
	}
	r.crashes++
	if r.crashes == 1 {
		return 0
	}
	d := restartFirst
	for i := 2; i < r.crashes && d < restartMost; i++ {
		d *= 2
	}
	return min(d, restartMost)
}

// crashed decides what follows a crash. ctl is held, no processor runs, the status is Running.
func (vm *VM) crashed() {
	r := &vm.restart
	r.untold = false
	if vm.cfg.OnCrash != "reset" {
		vm.become(Crashed)
		return
	}
	d := r.pauseAfterCrash(time.Duration(vm.clock.Now() - r.bootedAt.Load()))
	if d == 0 {
		vm.event("crashed: it is reset, as its configuration says")
		vm.reboot()
		return
	}
	vm.become(Crashed)
	r.state = restartWaiting
	r.due.Store(vm.host.WallClock().Add(d).UnixNano())
	r.serial++
	serial := r.serial
	r.stop = vm.host.after(d, func() { vm.restartNow(serial) })
	vm.event("crashed %d times in a row: it is reset in %v, as its configuration says; `vm reset %s` does it now, `vm stop %s` ends it", r.crashes, d, vm.cfg.Name, vm.cfg.Name)
}

// restartNow is the timer's.
func (vm *VM) restartNow(serial uint64) {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	r := &vm.restart
	if r.state != restartWaiting || r.serial != serial {
		return // called off meanwhile
	}
	if vm.taken {
		r.state = restartOverdue
		return
	}
	vm.restartOf(r)
}

// restartOf resets the machine. ctl is held.
func (vm *VM) restartOf(r *restart) {
	r.state = restartNone
	r.due.Store(0)
	if vm.Status() != Crashed {
		return
	}
	vm.event("reset after its crash")
	vm.reboot()
}

// restartIfOverdue does what waited for the end of a migration. ctl is held.
func (vm *VM) restartIfOverdue() {
	if vm.restart.state == restartOverdue {
		vm.restartOf(&vm.restart)
	}
}

// dontRestart calls a reset off that waits, and forgets the crashes: the operator has taken over. ctl is held.
func (vm *VM) dontRestart() {
	r := &vm.restart
	if r.state == restartWaiting {
		r.stop()
	}
	r.state, r.crashes, r.resets, r.untold = restartNone, 0, 0, false
	r.due.Store(0)
}

// resetIn is in how many seconds a crashed machine is reset; nil: not at all.
func (vm *VM) resetIn() *float64 {
	due := vm.restart.due.Load()
	if due == 0 {
		return nil
	}
	s := max(0, time.Duration(due-vm.host.WallClock().UnixNano()).Seconds())
	return &s
}

// after calls f once d has passed.
func (h *Host) after(d time.Duration, f func()) (stop func() bool) {
	if h.After != nil {
		return h.After(d, f)
	}
	return time.AfterFunc(d, f).Stop
}
